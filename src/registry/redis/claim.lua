-- ARGV: 2 group, 3 id
local group, id = ARGV[2], tonumber(ARGV[3])
local me, leader = find(ARGV[3]), leader_of(group)
if not me or me.group ~= group then return no('row ' .. ARGV[3] .. ' is not in the table') end
if not valid(me) then return no('the heartbeat of row ' .. ARGV[3] .. ' lapsed') end
if leader > id then return no('row ' .. text(leader) .. ' is written down as the leader') end
for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], text(leader), '(' .. text(id))) do
  local row = find(other)
  if row and valid(row) then return no('row ' .. other .. ' stands before it and is valid') end
end
if leader ~= id then
  redis.call('HSET', KEYS[6], group, text(id))
  change()
end
return done()
