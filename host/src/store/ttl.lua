-- How many milliseconds each key has left.
--
-- KEYS  the keys
-- Gives a number for each: -1 if it has no end, -2 if nothing stands there.

local left = {}
for i, key in ipairs(KEYS) do left[i] = call('PTTL', key) end
return left
