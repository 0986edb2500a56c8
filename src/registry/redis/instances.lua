-- ARGV: 2 group, 3 'one' or 'all', 4 limit
local rows = {}
local from = ARGV[3] == 'one' and KEYS[5] or KEYS[4]
for _, id in ipairs(redis.call('ZREVRANGE', from, '0', ARGV[4] - 1)) do
  local row = find(id)
  if row then rows[#rows + 1] = shown(row, leader_of(row.group)) end
end
return done(rows)
