--[[
message_tell: write the event of a receipt about a message whose record is gone, once: a gateway may say it again before
the history has it.

KEYS
  told          string, the status that was told of the message
  due           zset, when each waiting message is next due
  ends          zset, OTP, client and mode -> when its life is over
  events        stream
ARGV
  message_id
  otp_id
  client
  mode
  channel
  created_at
  tries
  sender        whose gateway says so
  provider_id
  status        delivered or failed
  reason        why, for failed
  event_limit   in the stream, with what living OTPs and messages still owe
  event_id
Returns
  told
  repeated      an end was told already
  busy          too many events wait to be written
Events
  message.delivered
  message.failed
]]
-- include now_ms
-- include event_room
-- include append_event

if redis.call('EXISTS', key.told) == 1 then
  return {'repeated'}
end
if is_full(arg.event_limit) then
  return {'busy'}
end
local name = arg.status == 'delivered' and 'message.delivered' or 'message.failed'
local now = now_ms()

-- All is read and decided; from here on only writes.
redis.call('SET', key.told, arg.status, 'PX', 3600000)
append_event(arg.event_id, name, arg.otp_id, arg.message_id, arg.client, arg.mode, now,
  'created_at', arg.created_at, 'channel', arg.channel, 'tries', arg.tries, 'reason', arg.reason,
  'sender', arg.sender, 'provider_id', arg.provider_id)
return {'told'}
