--[[
message_settle: record what became of a leased message. A stale token changes nothing; the same record made twice is one.

What receipts have said while the lease was held is heard first: a worker may not know it.

KEYS
  message      hash, the message's record
  due          zset, when each waiting message is next due
  wake         list, the token that wakes a worker
  events       stream
ARGV
  message_id
  token
  status        sent: a sender took it; kept: it was sent and nobody else is asked; queued: it is due again; failed, expired or cancelled: it will not be sent
  due_in_ms     for queued; for sent, until when its receipt is waited for, empty where none is
  reason        why it is not sent, empty where it is
  sender        who took it, empty where nobody did
  provider_id   the gateway's name for it, empty where it gave none
  begun_by      for queued: the sender that may have it, empty where surely none has
  tried         steps that are over and not yet written: sender, outcome, sender, outcome, ...
  keep_ms       for sent where no receipt is waited for: how long the record stays
  owns_code     for sent: 1 where the sender's gateway made a code of its own, and guesses are put to it
  otp_base      names of OTP records in this partition, short of their id
  message_base  names of other keys in this partition, short of their last part
  sealed_base
  event_id
Returns
  recorded
  stale        another lease holds the message, or it has ended
Events
  message.sent
  message.tried
  message.failed
  message.expired
  message.cancelled
  message.postponed
]]
-- include now_ms
-- include sent_or_failed

local ENDS = {failed = 'message.failed', expired = 'message.expired', cancelled = 'message.cancelled'}

local now = now_ms()

local message = message_facts(arg.message_id)
-- A record that is gone must not be made anew.
local owns_code = arg.owns_code == '1' and arg.provider_id ~= '' and message.otp_id
  and redis.call('EXISTS', arg.otp_base .. message.otp_id) == 1

local function note_who_checks()
  redis.call('HSET', arg.otp_base .. message.otp_id, 'check_by',
    message.id .. ' ' .. now .. ' ' .. arg.sender .. ' ' .. arg.provider_id)
end

if message.token ~= arg.token then
  if message.settled_by ~= arg.token then
    return {'stale'}
  end
  -- A receipt that it was delivered came first, and knew nothing of the gateway's own id.
  if owns_code and message.status == 'delivered' then
    note_who_checks()
  end
  return {'recorded'}
end
local waiting = redis.call('LLEN', key.wake)
local news = take_tried(message, arg.tried, false)
local question = message.begun_by ~= '' and message.begun_by or message.awaiting
local answered = arg.status ~= 'sent' and answered_by(message)
-- What a worker says for its own part, not for want of an answer.
local is_sure = arg.status == 'failed' and arg.reason ~= 'unknown_outcome'
if arg.status == 'sent' then
  message.pid[arg.sender] = arg.provider_id
  if not failure_of(message, arg.sender) and message.by[arg.sender] ~= 'sent' then
    message.by[arg.sender] = 'accepted'
  end
elseif arg.status == 'queued' and message.begun_by ~= arg.begun_by and message.by[message.begun_by] == 'begun' then
  message.by[message.begun_by] = nil
end

-- All is read and decided; from here on only writes.
if arg.status ~= 'sent' then
  write_states(key.message, message, 'settled_by', arg.token)
elseif failure_of(message, arg.sender) then
  write_states(key.message, message, 'settled_by', arg.token, 'pid:' .. arg.sender, arg.provider_id)
else
  write_states(key.message, message, 'settled_by', arg.token, 'pid:' .. arg.sender, arg.provider_id,
    sent_fields(message, arg.sender, now))
end
write_tried(message, news, now)
if arg.status == 'sent' then
  if owns_code then
    note_who_checks()
  end
  if failure_of(message, arg.sender) then
    gateway_failed(message, arg.sender, now, waiting)
  else
    tell_sent(message, arg.sender, now)
    message.status = 'sent'
    if arg.due_in_ms == '' or has_left(message) then
      let_go(message, arg.keep_ms)
    else
      make_due(message, '', now + arg.due_in_ms, '', arg.sender)
      wake(waiting)
    end
  end
elseif answered then
  become_sent(message, answered, now)
elseif arg.status == 'kept' then
  if failure_of(message, question) then
    gateway_failed(message, question, now, waiting)
  else
    end_unwanted(next_event_id(), 'message.failed', message, 'unknown_outcome', now)
  end
elseif arg.status == 'queued' then
  if failure_of(message, arg.begun_by) then
    gateway_failed(message, arg.begun_by, now, waiting)
  else
    -- Of a message that was sent somebody's receipt is always awaited while it is due.
    local sent_by = message.status == 'sent' and arg.begun_by == '' and message.sender or ''
    make_due(message, arg.reason, now + arg.due_in_ms, arg.begun_by,
      message.awaiting ~= '' and message.awaiting or sent_by)
    if tonumber(message.tries) <= TOLD_TRIES then
      append_event(next_event_id(), 'message.postponed', message.otp_id, message.id, message.client, message.mode, now,
        'created_at', message.created_at, 'channel', message.channel, 'tries', message.tries, 'reason', arg.reason)
    end
    -- Whoever waits has worked out for how long before this message was given back.
    wake(waiting)
  end
elseif failure_of(message, message.begun_by) and not is_sure then
  gateway_failed(message, message.begun_by, now, waiting)
elseif message.status == 'sent' and not (is_sure and failure_of(message, message.sender) and not may_have(message)) then
  end_unwanted(next_event_id(), ENDS[arg.status], message, arg.reason, now)
else
  local doubtful = arg.reason == 'unknown_outcome' and in_doubt(message)
  end_message(next_event_id(), ENDS[arg.status], message, arg.reason, now, doubtful or message.sender)
end
return {'recorded'}
