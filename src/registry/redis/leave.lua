-- ARGV: 2 group, 3 id
local me = find(ARGV[3])
if me and me.group == ARGV[2] and me.valid_for_ms > 0 then
  me.valid_for_ms = 0
  save(me)
end
return done()
