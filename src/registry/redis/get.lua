-- ARGV: 2 key
local version = redis.call('HGET', KEYS[8], ARGV[2])
if not version then return done() end
return done(version, redis.call('HGET', KEYS[7], ARGV[2]))
