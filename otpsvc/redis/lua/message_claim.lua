--[[
message_claim: lease due messages to one worker, and end those whose code is no longer wanted.

A leased message stays in the due-set, due again when its lease runs out: a worker that dies forgets nothing.

KEYS
  due           zset, when each waiting message is next due
  wake          list, the token that wakes a worker
  events        stream
ARGV
  token         names this lease: only its holder may record what became of the messages
  is_repeated   1 where the answer to an earlier claim under this token was lost, else 0
  lease_ms
  limit         at most 1000
  min_life_ms   a code with less life left is not sent
  is_fenced     1 where OTPs end with the history that they were made in
  otp_base      names of other keys in this partition, short of their last part
  message_base
  sealed_base
  event_id
Returns
  claimed       in how many ms the next message falls due (-1: none waits), then a list per leased message: message_id, client, mode, otp_id, channel, sealed text, created_at, expires_at, life left, tries, the sender that was begun and never settled (or empty)
Events
  message.cancelled
  message.failed
  message.expired
]]
-- include now_ms
-- include fence
-- include event_ids
-- include end_message
-- include wake

local now = now_ms()
local limit = tonumber(arg.limit)
local lease_until = now + arg.lease_ms

-- What a lost answer had leased was never handed to a sender, so it is handed out again rather than left to run out.
local held = {}
if arg.is_repeated == '1' then
  for _, message_id in ipairs(redis.call('ZRANGEBYSCORE', key.due, '(' .. now, lease_until, 'LIMIT', 0, 1000)) do
    if #held < limit and redis.call('HGET', arg.message_base .. message_id, 'token') == arg.token then
      held[#held + 1] = message_id
    end
  end
end
local due = redis.call('ZRANGEBYSCORE', key.due, '-inf', now, 'LIMIT', 0, limit - #held)
local found = #due
for _, message_id in ipairs(held) do
  due[#due + 1] = message_id
end
local leased, ended, missing = {}, {}, {}
for _, message_id in ipairs(due) do
  local message = message_facts(message_id)
  if not message.client then
    missing[#missing + 1] = message_id
  else
    local expires_at = redis.call('HGET', arg.message_base .. message_id, 'expires_at')
    local otp = redis.call('HMGET', arg.otp_base .. message.otp_id, 'status', 'message_id', 'fence')
    local sealed = redis.call('GET', arg.sealed_base .. message_id)
    local life = expires_at - now
    if otp[1] and otp[1] ~= 'pending' and otp[1] ~= 'expired' then
      ended[#ended + 1] = {'message.cancelled', message, otp[1]}
    elseif otp[2] and otp[2] ~= message_id then
      ended[#ended + 1] = {'message.cancelled', message, 'resent'}
    elseif is_fenced_off(otp[3]) then
      ended[#ended + 1] = {'message.cancelled', message, 'fenced'}
    elseif otp[1] ~= 'pending' or not sealed or life < tonumber(arg.min_life_ms) then
      ended[#ended + 1] = {'message.expired', message, 'code_expired'}
    else
      leased[#leased + 1] = {message_id, message.client, message.mode, message.otp_id, message.channel, sealed,
        message.created_at, expires_at, life, message.tries + 1, message.begun_by}
    end
  end
end
local later = redis.call('ZRANGEBYSCORE', key.due, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local waiting = redis.call('LLEN', key.wake)

-- All is read and decided; from here on only writes.
for _, message in ipairs(leased) do
  redis.call('HSET', arg.message_base .. message[1], 'status', 'processing', 'token', arg.token, 'tries', message[10])
  redis.call('ZADD', key.due, lease_until, message[1])
end
for n, one in ipairs(ended) do
  end_unwanted(nth_event_id(n), one[1], one[2], one[3], now)
end
if #missing > 0 then
  redis.call('ZREM', key.due, unpack(missing))
end
local next_due = later[2] and tonumber(later[2]) or nil
if #leased > 0 then
  next_due = math.min(next_due or lease_until, lease_until)
end
if found == limit - #held then
  wake(waiting)
  next_due = now
end
return {'claimed', next_due and next_due - now or -1, leased}
