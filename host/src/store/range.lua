-- A page of an index, each entry with the value that its member names.
--
-- KEYS  the index
-- ARGV  'ascending' or 'descending', the limit, what the key of a value begins
--       with, how many bytes of a value to read or '', how many bytes of all values
--       together at the most or '', and the score and the member behind which to
--       begin, if there are such.
-- Gives how many entries the index has, then member, score and value for each
-- of the page.

local index = KEYS[1]
local descending = ARGV[1] == 'descending'
local limit, values_at, head = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local most = tonumber(ARGV[5])
local score, member = ARGV[6], ARGV[7]

-- How many members with the same score are not behind the given one. They are
-- in order, and a step looks at one in the middle of those left.
local function passed_among_equals(equals, first)
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
  local passed = passed_among_equals(equals, lower)
  if descending then
    -- The member itself is left out too, if it is still there.
    local there = call('ZSCORE', index, member)
    local own = there and tonumber(there) == tonumber(score) and 1 or 0
    start = call('ZCARD', index) - (lower + passed - own)
  else
    start = lower + passed
  end
end

local range = { 'ZRANGE', index, start, start + limit - 1 }
if descending then range[#range + 1] = 'REV' end
range[#range + 1] = 'WITHSCORES'
local members = limit > 0 and call(unpack(range)) or {}

if most then
  local bytes = 0
  for i = 1, #members, 2 do
    local length = attempt('STRLEN', values_at .. members[i])
    -- A value of another type is not read.
    if length then bytes = bytes + math.min(length, tonumber(head) or length) end
  end
  if bytes > most then return redis.error_reply('TOOLARGE more than asked for') end
end

local entries = { call('ZCARD', index) }
for i = 1, #members, 2 do
  entries[#entries + 1] = members[i]
  entries[#entries + 1] = members[i + 1]
  entries[#entries + 1] = read(values_at .. members[i], head)
end
return entries
