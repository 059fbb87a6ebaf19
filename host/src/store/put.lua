-- Puts a value, and its member into indexes: the commit that there is most of,
-- for two thirds of what `commit.lua` takes to understand it.
--
-- KEYS  that of the value, then the indexes, then those at which nothing may
--       stand
-- ARGV  'check' as for `commit.lua`, how many indexes there are, what a value
--       that stands at the key has to begin with, the expiry of all, the value,
--       the member, its score
-- Gives 1 if it was applied, 0 if not.

local key, indexes = KEYS[1], tonumber(ARGV[2])
local guard, expiry, value, member, score = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

if ARGV[1] == 'check' then
  local refused = forbidden_to_write(key)
  if refused then return refused end
end

for i = 2, 1 + indexes do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'zset' then return redis.error_reply('WRONGTYPE ' .. kind) end
end

-- A key of another type gives an error here, which equals no text.
if redis.call('EXISTS', key) == 1 and redis.pcall('GETRANGE', key, 0, #guard - 1) ~= guard then return 0 end
for i = 2 + indexes, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end
end

put_value(key, value, expiry)
for i = 2, 1 + indexes do put_into_index(KEYS[i], member, score, expiry) end
return 1
