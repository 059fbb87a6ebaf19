-- Puts a value, and its member into indexes: the usual save, at two thirds of the cost
-- of `commit.lua`.
--
-- KEYS  the value, then the indexes, then the keys that must be absent
-- ARGV  'check' as in `commit.lua`, the number of indexes, the required prefix of an
--       existing value, the expiry of all keys, the value, the member, its score, and
--       'latest' to ask whether the member is the highest one of the first index
-- Returns 1 if the put was applied, else 0; and the same for the question, if asked.

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

local function conditions_hold()
  -- For a key of another type GETRANGE returns an error, which differs from any text.
  if redis.call('EXISTS', key) == 1 and redis.pcall('GETRANGE', key, 0, #guard - 1) ~= guard then return false end
  for i = 2 + indexes, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 1 then return false end
  end
  return true
end

local applied = { 0 }
if conditions_hold() then
  applied[1], is_written = 1, true
  put_value(key, value, expiry)
  for i = 2, 1 + indexes do put_into_index(KEYS[i], member, score, expiry) end
end
if ARGV[8] == 'latest' then
  -- An error here must not hide that the put was applied.
  local is_latest = is_written and redis.pcall('ZRANGE', KEYS[2], -1, -1)[1] == member
  if not is_latest then
    local value_key_prefix = key:sub(1, #key - #member)
    local ok, answer = pcall(index_max, KEYS[2], value_key_prefix, {}, member, tonumber(score), member)
    is_latest = ok and answer
  end
  applied[2] = is_latest and 1 or 0
end
return applied
