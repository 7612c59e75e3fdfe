--[[
message_settle: record what became of a leased message. A stale token changes nothing.

KEYS
  message      hash, the message's record
  sealed       string, its sealed number and text
  due          zset, when each waiting message is next due
  wake         list, the token that wakes a worker
ARGV
  message_id
  token
  status       sent, failed, expired or cancelled: it is done; queued: it is due again
  due_in_ms    for queued
  reason       why it is not sent, empty where it is
  sender       who took it, empty where nobody did
  provider_id  the gateway's name for it, empty where it gave none
Returns
  recorded
  stale        another lease holds the message, or it has ended
Events
]]
-- include now_ms
-- include end_message
-- include wake

local now = now_ms()

local token = redis.call('HGET', key.message, 'token')
if token ~= arg.token then
  return {'stale'}
end
local waiting = redis.call('LLEN', key.wake)

-- All is read and decided; from here on only writes.
if arg.status == 'queued' then
  redis.call('HSET', key.message, 'status', 'queued', 'reason', arg.reason)
  redis.call('HDEL', key.message, 'token')
  redis.call('ZADD', key.due, now + arg.due_in_ms, arg.message_id)
  -- Whoever waits has worked out for how long before this message was given back.
  wake(waiting)
else
  redis.call('HSET', key.message, 'sender', arg.sender, 'provider_id', arg.provider_id, 'settled_at', now)
  end_message(key.message, key.sealed, key.due, arg.message_id, arg.status, arg.reason, now)
end
return {'recorded'}
