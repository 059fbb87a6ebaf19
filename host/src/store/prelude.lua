-- What stands before each script.

-- `<` on strings follows the server's locale, the order of members does not.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- An error that names the first of these commands that the user may not send,
-- if there is one.
local function forbidden(commands)
  for _, command in ipairs(commands) do
    if not redis.acl_check_cmd(unpack(command)) then
      return redis.error_reply('NOPERM ' .. command[1])
    end
  end
end

-- `redis.call` of what reads. If the user may not send the command, the error
-- names it, which that of Redis does not.
local function call(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then error(forbidden({ { ... } }) or answer) end
  return answer
end

-- The same of what gives no list, but nothing where the key is of another type.
local function attempt(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' then return answer end
  local refused = forbidden({ { ... } })
  if refused then error(refused) end
end

-- What stands at a key, no more than one byte beyond `head` of it, or all for
-- ''. It is false if there is nothing, and a list with a type if it is of another
-- type than string.
local function read(key, head)
  local value
  if head == '' then
    value = attempt('GET', key)
  else
    value = attempt('GETRANGE', key, 0, head)
    if value == '' and call('EXISTS', key) == 0 then value = false end
  end
  if value == nil then value = { call('TYPE', key).ok } end
  return value
end

