#!lua
-- Give a fresh value another TTL; it keeps its incarnation, its number and its stale window.
-- KEYS value unit root lease log
-- ARGV fresh keep bus message key | ttl
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local unit = open_record(KEYS[2], ARGV[1], ARGV[2], replid, now, true)
local root = open_record(KEYS[3], ARGV[1], ARGV[2], replid, now, false)
local held = judge(redis.call('GET', KEYS[1]), unit, root, ARGV[5], now)
announce(KEYS[5], ARGV[3], ARGV[4])
if not held or not held.fresh then
  return {'missing', replid}
end
local window = held.deadline == 0 and 0 or held.last - held.deadline
local ttl = tonumber(ARGV[6])
held.ttl = ttl
held.deadline = ttl == 0 and 0 or math.floor(now / 1000) + ttl
held.last = ttl == 0 and 0 or held.deadline + window
rewrite(KEYS[1], unit, held, string.sub(held.data, FIXED_SIZE + 1))
return {'held', replid}
