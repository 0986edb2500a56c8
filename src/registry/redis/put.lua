-- ARGV: 2 group, 3 id or '', then of each document: key, expected version, '1' or '0' (delete), text
if ARGV[3] ~= '' then
  local leader = find(ARGV[3])
  if leader_of(ARGV[2]) ~= tonumber(ARGV[3]) then return no('row ' .. ARGV[3] .. ' is not written down as the leader') end
  if not leader or not beats(leader) then return no('the heartbeat of row ' .. ARGV[3] .. ' lapsed') end
end
for at = 4, #ARGV, 4 do
  local version = tonumber(redis.call('HGET', KEYS[8], ARGV[at]) or '0')
  if version ~= tonumber(ARGV[at + 1]) then return {'conflict', text(changes), ARGV[at]} end
end
change()
for at = 4, #ARGV, 4 do
  local key = ARGV[at]
  if ARGV[at + 2] == '1' then
    redis.call('HINCRBY', KEYS[8], key, 1)
    redis.call('HSET', KEYS[7], key, ARGV[at + 3])
    redis.call('ZADD', KEYS[9], 0, key)
  else
    redis.call('HDEL', KEYS[8], key)
    redis.call('HDEL', KEYS[7], key)
    redis.call('ZREM', KEYS[9], key)
  end
end
return done()
