-- The ledger of a quota: what each key costs that was written within it.
--
-- It is a hash, the last of KEYS. The field `key:` with a key behind it has how
-- many values and how many bytes stand there; the fields `values` and `bytes`
-- have the totals. What is 0 is left out.
--
-- ARGV ends with the most values and the most bytes, each '' if there is no
-- limit. What is noted here is read such that nothing in it can be a failure.

local ledger = { key = table.remove(KEYS) }
local most = { bytes = tonumber(table.remove(ARGV)), values = tonumber(table.remove(ARGV)) }

local answer = redis.pcall('TYPE', ledger.key)
if answer.err then return forbidden({ { 'TYPE', ledger.key } }) or answer end
local kind = answer.ok
if kind ~= 'none' and kind ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. kind) end

-- What a member of an index costs.
local MEMBER_BYTES = 128

function ledger.forbidden()
  return forbidden({
    { 'TYPE', ledger.key }, { 'STRLEN', ledger.key }, { 'ZCARD', ledger.key },
    { 'ZSCORE', ledger.key, '' }, { 'HGET', ledger.key, '' }, { 'HSCAN', ledger.key, '0' },
    { 'HSET', ledger.key, '', '' }, { 'HDEL', ledger.key, '' },
  })
end

-- How many values and how many bytes stand at a key now.
local function standing(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'string' then return 1, #key + redis.call('STRLEN', key) end
  if kind == 'zset' then return 0, #key + MEMBER_BYTES * redis.call('ZCARD', key) end
  return 0, 0
end

-- The same as the ledger has it.
local function noted(key)
  local entry = redis.call('HGET', ledger.key, 'key:' .. key) or ''
  local values, bytes = entry:match('^(%d+) (%d+)$')
  return tonumber(values) or 0, tonumber(bytes) or 0
end

local function total(name)
  return tonumber(redis.call('HGET', ledger.key, name)) or 0
end

-- Large numbers in full, where Lua would write an exponent.
local function digits(number)
  return string.format('%.0f', number)
end

local touched, is_touched = {}, {}

-- Remembers a key to account for.
function ledger.touch(key)
  if is_touched[key] then return end
  is_touched[key] = true
  touched[#touched + 1] = key
end

-- Notes what stands now at each key that was touched, which is nothing at those
-- of `gone`. It reads all that it needs before it writes, so that it does not
-- stop half-way and leave totals that stay wrong.
function ledger.account(gone)
  local new, over = {}, {}
  local function note(field, is_nothing, text)
    if is_nothing then over[#over + 1] = field else new[#new + 1] = { field, text } end
  end

  local more = { values = 0, bytes = 0 }
  for _, key in ipairs(touched) do
    local values, bytes = 0, 0
    if not gone[key] then values, bytes = standing(key) end
    local noted_values, noted_bytes = noted(key)
    if values ~= noted_values or bytes ~= noted_bytes then
      note('key:' .. key, values == 0 and bytes == 0, digits(values) .. ' ' .. digits(bytes))
      more.values = more.values + values - noted_values
      more.bytes = more.bytes + bytes - noted_bytes
    end
  end
  for name, growth in pairs(more) do
    if growth ~= 0 then
      local sum = total(name) + growth
      note(name, sum == 0, digits(sum))
    end
  end

  for _, it in ipairs(new) do redis.call('HSET', ledger.key, it[1], it[2]) end
  -- In the end, since a ledger without fields is gone.
  for _, field in ipairs(over) do redis.call('HDEL', ledger.key, field) end
end

-- What would stand at each key after the operations that were foreseen.
local futures = {}

local function future(key)
  if not futures[key] then
    local values, bytes = standing(key)
    futures[key] = { now = { values = values, bytes = bytes }, values = values, bytes = bytes, has = {} }
  end
  return futures[key]
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
    -- An index without members is gone.
    if it.bytes == #key then it.bytes = 0 end
  end,
  ['expire'] = function() end,
}

-- Looks at an operation before anything is written. One that is not certain may
-- happen or not, and so counts only where it adds.
function ledger.foresee(is_certain, name, key, argument)
  effects[name](future(key), is_certain, key, argument)
end

-- The first limit that what was foreseen would exceed. What adds nothing to what
-- stands there exceeds none.
function ledger.exceeded()
  local growth, sum = { values = 0, bytes = 0 }, { values = total('values'), bytes = total('bytes') }
  for key, it in pairs(futures) do
    local noted_values, noted_bytes = noted(key)
    growth.values = growth.values + it.values - it.now.values
    growth.bytes = growth.bytes + it.bytes - it.now.bytes
    sum.values = sum.values + it.values - noted_values
    sum.bytes = sum.bytes + it.bytes - noted_bytes
  end
  for _, name in ipairs({ 'values', 'bytes' }) do
    if most[name] and growth[name] > 0 and sum[name] > most[name] then return name end
  end
end

