--[[
message_settle: record what became of a leased message. A stale token changes nothing; the same record made twice is one.

KEYS
  message      hash, the message's record
  due          zset, when each waiting message is next due
  wake         list, the token that wakes a worker
  events       stream
ARGV
  message_id
  token
  status        sent, failed, expired or cancelled: it is done; queued: it is due again
  due_in_ms     for queued
  reason        why it is not sent, empty where it is
  sender        who took it, empty where nobody did
  provider_id   the gateway's name for it, empty where it gave none
  begun_by      for queued: the sender that may have it, empty where surely none has
  message_base  names of other keys in this partition, short of their last part
  sealed_base
  event_id
Returns
  recorded
  stale        another lease holds the message, or it has ended
Events
  message.sent
  message.failed
  message.expired
  message.cancelled
  message.postponed
]]
-- include now_ms
-- include event_ids
-- include end_message
-- include wake

-- A message may be given back without end while its code lives; the first times are worth telling.
local TOLD_TRIES = 20
local ENDS = {sent = 'message.sent', failed = 'message.failed', expired = 'message.expired',
  cancelled = 'message.cancelled'}

local now = now_ms()

local lease = redis.call('HMGET', key.message, 'token', 'settled_by')
if lease[1] ~= arg.token then
  if lease[2] == arg.token then
    return {'recorded'}
  end
  return {'stale'}
end
local message = message_facts(arg.message_id)
local waiting = redis.call('LLEN', key.wake)

-- All is read and decided; from here on only writes.
redis.call('HSET', key.message, 'settled_by', arg.token)
if arg.status == 'queued' then
  redis.call('HSET', key.message, 'status', 'queued', 'reason', arg.reason, 'begun_by', arg.begun_by)
  redis.call('HDEL', key.message, 'token')
  redis.call('ZADD', key.due, now + arg.due_in_ms, arg.message_id)
  if tonumber(message.tries) <= TOLD_TRIES then
    append_event(nth_event_id(0), 'message.postponed', message.otp_id, arg.message_id, message.client, message.mode, now,
      'created_at', message.created_at, 'channel', message.channel, 'tries', message.tries, 'reason', arg.reason)
  end
  -- Whoever waits has worked out for how long before this message was given back.
  wake(waiting)
else
  if arg.status == 'sent' then
    redis.call('HSET', key.message, 'sent_at', now)
  end
  end_message(nth_event_id(0), ENDS[arg.status], message, arg.reason, now, arg.sender, arg.provider_id)
end
return {'recorded'}
