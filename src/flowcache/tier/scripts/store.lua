#!lua
-- Store what was loaded, if the lease and all that it was granted under still stand (rules 4, 5).
-- KEYS value unit root lease log
-- ARGV fresh keep bus message key | token grant ttl window rest drop release most
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local unit = open_record(KEYS[2], ARGV[1], ARGV[2], replid, now, true)
local root = open_record(KEYS[3], ARGV[1], ARGV[2], replid, now, false)
local lease = redis.call('GET', KEYS[4])
if not lease or string.sub(lease, 1, 80) ~= ARGV[6] .. ARGV[7] then
  return {'refused', replid, 'lease'}
end
unlink(KEYS[4], ARGV[3], ARGV[12])
local grant = ARGV[7]
if string.sub(grant, 1, 16) ~= unit.i or string.sub(grant, 17, 32) ~= root.i then
  return {'refused', replid, 'incarnation'}
end
local numbers = {tonumber(string.sub(grant, 33, 48)), tonumber(string.sub(grant, 49, 64))}
local header = parse_header(ARGV[10], 1)
local void, soft = judge_record(unit, numbers[1], header.unit, header, ARGV[5])
local also, softened = judge_record(root, numbers[2], header.root, header, ARGV[5])
if void or also or soft > 0 or softened > 0 then
  return {'refused', replid, 'invalidated'}
end
if too_many(unit, ARGV[13], now) then
  redis.call('DEL', KEYS[1])
  if ARGV[11] == '1' then
    announce(KEYS[5], ARGV[3], ARGV[4])
  end
  return {'bounded', replid}
end
local deadline = write(KEYS[1], unit, root, numbers[1], numbers[2], string.rep('0', 16),
  tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], now)
if ARGV[11] == '1' then
  announce(KEYS[5], ARGV[3], ARGV[4])
end
return {'stored', replid, text(deadline), text(math.floor(now / 1000))}
