--[[
otp_cancel: end a pending OTP because its owner says so. Cancelling a cancelled one answers the same again.

KEYS
  otp           hash, the OTP's record
  due           zset, when each waiting message is next due
  events        stream
ARGV
  otp_id
  client
  mode
  message_base  names of other keys in this partition, short of their last part
  sealed_base
  live_base
  event_id
Returns
  cancelled     now
  ended         now, status: it had already ended otherwise
  not_found     now: unknown or another owner's
Events
  otp.cancelled
]]
-- include now_ms
-- include end_otp
-- include end_message
-- include append_event

local now = now_ms()

local otp = redis.call('HMGET', key.otp, 'client', 'mode', 'status', 'expires_at', 'message_id', 'number', 'purpose',
  'session')
local status, message_id, session = otp[3], otp[5], otp[8]
if otp[1] ~= arg.client or otp[2] ~= arg.mode then
  return {'not_found', now}
end
if status == 'cancelled' then
  return {'cancelled', now}
end
if status == 'pending' and tonumber(otp[4]) <= now then
  status = 'expired'
end
if status ~= 'pending' then
  return {'ended', now, status}
end
local message_status = redis.call('HGET', arg.message_base .. message_id, 'status')
local live_name = arg.live_base .. otp[6] .. ':' .. otp[7]
local living = is_living(live_name, session, arg.otp_id)

-- All is read and decided; from here on only writes.
end_otp('cancelled', message_id, live_name, session, living, now)
if message_status == 'queued' then
  end_message(arg.message_base .. message_id, arg.sealed_base .. message_id, key.due, message_id, 'cancelled',
    'cancelled', now)
end
append_event(key.events, arg.event_id, 'otp.cancelled', arg.otp_id, message_id, arg.client, arg.mode, now)
return {'cancelled', now}
