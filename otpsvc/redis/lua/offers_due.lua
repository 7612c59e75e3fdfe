--[[
offers_due: give the offers that are to be looked at now, each to one caller.

What is given is due again after a while: whoever dies forgets nothing.

KEYS
  offers        zset, client and message id -> when to look at the offer
ARGV
  limit         at most 1000
  again_in_ms   nobody else gets the same for so long
Returns
  claimed       client and message id of each
Events
]]
-- include now_ms

-- No code lives for so long: what waits for longer was put there by a clock that was set back.
local LONGEST_MS = 7200000

local now = now_ms()
local limit = tonumber(arg.limit)
local due = redis.call('ZRANGEBYSCORE', key.offers, '-inf', now, 'LIMIT', 0, limit)
if #due < limit then
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key.offers, '(' .. now + LONGEST_MS, '+inf', 'LIMIT', 0,
    limit - #due)) do
    due[#due + 1] = member
  end
end
local claims = {}
for _, member in ipairs(due) do
  claims[#claims + 1] = now + arg.again_in_ms
  claims[#claims + 1] = member
end

-- All is read and decided; from here on only writes.
if #claims > 0 then
  redis.call('ZADD', key.offers, unpack(claims))
end
return {'claimed', unpack(due)}
