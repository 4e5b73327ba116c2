#!lua flags=allow-oom
-- Give a lease back that led to no value.
-- KEYS lease
-- ARGV token bus message
local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, 16) ~= ARGV[1] then
  return 0
end
unlink(KEYS[1], ARGV[2], ARGV[3])
return 1
