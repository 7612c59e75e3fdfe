--[[
polls_claim: give the messages that a gateway is to be asked about now, each to one caller.

What is given is due again after a while: a poller that dies forgets nothing. What is too old to ask about is let go.

KEYS
  polls         zset, gateway's id (as a hash) -> when to ask the gateway about it
ARGV
  limit         at most 1000
  again_in_ms   nobody else gets the same for so long
  longest_ms    the longest that one waits for its turn; a later one was put there by a clock that was set back
  past_end_ms   a message is let go so long after the end of its code
  sent_base     names of what is known of the gateway's ids, short of the id
Returns
  claimed       what is known of each, JSON
Events
]]
-- include now_ms

local MOST_LET_GO = 1000

local now = now_ms()
local limit = tonumber(arg.limit)
local due = redis.call('ZRANGEBYSCORE', key.polls, '-inf', now, 'LIMIT', 0, limit + MOST_LET_GO)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key.polls, '(' .. now + arg.longest_ms, '+inf', 'LIMIT', 0, limit)) do
  due[#due + 1] = id
end
local claimed, claims, past = {}, {}, {}
for _, id in ipairs(due) do
  if #claimed == limit then
    break
  end
  local sent = redis.call('GET', arg.sent_base .. id)
  if sent and cjson.decode(sent).expires_at_ms + arg.past_end_ms > now then
    claimed[#claimed + 1] = sent
    claims[#claims + 1] = now + arg.again_in_ms
    claims[#claims + 1] = id
  else
    past[#past + 1] = id
  end
end

-- All is read and decided; from here on only writes.
if #claims > 0 then
  redis.call('ZADD', key.polls, unpack(claims))
end
if #past > 0 then
  redis.call('ZREM', key.polls, unpack(past))
end
return {'claimed', unpack(claimed)}
