#!lua flags=allow-oom
-- Strike members from the list that were not heard of for a whole lease, if they have not joined
-- again since (rule 11).
-- KEYS members
-- ARGV member mark ...
local struck = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    struck = struck + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return struck
