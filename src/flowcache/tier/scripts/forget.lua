#!lua flags=allow-oom
-- Suspect members that were not heard of for a whole lease, and strike those that were suspect then
-- and are so still (rule 11). One that joined again since has another mark.
-- KEYS members
-- ARGV member mark ...
local struck = 0
for i = 1, #ARGV, 2 do
  local member, mark = ARGV[i], ARGV[i + 1]
  if redis.call('HGET', KEYS[1], member) == mark then
    if string.sub(mark, -1) == '?' then
      struck = struck + redis.call('HDEL', KEYS[1], member)
    else
      redis.call('HSET', KEYS[1], member, mark .. '?')
    end
  end
end
return struck
