--[[
message_receipt: tell a message what a gateway says about it. States only move forward; a last status never changes,
except that what was sent may turn out delivered or failed, and that what failed without anybody's knowing (unknown_outcome)
may turn out sent or delivered.

While a worker holds the message only the sender's state is written: what the worker records next is decided with it.

KEYS
  message        hash, the message's record
  due            zset, when each waiting message is next due
  ends           zset, OTP, client and mode -> when its life is over
  wake           list, the token that wakes a worker
  events         stream
ARGV
  message_id
  sender         whose gateway says so
  status         accepted, dispatched, sent, delivered, failed, expired, cancelled or unknown
  kind           why, for failed: a word of our own
  next_may_try   1 where another sender may do better, else 0
  event_limit    in the stream, with what living OTPs and messages still owe
  message_base   names of other keys in this partition, short of their last part
  sealed_base
  event_id
Returns
  applied
  repeated      nothing new
  foreign       this sender was never asked to carry it
  unknown       there is no record (any more)
  busy          too many events wait to be written
Events
  message.sent
  message.delivered
  message.failed
  message.tried
]]
-- include now_ms
-- include event_room
-- include sent_or_failed

local MEANS = {accepted = 'accepted', dispatched = 'accepted', sent = 'sent', delivered = 'delivered', failed = 'failed',
  expired = 'failed', cancelled = 'failed'}
-- From which states a receipt moves a sender on.
local FROM = {
  accepted = {begun = true, silent = true},
  sent = {begun = true, silent = true, accepted = true, rejected = true},
  delivered = {begun = true, silent = true, accepted = true, rejected = true, sent = true, failed = true},
  failed = {begun = true, silent = true, accepted = true, sent = true},
}

-- Good news of one that may have the message is heard after an end of which nobody knew.
local function is_late_truth(message, means, word)
  return message.status == 'failed' and message.reason == 'unknown_outcome' and (means == 'sent' or means == 'delivered')
    and word ~= 'failed' and word ~= 'rejected'
end

local message = message_facts(arg.message_id)
local sender, means, state = arg.sender, MEANS[arg.status], message.by[arg.sender]
if not message.client then
  return {'unknown'}
end
if not state then
  return {'foreign'}
end
local word = string.match(state, '^%a+')
if not means or not FROM[means][word] or (message.ended_at and not is_late_truth(message, means, word)) then
  return {'repeated'}
end
if is_full(arg.event_limit) then
  return {'busy'}
end
local waiting = redis.call('LLEN', key.wake)
local now = now_ms()
local is_held = message.token
local has_question = message.begun_by ~= '' or message.awaiting ~= ''
local could_be_sent = message.status ~= 'sent' or has_question
message.by[sender] = means == 'failed' and 'failed:' .. (arg.kind ~= '' and arg.kind or 'undeliverable') or means

-- All is read and decided; from here on only writes.
write_states(key.message, message)
if means == 'failed' and arg.next_may_try ~= '1' then
  redis.call('HSET', key.message, 'hopeless_by', sender)
  message.hopeless_by = sender
end
if means == 'delivered' then
  redis.call('HSET', key.message, 'delivered_at', now)
  if is_held then
    -- What its holder is going to record is a harmless repeat now.
    redis.call('HSET', key.message, 'settled_by', message.token)
  end
  end_message(next_event_id(), 'message.delivered', message, '', now, sender)
elseif is_held and means == 'failed' and sender == message.awaiting and message.begun_by ~= sender
  and message.hopeless_by ~= sender then
  -- Whoever holds the message may give it back without a word about this step.
  redis.call('HSET', key.message, 'told_failed', sender)
  tell_tried(message, sender, failure_of(message, sender), false, now)
elseif is_held or not could_be_sent and means ~= 'failed' then
  return {'applied'}
elseif means == 'accepted' then
  if answered_by(message) == sender then
    become_sent(message, sender, now)
  end
elseif means == 'sent' then
  become_sent(message, sender, now)
elseif sender == message.begun_by or sender == message.awaiting then
  gateway_failed(message, sender, now, waiting)
elseif not could_be_sent and failure_of(message, message.sender) then
  end_failed(message, sender, now)
end
return {'applied'}
