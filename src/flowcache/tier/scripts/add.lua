#!lua
-- Store a value if none is held that is fresh.
-- KEYS value unit root lease log
-- ARGV fresh keep bus message key | operation ttl window rest most
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local unit = open_record(KEYS[2], ARGV[1], ARGV[2], replid, now, true)
local root = open_record(KEYS[3], ARGV[1], ARGV[2], replid, now, false)
local data = redis.call('GET', KEYS[1])
local held = judge(data, unit, root, ARGV[5], now)
if held and held.fresh then
  return {'held', replid, text(held.deadline), text(math.floor(now / 1000)), text(held.last), data}
end
if too_many(unit, ARGV[10], now) then
  return {'bounded', replid}
end
unlink(KEYS[4], ARGV[3], ARGV[4])
local deadline = write(KEYS[1], unit, root, unit.s, root.s, ARGV[6],
  tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], now)
return {'stored', replid, text(deadline), text(math.floor(now / 1000))}
