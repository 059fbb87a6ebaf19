-- Records the usage of a page of a ledger again.
--
-- KEYS  the ledger, which `ledger.lua` has removed
-- ARGV  the cursor, the approximate number of entries, 'check' unless the script is
--       known to be permitted to write
-- Returns the cursor of the next page, 0 at the end.

if ARGV[3] == 'check' then
  local refused = ledger.forbidden()
  if refused then return refused end
end

local page = redis.call('HSCAN', ledger.key, ARGV[1], 'COUNT', ARGV[2])
for i = 1, #page[2], 2 do
  local field = page[2][i]
  if field:sub(1, 4) == 'key:' then ledger.touch(field:sub(5)) end
end
ledger.record({})
return page[1]
