-- Applies batches: each one whose conditions hold, all in one atomic step.
--
-- KEYS  those that are put, then the indexes that are put into, then all others
-- ARGV  how many are put, how many are of indexes, how many batches there are,
--       'check' if it is not yet known that the user may write; then for each
--       batch the number of its conditions, each one the number of its
--       alternatives, and the number of its operations. An alternative or
--       operation is a name, the number of a key, and what the functions below
--       take.
-- Gives 1 for each batch that was applied, 0 for the others.

-- Redis does not take back what a script wrote before it failed, so whatever
-- could fail is looked at first.
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

if ARGV[4] == 'check' and KEYS[1] then
  local commands = {
    { 'SET', KEYS[1], '', 'PX', '1' }, { 'UNLINK', KEYS[1] },
    { 'ZADD', KEYS[1], '0', '' }, { 'ZREM', KEYS[1], '' },
    { 'PTTL', KEYS[1] }, { 'PEXPIRE', KEYS[1], '1' }, { 'PERSIST', KEYS[1] },
    { 'TYPE', KEYS[1] }, { 'EXISTS', KEYS[1] }, { 'GETRANGE', KEYS[1], '0', '0' },
    { 'ZSCORE', KEYS[1], '' }, { 'ZCARD', KEYS[1] }, { 'ZRANGE', KEYS[1], '0', '0' },
  }
  for _, command in ipairs(commands) do
    if not redis.acl_check_cmd(unpack(command)) then
      return redis.error_reply('NOPERM ' .. command[1])
    end
  end
end

local at = 4
local function take()
  at = at + 1
  return ARGV[at]
end

-- How many entries of an index `index-highest` looks at, in steps.
local LOOKED_AT, STEP = 1000, 50

local conditions = {
  ['absent'] = function(key)
    return redis.call('EXISTS', key) == 0
  end,
  ['starts-with'] = function(key)
    local text = take()
    -- GETRANGE can't ask for no bytes.
    if text == '' then return redis.call('TYPE', key).ok == 'string' end
    -- A key of another type gives an error here, which equals no text.
    return redis.pcall('GETRANGE', key, 0, #text - 1) == text
  end,
  ['index-at-most'] = function(key)
    local most, size = tonumber(take()), redis.pcall('ZCARD', key)
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
    for start = 0, LOOKED_AT - 1, STEP do
      local entries = redis.pcall('ZRANGE', key, start, start + STEP - 1, 'REV', 'WITHSCORES')
      if entries.err then return false end
      for i = 1, #entries, 2 do
        local member, at = entries[i], tonumber(entries[i + 1])
        if not besides[member] and redis.call('EXISTS', values_at .. member) == 1 then
          return member == wanted and (at < score or at == score and not before(bound, member))
        end
      end
      if #entries < 2 * STEP then return not wanted end
    end
    return false
  end,
}

-- Lets a key live at least as long as `expiry` says; `left` is its PTTL before,
-- -2 if it is new and -1 without an expiry.
local function prolong(key, expiry, left)
  if expiry == 'never' then
    if left >= 0 then redis.call('PERSIST', key) end
  elseif left == -2 or (left >= 0 and left < tonumber(expiry)) then
    redis.call('PEXPIRE', key, expiry)
  end
end

local operations = {
  ['put'] = function(key, apply)
    local value, expiry = take(), take()
    if not apply then return end
    if expiry == 'never' then
      redis.call('SET', key, value)
    else
      redis.call('SET', key, value, 'PX', expiry)
    end
  end,
  ['delete'] = function(key, apply)
    if apply then redis.call('UNLINK', key) end
  end,
  ['index-put'] = function(key, apply)
    local member, score, expiry = take(), take(), take()
    if not apply then return end
    local left = redis.call('PTTL', key)
    redis.call('ZADD', key, score, member)
    prolong(key, expiry, left)
  end,
  ['index-delete'] = function(key, apply)
    local member = take()
    -- A key of another type has no members.
    if apply then redis.pcall('ZREM', key, member) end
  end,
  ['expire'] = function(key, apply)
    local expiry, shorten = take(), take() == 'shorten'
    if not apply then return end
    local left = redis.call('PTTL', key)
    if shorten and expiry ~= 'never' then
      redis.call('PEXPIRE', key, expiry)
    elseif left ~= -2 then
      prolong(key, expiry, left)
    end
  end,
}

local applied = {}
while at < #ARGV do
  local apply = true
  for _ = 1, take() do
    local holds = false
    for _ = 1, take() do
      local condition = conditions[take()]
      holds = condition(KEYS[tonumber(take())]) or holds
    end
    apply = apply and holds
  end
  if apply and wrong_type then return wrong_type end
  for _ = 1, take() do
    local operation = operations[take()]
    operation(KEYS[tonumber(take())], apply)
  end
  applied[#applied + 1] = apply and 1 or 0
end
return applied
