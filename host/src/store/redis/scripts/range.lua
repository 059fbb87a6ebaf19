-- A page of an index, each entry with its value.
--
-- KEYS  the index
-- ARGV  'ascending' or 'descending', the limit, the prefix of the values' keys, the
--       maximum number of bytes of a value or '', the maximum number of bytes of all
--       values or '', and the score and the member of the exclusive start position, if
--       there is one
-- Returns the number of entries of the index, then member, score and value of each entry
-- of the page.

local index = KEYS[1]
local descending = ARGV[1] == 'descending'
local limit, value_key_prefix, max_bytes = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local max_total = tonumber(ARGV[5])
local score, member = ARGV[6], ARGV[7]

-- The number of members with this score that do not come after `member`, by binary search.
local function count_up_to(equals, first)
  local low, high = 0, equals
  while low < high do
    local middle = math.floor((low + high) / 2)
    local other = call('ZRANGE', index, first + middle, first + middle)[1]
    if before(member, other) then high = middle else low = middle + 1 end
  end
  return low
end

local start = 0
if score then
  local lower = call('ZCOUNT', index, '-inf', '(' .. score)
  local equals = call('ZCOUNT', index, score, score)
  local passed = count_up_to(equals, lower)
  if descending then
    -- The member itself is excluded too, if it still exists.
    local current = call('ZSCORE', index, member)
    local own = current and tonumber(current) == tonumber(score) and 1 or 0
    start = call('ZCARD', index) - (lower + passed - own)
  else
    start = lower + passed
  end
end

local range = { 'ZRANGE', index, start, start + limit - 1 }
if descending then range[#range + 1] = 'REV' end
range[#range + 1] = 'WITHSCORES'
local members = limit > 0 and call(unpack(range)) or {}

if max_total then
  local bytes = 0
  for i = 1, #members, 2 do
    local length = attempt('STRLEN', value_key_prefix .. members[i])
    -- A value of another type is not read.
    if length then bytes = bytes + math.min(length, tonumber(max_bytes) or length) end
  end
  if bytes > max_total then return redis.error_reply('TOOLARGE more than asked for') end
end

local entries = { call('ZCARD', index) }
for i = 1, #members, 2 do
  entries[#entries + 1] = members[i]
  entries[#entries + 1] = members[i + 1]
  entries[#entries + 1] = read(value_key_prefix .. members[i], max_bytes)
end
return entries
