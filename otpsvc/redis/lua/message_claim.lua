--[[
message_claim: lease due messages to one worker, and end those whose code is no longer wanted.

A leased message stays in the due-set, due again when its lease runs out: a worker that dies forgets nothing. One that
was sent is due when its receipt is overdue; it stays sent whatever becomes of it here.

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
  claimed       in how many ms the next message falls due (-1: none waits), then a list per leased message: message_id, client, mode, otp_id, channel, sealed text, created_at, expires_at, life left, tries, the sender that was begun and never settled (or empty), ms since then, the sender whose receipt is awaited (or empty), a list of senders and their states, code_length, max_attempts
Events
  message.cancelled
  message.failed
  message.expired
  message.sent
  message.tried
]]
-- include now_ms
-- include fence
-- include sent_or_failed

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

local function asked(message)
  local states = {}
  for sender, state in pairs(message.by) do
    states[#states + 1] = sender
    states[#states + 1] = state
  end
  return states
end

-- A receipt came while a worker held the message, and that worker died: whom it had called has failed.
local function tell_failed(message)
  tell_tried(message, message.awaiting, failure_of(message, message.awaiting), false, now)
end

local due = redis.call('ZRANGEBYSCORE', key.due, '-inf', now, 'LIMIT', 0, limit - #held)
local found = #due
for _, message_id in ipairs(held) do
  due[#due + 1] = message_id
end
local messages, leased, sent, failed, ended, missing = {}, {}, {}, {}, {}, {}
for _, message_id in ipairs(due) do
  local message = message_facts(message_id)
  local answered = answered_by(message)
  local is_begun_failed = failure_of(message, message.begun_by)
  if not message.client or message.ended_at then
    missing[#missing + 1] = message_id
  elseif answered then
    sent[#sent + 1] = {message, answered}
  elseif is_begun_failed and message.hopeless_by == message.begun_by then
    failed[#failed + 1] = message
  else
    local otp = redis.call('HMGET', arg.otp_base .. message.otp_id, 'status', 'message_id', 'fence', 'code_length',
      'max_attempts')
    local sealed = redis.call('GET', arg.sealed_base .. message_id)
    local times = redis.call('HMGET', arg.message_base .. message_id, 'expires_at', 'begun_at')
    local life = times[1] - now
    if is_begun_failed then
      message.awaiting, message.begun_by, message.has_failed = message.begun_by, '', true
    end
    if otp[1] and otp[1] ~= 'pending' and otp[1] ~= 'expired' then
      ended[#ended + 1] = {'message.cancelled', message, otp[1]}
    elseif otp[2] and otp[2] ~= message_id then
      ended[#ended + 1] = {'message.cancelled', message, 'resent'}
    elseif is_fenced_off(otp[3]) then
      ended[#ended + 1] = {'message.cancelled', message, 'fenced'}
    elseif otp[1] ~= 'pending' or not sealed or life < tonumber(arg.min_life_ms) then
      ended[#ended + 1] = {'message.expired', message, 'code_expired'}
    else
      message.tries = message.tries + 1
      messages[#messages + 1] = message
      leased[#leased + 1] = {message_id, message.client, message.mode, message.otp_id, message.channel, sealed,
        message.created_at, times[1], life, message.tries, message.begun_by,
        message.begun_by ~= '' and math.max(0, now - (times[2] or now)) or 0, message.awaiting, asked(message),
        otp[4], otp[5]}
    end
  end
end
local later = redis.call('ZRANGEBYSCORE', key.due, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local waiting = redis.call('LLEN', key.wake)

-- All is read and decided; from here on only writes.
for _, message in ipairs(messages) do
  redis.call('HSET', arg.message_base .. message.id, 'status', message.status == 'sent' and 'sent' or 'processing',
    'token', arg.token, 'tries', message.tries)
  redis.call('ZADD', key.due, lease_until, message.id)
  if message.has_failed then
    redis.call('HSET', arg.message_base .. message.id, 'begun_by', '', 'awaiting', message.awaiting)
    tell_failed(message)
  end
end
for _, one in ipairs(sent) do
  redis.call('HSET', arg.message_base .. one[1].id, 'status', 'sent')
  become_sent(one[1], one[2], now)
end
for _, message in ipairs(failed) do
  gateway_failed(message, message.begun_by, now, waiting)
end
for _, one in ipairs(ended) do
  redis.call('HSET', arg.message_base .. one[2].id, 'reason', one[3])
  if one[2].has_failed then
    tell_failed(one[2])
  end
  end_unwanted(next_event_id(), one[1], one[2], one[3], now)
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
