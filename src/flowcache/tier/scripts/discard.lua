#!lua flags=allow-oom
-- Remove a value that cannot be read, if it is still the same.
-- KEYS value
-- ARGV sha1
local data = redis.call('GET', KEYS[1])
if data and redis.sha1hex(data) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
