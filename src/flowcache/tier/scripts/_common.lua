-- Shared by all scripts. Numbers of records are the server's microseconds or a little more, so they
-- fit a double; they are written in decimal. Rules are numbered as in the package's docstring.

local MAGIC = 'fc1\1'
local FIXED = '>c4c16c16c16ddddd'
local FIXED_SIZE = 92
local HEADER = '>c4BBBHI4I4I4'
local HEADER_SIZE = 21
local MARK = 12
local RECORD_LIFE = 600000
local LOG_LENGTH = 4096
local CHUNK = 1000

local function text(number)
  return string.format('%.0f', number)
end

local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

-- The identity of the history that this server writes, which changes with each promotion and each
-- restart from a dump; and its role.
local function primary()
  local info = redis.call('INFO', 'replication')
  return string.match(info, 'master_replid:(%x+)'), string.match(info, 'role:(%a+)')
end

-- Rule 2: a record that is missing, or bound to another history, is a new one.
local function open_record(key, fresh, keep, replid, now, life)
  local held = redis.call('HMGET', key, 'i', 'p', 's', 'f', 'q')
  if held[1] and held[3] and held[4] then
    if held[2] == replid or keep == '1' then
      if held[2] ~= replid then
        redis.call('HSET', key, 'p', replid)
      end
      return {key = key, i = held[1], s = tonumber(held[3]), f = tonumber(held[4]), q = held[5] or ''}
    end
  end
  redis.call('DEL', key)
  redis.call('HSET', key, 'i', fresh, 'p', replid, 's', text(now), 'f', '0')
  if life then
    redis.call('PEXPIRE', key, RECORD_LIFE)
  end
  return {key = key, i = fresh, s = now, f = 0, q = ''}
end

-- Return the highest of some markers of a record, 0 without one.
local function highest(record, fields)
  local most = 0
  for first = 1, #fields, CHUNK do
    local found = redis.call(
      'HMGET', record.key, unpack(fields, first, math.min(first + CHUNK - 1, #fields)))
    for i = 1, #found do
      if found[i] and tonumber(found[i]) > most then
        most = tonumber(found[i])
      end
    end
  end
  return most
end

-- Tell whether one of a record's listed invalidations, of prefixes and of several tags at once,
-- is above a number and covers a value. An item: kind, number, path, length, data.
local function listed(record, number, marks, own, tags, key)
  local at, list = 1, record.q
  while at <= #list do
    local kind = string.sub(list, at, at)
    local when = tonumber(string.sub(list, at + 1, at + 16))
    local path = string.sub(list, at + 17, at + 28)
    local size = tonumber(string.sub(list, at + 29, at + 36), 16)
    local data = string.sub(list, at + 37, at + 36 + size)
    at = at + 37 + size
    if when > number then
      if kind == 'p' then
        if path == own and string.sub(key, 1, 1) == 'S'
            and string.sub(key, 2, 1 + size) == data then
          return true
        end
      else
        local here = false
        for i = 1, #marks do
          here = here or marks[i] == path
        end
        for first = 1, size, MARK do
          here = here and tags[string.sub(data, first, first + MARK - 1)]
        end
        if here then
          return true
        end
      end
    end
  end
  return false
end

-- Take apart what a client wrote: the header, at a position in a value.
local function parse_header(data, at)
  local codec, _, roots, units, tagged, identity, tagbytes =
    struct.unpack(HEADER, data, at)
  local header = {codec = codec, root = {}, unit = {}, tags = {}, own = nil}
  at = at + HEADER_SIZE
  local function take(into, count)
    for i = 1, count do
      into[i] = string.sub(data, at, at + MARK - 1)
      at = at + MARK
    end
  end
  take(header.root, roots)
  take(header.unit, units)
  take(header.tags, tagged)
  header.own = header.unit[units] or header.root[roots]
  header.body = at + identity + tagbytes
  header.has = {}
  for i = 1, tagged do
    header.has[header.tags[i]] = true
  end
  return header
end

local function fields_of(marks, tags)
  local hard, soft = {}, {}
  for i = 1, #marks do
    hard[#hard + 1] = 'c' .. marks[i]
    for j = 1, #tags do
      hard[#hard + 1] = 't' .. marks[i] .. tags[j]
      soft[#soft + 1] = 'x' .. marks[i] .. tags[j]
    end
  end
  return hard, soft
end

-- Rule 4, for one record. Return whether a value of this number is void, and the soft marker above
-- it.
local function judge_record(record, number, marks, header, key)
  if number < record.f then
    return true, 0
  end
  local hard, soft = fields_of(marks, header.tags)
  if highest(record, hard) > number or listed(record, number, marks, header.own, header.has, key) then
    return true, 0
  end
  local softened = highest(record, soft)
  return false, softened > number and softened or 0
end

-- Return the value that is held if it is valid and may still be used, with its effective deadlines.
local function judge(data, unit, root, key, now)
  if not data or #data < FIXED_SIZE + HEADER_SIZE or string.sub(data, 1, 4) ~= MAGIC then
    return nil
  end
  local held = {data = data}
  local _
  _, held.unit, held.root, held.operation, held.unit_number, held.root_number, held.deadline,
    held.last, held.ttl = struct.unpack(FIXED, data)
  if held.unit ~= unit.i or held.root ~= root.i then
    return nil
  end
  held.header = parse_header(data, FIXED_SIZE + 1)
  local void, soft = judge_record(unit, held.unit_number, held.header.unit, held.header, key)
  if void then
    return nil
  end
  local also
  void, also = judge_record(root, held.root_number, held.header.root, held.header, key)
  if void then
    return nil
  end
  -- It is stale at any time of the clock: a record's numbers may be ahead of it.
  soft = math.floor(math.min(math.max(soft, also), now) / 1000)
  if soft > 0 and (held.deadline == 0 or soft < held.deadline) then
    held.last = held.deadline == 0 and soft or soft + held.last - held.deadline
    held.deadline = soft
  end
  if held.deadline ~= 0 and held.last <= now / 1000 then
    return nil
  end
  held.fresh = held.deadline == 0 or held.deadline > now / 1000
  return held
end

-- Write a value under the records as they were when its load began. Return its deadline.
local function write(key, unit, root, unit_number, root_number, operation, ttl, window, rest, now)
  local deadline, last = 0, 0
  if ttl > 0 then
    deadline = math.floor(now / 1000) + ttl
    last = deadline + window
  end
  local data = struct.pack(FIXED, MAGIC, unit.i, root.i, operation, unit_number, root_number,
    deadline, last, ttl) .. rest
  if ttl > 0 then
    redis.call('SET', key, data, 'PX', text(ttl + window))
    redis.call('PEXPIRE', unit.key, text(ttl + window + RECORD_LIFE), 'GT')
  else
    redis.call('SET', key, data)
    redis.call('PERSIST', unit.key)
  end
  return deadline
end

-- Write a value that is held anew, with other deadlines or another body.
local function rewrite(key, unit, held, body)
  local data = struct.pack(FIXED, MAGIC, held.unit, held.root, held.operation, held.unit_number,
    held.root_number, held.deadline, held.last, held.ttl) .. body
  if held.deadline == 0 then
    redis.call('SET', key, data)
    redis.call('PERSIST', unit.key)
  else
    local life = held.last - math.floor(clock() / 1000)
    if life < 1 then
      redis.call('DEL', key)
      return
    end
    redis.call('SET', key, data, 'PX', text(life))
    redis.call('PEXPIRE', unit.key, text(life + RECORD_LIFE), 'GT')
  end
end

-- Write a message into the log and publish it, in one step. Return its id.
local function announce(log, bus, message)
  local id = redis.call('XADD', log, 'MAXLEN', '~', LOG_LENGTH, '*', 'm', message)
  redis.call('SPUBLISH', bus, id .. ' ' .. message)
  return id
end

-- Unlink a lease, and tell its waiters if it is contended.
local function unlink(key, bus, message)
  local lease = redis.call('GET', key)
  if lease then
    redis.call('DEL', key)
    if message ~= '' and string.sub(lease, 81, 81) == '!' then
      redis.call('SPUBLISH', bus, '- ' .. message)
    end
  end
end

-- Count a store of a unit in this second of the server's clock; true beyond the bound, 0 for none.
local function too_many(unit, most, now)
  most = tonumber(most)
  if most == 0 then
    return false
  end
  local second = text(math.floor(now / 1000000))
  local held = redis.call('HMGET', unit.key, 'w', 'n')
  local count = held[1] == second and tonumber(held[2]) or 0
  if count >= most then
    return true
  end
  redis.call('HSET', unit.key, 'w', second, 'n', count + 1)
  return false
end
