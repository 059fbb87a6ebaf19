-- Accounts again for a page of a ledger.
--
-- KEYS  the ledger, which `ledger.lua` has taken
-- ARGV  where to go on, about how many entries, 'check' if it is not yet known
--       that the user may write
-- Gives where to go on next, which is 0 at the end.

if ARGV[3] == 'check' then
  local refused = ledger.forbidden()
  if refused then return refused end
end

local page = redis.call('HSCAN', ledger.key, ARGV[1], 'COUNT', ARGV[2])
for i = 1, #page[2], 2 do
  local field = page[2][i]
  if field:sub(1, 4) == 'key:' then ledger.touch(field:sub(5)) end
end
ledger.account({})
return page[1]
