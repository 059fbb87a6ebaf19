-- Functions of the scripts that commit.

-- An error that names the first command of a commit that the ACL forbids; nil if all
-- are permitted.
local function forbidden_to_write(key)
  return forbidden({
    { 'SET', key, '', 'PX', '1' }, { 'UNLINK', key },
    { 'ZADD', key, '0', '' }, { 'ZREM', key, '' },
    { 'PTTL', key }, { 'PEXPIRE', key, '1' }, { 'PERSIST', key },
    { 'TYPE', key }, { 'EXISTS', key }, { 'GETRANGE', key, '0', '0' },
    { 'ZSCORE', key, '' }, { 'ZCARD', key }, { 'ZRANGE', key, '0', '0' },
  })
end

-- Extends the TTL of a key to `expiry`; `ttl` is its PTTL before, -2 if the key is new
-- and -1 if it does not expire.
local function extend_ttl(key, expiry, ttl)
  if expiry == 'never' then
    if ttl >= 0 then redis.call('PERSIST', key) end
  elseif ttl == -2 or (ttl >= 0 and ttl < tonumber(expiry)) then
    redis.call('PEXPIRE', key, expiry)
  end
end

local function put_value(key, value, expiry)
  if expiry == 'never' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'PX', expiry)
  end
end

local function put_into_index(key, member, score, expiry)
  local ttl = redis.call('PTTL', key)
  redis.call('ZADD', key, score, member)
  extend_ttl(key, expiry, ttl)
end

-- The keys that this script has deleted, and whether it has written anything. While a
-- slot migrates, a command fails if its key is not on this server, which would leave a
-- partial commit. All of KEYS are on this server when the script starts, or it is not
-- run. A put at a key that was just deleted would fail; the component never does that.
local deleted, is_written = {}, false

-- How many entries `index_max` examines, in steps.
local INDEX_MAX_LIMIT, STEP = 1000, 50

-- Whether the highest entry that counts is `wanted`, or false for none, and not above
-- the position of `score` and `bound`. Entries count if they have a value and are not
-- in the set `excluding`.
local function index_max(key, value_key_prefix, excluding, wanted, score, bound)
  if deleted[key] then return not wanted end
  for start = 0, INDEX_MAX_LIMIT - 1, STEP do
    local entries = redis.pcall('ZRANGE', key, start, start + STEP - 1, 'REV', 'WITHSCORES')
    if entries.err then return false end
    for i = 1, #entries, 2 do
      local member, at = entries[i], tonumber(entries[i + 1])
      local value_key = value_key_prefix .. member
      local exists = (excluding[member] or deleted[value_key]) and 0 or redis.pcall('EXISTS', value_key)
      if exists == 1 then
        return member == wanted and (at < score or at == score and not before(bound, member))
      elseif exists ~= 0 then
        -- The key is not in KEYS, and may be on another server.
        if is_written then return false end
        error(exists)
      end
    end
    if #entries < 2 * STEP then return not wanted end
  end
  return false
end

