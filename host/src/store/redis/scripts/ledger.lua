-- The usage ledger of a quota: the recorded usage of each key.
--
-- It is a hash, the last of KEYS. The field `key:` followed by a key has the number of
-- values and of bytes of the key; the fields `values` and `bytes` have the totals.
-- Zeros are omitted.
--
-- ARGV ends with the limits of values and bytes, each '' if unlimited. Fields are parsed
-- so that no content can cause an error.

local ledger = { key = table.remove(KEYS) }
local limits = { bytes = tonumber(table.remove(ARGV)), values = tonumber(table.remove(ARGV)) }

local answer = redis.pcall('TYPE', ledger.key)
if answer.err then return forbidden({ { 'TYPE', ledger.key } }) or answer end
local kind = answer.ok
if kind ~= 'none' and kind ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. kind) end

-- The cost of a member of an index.
local MEMBER_BYTES = 128

function ledger.forbidden()
  return forbidden({
    { 'TYPE', ledger.key }, { 'STRLEN', ledger.key }, { 'ZCARD', ledger.key },
    { 'ZSCORE', ledger.key, '' }, { 'HGET', ledger.key, '' }, { 'HSCAN', ledger.key, '0' },
    { 'HSET', ledger.key, '', '' }, { 'HDEL', ledger.key, '' },
  })
end

-- The values and bytes of a key now.
local function current_usage(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'string' then return 1, #key + redis.call('STRLEN', key) end
  if kind == 'zset' then return 0, #key + MEMBER_BYTES * redis.call('ZCARD', key) end
  return 0, 0
end

-- The values and bytes of a key as the ledger has them.
local function recorded_usage(key)
  local entry = redis.call('HGET', ledger.key, 'key:' .. key) or ''
  local values, bytes = entry:match('^(%d+) (%d+)$')
  return tonumber(values) or 0, tonumber(bytes) or 0
end

local function total(name)
  return tonumber(redis.call('HGET', ledger.key, name)) or 0
end

-- A number without an exponent.
local function digits(number)
  return string.format('%.0f', number)
end

local touched, is_touched = {}, {}

-- Marks a key whose usage must be recorded.
function ledger.touch(key)
  if is_touched[key] then return end
  is_touched[key] = true
  touched[#touched + 1] = key
end

-- Records the usage of each touched key, which is zero for the keys in `deleted`. It
-- reads before it writes, so that an error can't leave wrong totals.
function ledger.record(deleted)
  local set, removed = {}, {}
  local function record(field, is_zero, text)
    if is_zero then removed[#removed + 1] = field else set[#set + 1] = { field, text } end
  end

  local growth = { values = 0, bytes = 0 }
  for _, key in ipairs(touched) do
    local values, bytes = 0, 0
    if not deleted[key] then values, bytes = current_usage(key) end
    local recorded_values, recorded_bytes = recorded_usage(key)
    if values ~= recorded_values or bytes ~= recorded_bytes then
      record('key:' .. key, values == 0 and bytes == 0, digits(values) .. ' ' .. digits(bytes))
      growth.values = growth.values + values - recorded_values
      growth.bytes = growth.bytes + bytes - recorded_bytes
    end
  end
  for name, change in pairs(growth) do
    if change ~= 0 then
      local sum = total(name) + change
      record(name, sum == 0, digits(sum))
    end
  end

  for _, field in ipairs(set) do redis.call('HSET', ledger.key, field[1], field[2]) end
  -- Last, since a hash without fields is deleted.
  for _, field in ipairs(removed) do redis.call('HDEL', ledger.key, field) end
end

-- The usage of each key after the projected operations.
local projections = {}

local function projection(key)
  if not projections[key] then
    local values, bytes = current_usage(key)
    projections[key] = { now = { values = values, bytes = bytes }, values = values, bytes = bytes, has = {} }
  end
  return projections[key]
end

local function has_member(it, key, member)
  if it.has[member] == nil then
    it.has[member] = type(redis.pcall('ZSCORE', key, member)) == 'string'
  end
  return it.has[member]
end

local effects = {
  ['put'] = function(it, is_certain, key, value)
    local bytes = #key + #value
    it.values = 1
    it.bytes = is_certain and bytes or math.max(it.bytes, bytes)
  end,
  ['delete'] = function(it, is_certain)
    if is_certain then it.values, it.bytes = 0, 0 end
  end,
  ['index-put'] = function(it, _, key, member)
    if has_member(it, key, member) then return end
    it.has[member] = true
    it.bytes = (it.bytes == 0 and #key or it.bytes) + MEMBER_BYTES
  end,
  ['index-delete'] = function(it, is_certain, key, member)
    if not is_certain or not has_member(it, key, member) then return end
    it.has[member] = false
    it.bytes = it.bytes - MEMBER_BYTES
    -- An index without members does not exist.
    if it.bytes == #key then it.bytes = 0 end
  end,
  ['expire'] = function() end,
}

-- Projects an operation before anything is written. One that may not be applied counts
-- only if it adds.
function ledger.project(is_certain, name, key, argument)
  effects[name](projection(key), is_certain, key, argument)
end

-- The first limit that the projected operations would exceed. If the usage does not
-- grow, no limit is exceeded.
function ledger.exceeded()
  local growth, sum = { values = 0, bytes = 0 }, { values = total('values'), bytes = total('bytes') }
  for key, it in pairs(projections) do
    local recorded_values, recorded_bytes = recorded_usage(key)
    growth.values = growth.values + it.values - it.now.values
    growth.bytes = growth.bytes + it.bytes - it.now.bytes
    sum.values = sum.values + it.values - recorded_values
    sum.bytes = sum.bytes + it.bytes - recorded_bytes
  end
  for _, name in ipairs({ 'values', 'bytes' }) do
    if limits[name] and growth[name] > 0 and sum[name] > limits[name] then return name end
  end
end

