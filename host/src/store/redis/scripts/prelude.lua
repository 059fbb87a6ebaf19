-- Precedes every script.

-- Whether `a` sorts before `b`. Unlike `<`, which follows the server's locale, it
-- compares bytes, as Redis does for members.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- An error that names the first of these commands that the ACL forbids; nil if all are
-- permitted.
local function forbidden(commands)
  for _, command in ipairs(commands) do
    if not redis.acl_check_cmd(unpack(command)) then
      return redis.error_reply('NOPERM ' .. command[1])
    end
  end
end

-- Like `redis.call` for reads. If the ACL forbids the command, the error names it,
-- unlike that of Redis.
local function call(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then error(forbidden({ { ... } }) or answer) end
  return answer
end

-- Like `call` for commands with scalar replies; returns nil on WRONGTYPE.
local function attempt(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' then return answer end
  local refused = forbidden({ { ... } })
  if refused then error(refused) end
end

-- The value of a key, truncated to one byte more than `max_bytes`, or whole if that is
-- ''. False if the key does not exist; a list with the type if it is not a string.
local function read(key, max_bytes)
  local value
  if max_bytes == '' then
    value = attempt('GET', key)
  else
    value = attempt('GETRANGE', key, 0, max_bytes)
    if value == '' and call('EXISTS', key) == 0 then value = false end
  end
  if value == nil then value = { call('TYPE', key).ok } end
  return value
end

