-- Applies batches: each one whose conditions hold, all in one atomic step.
--
-- KEYS  those that are put, then the indexes that are put into, then all others
-- ARGV  how many are put, how many are of indexes, how many batches there are,
--       'check' if it is not yet known that the user may write; then for each
--       batch the number of its conditions, each one the number of its
--       alternatives, and the number of its operations. An alternative or
--       operation is a name, the number of a key, and what the functions below
--       take.
-- Gives 1 for each batch that was applied, 0 for the others. Within a quota,
-- `ledger.lua` stands before this and has taken what is its own off the ends of
-- KEYS and ARGV; then the name of a limit says that it would be exceeded, and
-- that nothing was written. Otherwise there is no ledger.

-- Redis does not take back what a script wrote before it failed, so whatever
-- could fail is looked at first.
if ARGV[4] == 'check' and KEYS[1] then
  local refused = forbidden_to_write(KEYS[1]) or ledger and ledger.forbidden()
  if refused then return refused end
end

local put, indexes, batches = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local wrong_type
for i = 1, put + indexes do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= (i <= put and 'string' or 'zset') then
    wrong_type = redis.error_reply('WRONGTYPE ' .. kind)
    -- A single batch may still be refused by its conditions.
    if i > put or batches > 1 then return wrong_type end
  end
end

local at = 4
local function take()
  at = at + 1
  return ARGV[at]
end

-- How many entries of an index `index-highest` looks at, in steps.
local LOOKED_AT, STEP = 1000, 50

-- What was removed here. While a cluster moves keys to another server, every
-- command fails that names one which is not here, and would leave half of a
-- commit. All of KEYS are here in the beginning, or the script is not run. To put
-- something where it was just removed would fail so; the component never does.
local gone, is_written = {}, false

local conditions = {
  ['absent'] = function(key)
    return gone[key] or redis.call('EXISTS', key) == 0
  end,
  ['starts-with'] = function(key)
    local text = take()
    -- GETRANGE can't ask for no bytes.
    if text == '' then return not gone[key] and redis.call('TYPE', key).ok == 'string' end
    -- A key of another type gives an error here, which equals no text.
    return redis.pcall('GETRANGE', key, 0, #text - 1) == text
  end,
  ['index-at-most'] = function(key)
    local most, size = tonumber(take()), gone[key] and 0 or redis.pcall('ZCARD', key)
    return type(size) == 'number' and size <= most
  end,
  ['index-has'] = function(key)
    return type(redis.pcall('ZSCORE', key, take())) == 'string'
  end,
  ['index-highest'] = function(key)
    local values_at, besides = take(), {}
    for _ = 1, take() do besides[take()] = true end
    local wanted = take() == 'one' and take()
    local score, bound = tonumber(take()), take()
    if gone[key] then return not wanted end
    for start = 0, LOOKED_AT - 1, STEP do
      local entries = redis.pcall('ZRANGE', key, start, start + STEP - 1, 'REV', 'WITHSCORES')
      if entries.err then return false end
      for i = 1, #entries, 2 do
        local member, at = entries[i], tonumber(entries[i + 1])
        local named = values_at .. member
        local there = (besides[member] or gone[named]) and 0 or redis.pcall('EXISTS', named)
        if there == 1 then
          return member == wanted and (at < score or at == score and not before(bound, member))
        elseif there ~= 0 then
          -- It is none of KEYS, and so it may be elsewhere.
          if is_written then return false end
          error(there)
        end
      end
      if #entries < 2 * STEP then return not wanted end
    end
    return false
  end,
}

-- Each gives whether the key is gone by it.
local operations = {
  ['put'] = put_value,
  ['delete'] = function(key)
    if not gone[key] then redis.call('UNLINK', key) end
    return true
  end,
  ['index-put'] = put_into_index,
  ['index-delete'] = function(key, member)
    if gone[key] then return true end
    -- A key of another type has no members.
    local size = redis.pcall('ZCARD', key)
    return redis.pcall('ZREM', key, member) == 1 and size == 1
  end,
  ['expire'] = function(key, expiry, mode)
    if gone[key] then return true end
    local left = redis.call('PTTL', key)
    if mode == 'set' and expiry ~= 'never' then
      redis.call('PEXPIRE', key, expiry)
    elseif left ~= -2 then
      prolong(key, expiry, left)
    end
  end,
}

-- How many arguments each operation has behind its key.
local lengths = { ['put'] = 2, ['delete'] = 0, ['index-put'] = 3, ['index-delete'] = 1, ['expire'] = 2 }

-- The name and the key of the next operation, and its arguments: with what
-- stands behind them, if it has fewer than three.
local function take_operation()
  local name, key, first = take(), KEYS[tonumber(take())], at + 1
  at = at + lengths[name]
  return name, key, ARGV[first], ARGV[first + 1], ARGV[first + 2]
end

-- Whether the conditions of the next batch hold, and how many it has.
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

-- The limit that would be exceeded by the operations that are next and by the
-- batches behind them, if there is one. Of a batch behind them that has
-- conditions nobody knows yet whether it will be applied: it counts for what it
-- adds, and not for what it removes.
local exceeded = ledger and function()
  if put + indexes == 0 then return nil end
  local start, is_certain = at, true
  while at < #ARGV do
    if at > start then is_certain = select(2, conditions_hold()) == 0 end
    for _ = 1, take() do ledger.foresee(is_certain, take_operation()) end
  end
  at = start
  return ledger.exceeded()
end

local applied = {}
while at < #ARGV do
  local apply = conditions_hold()
  if apply and wrong_type then return wrong_type end
  if ledger and apply and not is_written then
    local limit = exceeded()
    if limit then return limit end
  end
  is_written = is_written or apply
  for _ = 1, take() do
    local name, key, a, b, c = take_operation()
    if apply then gone[key] = operations[name](key, a, b, c) end
    -- To set an expiry changes no size.
    if ledger and apply and name ~= 'expire' then ledger.touch(key) end
  end
  applied[#applied + 1] = apply and 1 or 0
end
if ledger then ledger.account(gone) end
return applied
