#!lua
-- Renew a lease that is still one's own.
-- KEYS lease unit
-- ARGV token life
local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, 16) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[2], RECORD_LIFE, 'GT')
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
