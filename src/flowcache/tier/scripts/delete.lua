#!lua flags=allow-oom
-- Remove a value, and return it if it was fresh; a running load cannot store after it.
-- KEYS value unit root lease log
-- ARGV fresh keep bus message key | give
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local unit = open_record(KEYS[2], ARGV[1], ARGV[2], replid, now, true)
local root = open_record(KEYS[3], ARGV[1], ARGV[2], replid, now, false)
local data = redis.call('GET', KEYS[1])
local held = judge(data, unit, root, ARGV[5], now)
redis.call('DEL', KEYS[1])
unlink(KEYS[4], ARGV[3], '')
announce(KEYS[5], ARGV[3], ARGV[4])
local fresh = held and held.fresh
return {fresh and 'held' or 'missing', replid, fresh and ARGV[6] == '1' and data or ''}
