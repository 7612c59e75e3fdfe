--[[
devices_due: give the phones that were not heard of in time, or of which something is to be told, each to one caller.

What is given is due again after a while: a caller that dies forgets nothing.

KEYS
  presence      zset, phone -> when to look whether it is still there
ARGV
  limit         at most 1000
  again_in_ms   nobody else gets the same for so long
  longest_ms    the longest that one waits for its turn; a later one was put there by a clock that was set back
Returns
  claimed       client, mode and device of each, spaces between
Events
]]
-- include now_ms

local now, limit = now_ms(), tonumber(arg.limit)
local due = redis.call('ZRANGEBYSCORE', key.presence, '-inf', now, 'LIMIT', 0, limit)
local late = redis.call('ZRANGEBYSCORE', key.presence, '(' .. now + arg.longest_ms, '+inf', 'LIMIT', 0, limit - #due)
for _, member in ipairs(late) do
  due[#due + 1] = member
end
local claims = {}
for n, member in ipairs(due) do
  claims[2 * n - 1] = now + arg.again_in_ms
  claims[2 * n] = member
end

-- All is read and decided; from here on only writes.
if #claims > 0 then
  redis.call('ZADD', key.presence, unpack(claims))
end
return {'claimed', unpack(due)}
