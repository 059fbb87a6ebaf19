-- The value of each key.
--
-- KEYS  the keys
-- ARGV  the maximum number of bytes of a value, or ''
-- Returns a value for each key.

local values = {}
for i, key in ipairs(KEYS) do values[i] = read(key, ARGV[1]) end
return values
