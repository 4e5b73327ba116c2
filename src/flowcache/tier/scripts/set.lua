#!lua
-- Store a value over any other; a running load cannot store after it.
-- KEYS value unit root lease log
-- ARGV fresh keep bus message key | operation ttl window rest most
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local unit = open_record(KEYS[2], ARGV[1], ARGV[2], replid, now, true)
local root = open_record(KEYS[3], ARGV[1], ARGV[2], replid, now, false)
unlink(KEYS[4], ARGV[3], '')
if too_many(unit, ARGV[10], now) then
  redis.call('DEL', KEYS[1])
  announce(KEYS[5], ARGV[3], ARGV[4])
  return {'bounded', replid}
end
local deadline = write(KEYS[1], unit, root, unit.s, root.s, ARGV[6],
  tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], now)
announce(KEYS[5], ARGV[3], ARGV[4])
return {'stored', replid, text(deadline), text(math.floor(now / 1000))}
