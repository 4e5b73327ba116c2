#!lua flags=allow-oom
-- Write one marker for all that an invalidation covers, and tell the fleet (rules 4, 11).
-- KEYS record log members
-- ARGV fresh keep bus message unit most items item fleet field...
local replid = primary()
if not replid then return {'hidden'} end
local now = clock()
local record = open_record(KEYS[1], ARGV[1], ARGV[2], replid, now, ARGV[5] == '1')
local number = math.max(record.s + 1, now)
local written = text(number)
redis.call('HSET', KEYS[1], 's', written)
for i = 10, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[i], written)
end
if ARGV[8] ~= '' then
  -- An item: kind, number, path, length, data; the number is put in here.
  local list = record.q .. string.sub(ARGV[8], 1, 1) .. string.format('%016.0f', number)
    .. string.sub(ARGV[8], 2)
  local at, count, paths = 1, 0, {}
  while at <= #list do
    count = count + 1
    paths[string.sub(list, at + 17, at + 28)] = true
    at = at + 37 + tonumber(string.sub(list, at + 29, at + 36), 16)
  end
  if count > tonumber(ARGV[7]) then
    list = ''
    for path in pairs(paths) do
      redis.call('HSET', KEYS[1], 'c' .. path, written)
    end
  end
  redis.call('HSET', KEYS[1], 'q', list)
end
-- Beyond the bound the older half of the markers goes and the floor rises to the highest of them.
-- What is left of that height tells no more than the floor does: one call may name any number of tags.
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[6]) + 5 then
  local all, markers = redis.call('HGETALL', KEYS[1]), {}
  for i = 1, #all, 2 do
    if #all[i] > 1 then
      markers[#markers + 1] = {all[i], tonumber(all[i + 1])}
    end
  end
  table.sort(markers, function(a, b) return a[2] < b[2] end)
  local floor = math.max(record.f, markers[math.floor(#markers / 2)][2])
  for i = 1, #markers do
    if markers[i][2] <= floor then
      redis.call('HDEL', KEYS[1], markers[i][1])
    end
  end
  redis.call('HSET', KEYS[1], 'f', text(floor))
end
if ARGV[5] == '1' then
  redis.call('PEXPIRE', KEYS[1], RECORD_LIFE, 'GT')
end
local id = announce(KEYS[2], ARGV[3], ARGV[4])
if ARGV[9] ~= '1' then
  return {'marked', replid, id}
end
return {'marked', replid, id, redis.call('HGET', KEYS[3], 'birth') or '', redis.call('HGETALL', KEYS[3])}
