-- What the scripts that commit share.

-- An error that names the first command that a commit may send and the user may
-- not, if there is one.
local function forbidden_to_write(key)
  return forbidden({
    { 'SET', key, '', 'PX', '1' }, { 'UNLINK', key },
    { 'ZADD', key, '0', '' }, { 'ZREM', key, '' },
    { 'PTTL', key }, { 'PEXPIRE', key, '1' }, { 'PERSIST', key },
    { 'TYPE', key }, { 'EXISTS', key }, { 'GETRANGE', key, '0', '0' },
    { 'ZSCORE', key, '' }, { 'ZCARD', key }, { 'ZRANGE', key, '0', '0' },
  })
end

-- Lets a key live at least as long as `expiry` says; `left` is its PTTL before,
-- -2 if it is new and -1 without an expiry.
local function prolong(key, expiry, left)
  if expiry == 'never' then
    if left >= 0 then redis.call('PERSIST', key) end
  elseif left == -2 or (left >= 0 and left < tonumber(expiry)) then
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
  local left = redis.call('PTTL', key)
  redis.call('ZADD', key, score, member)
  prolong(key, expiry, left)
end

