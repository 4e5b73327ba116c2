#!lua flags=allow-oom
-- Write, so that WAIT has something to confirm; return the history and the role (rules 7, 9).
-- KEYS beat
local info = redis.call('INFO', 'replication')
redis.call('SET', KEYS[1], text(clock()), 'PX', 60000)
return {string.match(info, 'master_replid:(%x+)') or '', string.match(info, 'role:(%a+)') or '',
  tonumber(string.match(info, 'connected_slaves:(%d+)') or '0')}
