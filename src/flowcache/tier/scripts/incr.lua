#!lua
-- Add to a counter, which begins as the default. The server's own INCRBY counts, to 64 bits.
-- KEYS value unit root lease log
-- ARGV fresh keep bus message key | operation delta default ttl window rest most
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local unit = open_record(KEYS[2], ARGV[1], ARGV[2], replid, now, true)
local root = open_record(KEYS[3], ARGV[1], ARGV[2], replid, now, false)
local data = redis.call('GET', KEYS[1])
local held = judge(data, unit, root, ARGV[5], now)
local begins = ARGV[8]
if held and held.fresh then
  if held.header.codec ~= '\0int' then
    return {'other', replid}
  end
  begins = string.sub(data, held.header.body)
end
if not (held and held.fresh) and too_many(unit, ARGV[12], now) then
  return {'bounded', replid}
end
redis.call('SET', KEYS[1], begins)
local counted = redis.pcall('INCRBY', KEYS[1], ARGV[7])
if type(counted) == 'table' and counted.err then
  if held then
    rewrite(KEYS[1], unit, held, string.sub(data, FIXED_SIZE + 1))
  else
    redis.call('DEL', KEYS[1])
  end
  if string.find(counted.err, 'range', 1, true) or string.find(counted.err, 'overflow', 1, true) then
    return {'range', replid}
  end
  return counted  -- This user may not call INCRBY.
end
counted = redis.call('GET', KEYS[1])
unlink(KEYS[4], ARGV[3], '')
if held and held.fresh then
  held.operation = ARGV[6]
  rewrite(KEYS[1], unit, held, string.sub(data, FIXED_SIZE + 1, held.header.body - 1) .. counted)
else
  write(KEYS[1], unit, root, unit.s, root.s, ARGV[6],
    tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11] .. counted, now)
end
announce(KEYS[5], ARGV[3], ARGV[4])
return {'counted', replid, counted}
