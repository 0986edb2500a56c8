-- ARGV: 2 prefix; keys are printable ASCII, so that no key that begins with it is beyond it with a byte of all ones.
local from = ARGV[2] == '' and '-' or '[' .. ARGV[2]
local to = ARGV[2] == '' and '+' or '(' .. ARGV[2] .. '\255'
local documents = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', KEYS[9], from, to)) do
  documents[#documents + 1] = {key, redis.call('HGET', KEYS[8], key), redis.call('HGET', KEYS[7], key)}
end
return done(documents)
