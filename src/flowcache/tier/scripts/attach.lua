#!lua flags=allow-oom
-- Join the members that follow a bucket, and give what was missed since an entry of the log
-- (rules 10, 11). Called when the subscription is confirmed.
-- KEYS members log
-- ARGV member birth last
local replid, role = primary()
if not replid then return {'hidden'} end
local birth = redis.call('HGET', KEYS[1], 'birth')
if not birth then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'birth', ARGV[2])
  birth = ARGV[2]
end
redis.call('HSET', KEYS[1], ARGV[1], text(clock()))
if ARGV[3] ~= '' and #redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3]) == 1 then
  return {'replay', replid, role, birth, ARGV[3], redis.call('XRANGE', KEYS[2], '(' .. ARGV[3], '+')}
end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local id
if #newest == 1 then
  id = newest[1][1]
else
  id = redis.call('XADD', KEYS[2], '*', 'm', '')
end
return {'clear', replid, role, birth, id}
