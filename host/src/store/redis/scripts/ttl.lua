-- The TTL of each key in milliseconds.
--
-- KEYS  the keys
-- Returns a number for each: -1 if the key does not expire, -2 if it does not exist.

local ttls = {}
for i, key in ipairs(KEYS) do ttls[i] = call('PTTL', key) end
return ttls
