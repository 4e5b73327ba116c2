#!lua flags=allow-oom
-- End a value's freshness now; without a stale window it is removed. A running load is fenced.
-- KEYS value unit root lease log
-- ARGV fresh keep bus message key
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local unit = open_record(KEYS[2], ARGV[1], ARGV[2], replid, now, true)
local root = open_record(KEYS[3], ARGV[1], ARGV[2], replid, now, false)
local held = judge(redis.call('GET', KEYS[1]), unit, root, ARGV[5], now)
unlink(KEYS[4], ARGV[3], '')
announce(KEYS[5], ARGV[3], ARGV[4])
if not held then
  return {'missing', replid}
end
if held.fresh then
  local window = held.deadline == 0 and 0 or held.last - held.deadline
  held.deadline = math.floor(now / 1000)
  held.last = held.deadline + window
  rewrite(KEYS[1], unit, held, string.sub(held.data, FIXED_SIZE + 1))
end
return {held.fresh and 'held' or 'stale', replid}
