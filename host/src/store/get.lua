-- What stands at each key.
--
-- KEYS  the keys
-- ARGV  how many bytes of a value to read, or ''
-- Gives a value for each key: false if there is none, and a list with a type if
-- it is of another type than string.

local head = ARGV[1]
local values = {}
for i, key in ipairs(KEYS) do
  local value
  if head == '' then
    value = redis.pcall('GET', key)
  else
    value = redis.pcall('GETRANGE', key, 0, head)
    if value == '' and redis.call('EXISTS', key) == 0 then value = false end
  end
  if type(value) == 'table' then
    value = { redis.call('TYPE', key).ok }
  end
  values[i] = value
end
return values
