-- What stands at each key.
--
-- KEYS  the keys
-- ARGV  how many bytes of a value to read, or ''
-- Gives a value for each key.

local values = {}
for i, key in ipairs(KEYS) do values[i] = read(key, ARGV[1]) end
return values
