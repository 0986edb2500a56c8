-- ARGV: 2 group, 3 instance, 4 id or '', 5 valid_for_ms
local group, instance, valid_for = ARGV[2], ARGV[3], tonumber(ARGV[5])
local me = ARGV[4] ~= '' and find(ARGV[4])
if me and me.group == group and me.instance == instance and beats(me) then
  me.heartbeat_ms, me.valid_for_ms, me.beats = now, valid_for, me.beats + 1
else
  local id = redis.call('INCR', KEYS[2])
  me = {id = id, group = group, instance = instance, start_time_ms = now, heartbeat_ms = now,
        valid_for_ms = valid_for, beats = 1}
  redis.call('ZADD', KEYS[4], id, text(id))
  redis.call('ZADD', KEYS[5], id, text(id))
  change()
end
save(me)
local leader = leader_of(group)
local rows = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], text(leader), '+inf')) do
  local row = find(id)
  if row then rows[#rows + 1] = shown(row, leader) end
end
return done(text(me.id), text(now), text(leader), rows)
