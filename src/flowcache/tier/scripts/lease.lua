#!lua
-- Look at a value again; without a fresh one, grant the lease or report a wait (rule 5).
-- KEYS value unit root lease log
-- ARGV fresh keep bus message key | token life force contend
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local unit = open_record(KEYS[2], ARGV[1], ARGV[2], replid, now, true)
local root = open_record(KEYS[3], ARGV[1], ARGV[2], replid, now, false)
if ARGV[8] ~= '1' then
  local data = redis.call('GET', KEYS[1])
  local held = judge(data, unit, root, ARGV[5], now)
  if held and held.fresh then
    return {'hit', replid, text(held.deadline), text(held.last), text(math.floor(now / 1000)), data}
  end
end
local lease = redis.call('GET', KEYS[4])
local flag = ''
if lease then
  if string.sub(lease, 1, 16) ~= ARGV[6] then
    if ARGV[9] == '1' and #lease == 80 then
      redis.call('SET', KEYS[4], lease .. '!', 'KEEPTTL')
    end
    return {'wait', replid, redis.call('PTTL', KEYS[4])}
  end
  flag = string.sub(lease, 81, 81)
  if string.sub(lease, 17, 32) == unit.i and string.sub(lease, 33, 48) == root.i then
    redis.call('PEXPIRE', KEYS[4], ARGV[7])
    redis.call('PEXPIRE', KEYS[2], RECORD_LIFE, 'GT')
    return {'lead', replid, string.sub(lease, 17, 80)}
  end
end
local grant = unit.i .. root.i .. string.format('%016.0f%016.0f', unit.s, root.s)
redis.call('SET', KEYS[4], ARGV[6] .. grant .. flag, 'PX', ARGV[7])
redis.call('PEXPIRE', KEYS[2], RECORD_LIFE, 'GT')
return {'lead', replid, grant}
