-- KEYS: 1 changes, 2 id, 3 row, 4 rows, 5 rows of the group, 6 leader, 7 text, 8 version, 9 keys. ARGV[1]: the least
-- count of changes that the caller has seen; a smaller one means that the database was set back, and nothing is done.
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(n) return string.format('%.0f', n) end
local changes = tonumber(redis.call('GET', KEYS[1]) or '0')
if changes < tonumber(ARGV[1]) then return {'back', text(changes)} end
local function change() changes = redis.call('INCR', KEYS[1]) end
local function find(id)
  local found = redis.call('HGET', KEYS[3], id)
  return found and cjson.decode(found)
end
local function save(row) redis.call('HSET', KEYS[3], text(row.id), cjson.encode(row)) end
local function beats(row) return now < row.heartbeat_ms + row.valid_for_ms end
-- A heartbeat that lies further ahead than it lasts was written before the clock was set back.
local function valid(row) return beats(row) and row.heartbeat_ms <= now + row.valid_for_ms end
local function shown(row, leader)
  return {cjson.encode(row), valid(row) and '1' or '0', leader == row.id and '1' or '0'}
end
local function leader_of(group) return tonumber(redis.call('HGET', KEYS[6], group) or '0') end
local function done(...) return {'ok', text(changes), ...} end
local function no(why) return {'no', text(changes), why} end
