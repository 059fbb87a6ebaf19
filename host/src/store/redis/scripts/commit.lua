-- Applies each batch whose conditions hold, all in one atomic step.
--
-- KEYS  the values that are put, then the indexes that are put into, then all others
-- ARGV  the number of values that are put, the number of indexes, 'check' unless the
--       script is known to be permitted to write; then for each batch the number of its
--       conditions, each one with the number of its alternatives, and the number of its
--       operations. An alternative or operation is a name, the number of a key, and the
--       arguments of the functions below.
-- Returns 1 for each batch that was applied, 0 for the others. Within a quota,
-- `ledger.lua` precedes this script and has removed its arguments from the ends of KEYS
-- and ARGV; the name of a limit then means that the limit would be exceeded and nothing
-- was written. Without a quota `ledger` is nil.

-- Redis does not roll back a script that fails, so everything that could fail is checked
-- first.
if ARGV[3] == 'check' and KEYS[1] then
  local refused = forbidden_to_write(KEYS[1]) or ledger and ledger.forbidden()
  if refused then return refused end
end

local put, indexes = tonumber(ARGV[1]), tonumber(ARGV[2])
local wrong_type
for i = 1, put + indexes do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= (i <= put and 'string' or 'zset') then
    wrong_type = redis.error_reply('WRONGTYPE ' .. kind)
    -- It is no error if the conditions of all batches with operations fail.
    if i > put then return wrong_type end
  end
end

local at = 3
local function take()
  at = at + 1
  return ARGV[at]
end

local conditions = {
  ['absent'] = function(key)
    return deleted[key] or redis.call('EXISTS', key) == 0
  end,
  ['starts-with'] = function(key)
    local text = take()
    -- GETRANGE can't read zero bytes.
    if text == '' then return not deleted[key] and redis.call('TYPE', key).ok == 'string' end
    -- For a key of another type GETRANGE returns an error, which differs from any text.
    return redis.pcall('GETRANGE', key, 0, #text - 1) == text
  end,
  ['index-size-at-most'] = function(key)
    local max, size = tonumber(take()), deleted[key] and 0 or redis.pcall('ZCARD', key)
    return type(size) == 'number' and size <= max
  end,
  ['index-has'] = function(key)
    return type(redis.pcall('ZSCORE', key, take())) == 'string'
  end,
  ['index-max'] = function(key)
    local value_key_prefix, excluding = take(), {}
    for _ = 1, take() do excluding[take()] = true end
    local wanted = take() == 'one' and take()
    return index_max(key, value_key_prefix, excluding, wanted, tonumber(take()), take())
  end,
}

-- Each returns whether it has deleted the key.
local operations = {
  ['put'] = put_value,
  ['delete'] = function(key)
    if not deleted[key] then redis.call('UNLINK', key) end
    return true
  end,
  ['index-put'] = put_into_index,
  ['index-delete'] = function(key, member)
    if deleted[key] then return true end
    -- A key of another type has no members.
    local size = redis.pcall('ZCARD', key)
    return redis.pcall('ZREM', key, member) == 1 and size == 1
  end,
  ['expire'] = function(key, expiry, mode)
    if deleted[key] then return true end
    local ttl = redis.call('PTTL', key)
    if mode == 'set' and expiry ~= 'never' then
      redis.call('PEXPIRE', key, expiry)
    elseif ttl ~= -2 then
      extend_ttl(key, expiry, ttl)
    end
  end,
}

-- The number of arguments of each operation after its key.
local lengths = { ['put'] = 2, ['delete'] = 0, ['index-put'] = 3, ['index-delete'] = 1, ['expire'] = 2 }

-- The name, the key and the arguments of the next operation. An operation with fewer
-- than three arguments ignores the rest.
local function take_operation()
  local name, key, first = take(), KEYS[tonumber(take())], at + 1
  at = at + lengths[name]
  return name, key, ARGV[first], ARGV[first + 1], ARGV[first + 2]
end

-- Whether the conditions of the next batch hold, and their number.
local function conditions_hold()
  local all, count = true, tonumber(take())
  for _ = 1, count do
    local any = false
    for _ = 1, take() do
      local condition = conditions[take()]
      any = condition(KEYS[tonumber(take())]) or any
    end
    all = all and any
  end
  return all, count
end

-- The limit that the next operations and the later batches would exceed, if any. A later
-- batch with conditions may or may not be applied: its additions count, its deletions do
-- not.
local exceeded = ledger and function()
  if put + indexes == 0 then return nil end
  local start, is_certain = at, true
  while at < #ARGV do
    if at > start then is_certain = select(2, conditions_hold()) == 0 end
    for _ = 1, take() do ledger.project(is_certain, take_operation()) end
  end
  at = start
  return ledger.exceeded()
end

local applied = {}
while at < #ARGV do
  local apply = conditions_hold()
  if apply and wrong_type and tonumber(ARGV[at + 1]) > 0 then return wrong_type end
  if ledger and apply and not is_written then
    local limit = exceeded()
    if limit then return limit end
  end
  is_written = is_written or apply
  for _ = 1, take() do
    local name, key, a, b, c = take_operation()
    if apply then deleted[key] = operations[name](key, a, b, c) end
    -- A new expiry changes no size.
    if ledger and apply and name ~= 'expire' then ledger.touch(key) end
  end
  applied[#applied + 1] = apply and 1 or 0
end
if ledger then ledger.record(deleted) end
return applied
