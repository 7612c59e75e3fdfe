--[[
otp_cancel: end a pending OTP because its owner says so. Cancelling a cancelled one answers the same again.

KEYS
  otp           hash, the OTP's record
  due           zset, when each waiting message is next due
  ends          zset, OTP, client and mode -> when its life is over
  events        stream
ARGV
  otp_id
  client
  mode
  event_limit
  is_fenced     1 where OTPs end with the history that they were made in
  otp_base      names of other keys in this partition, short of their last part
  message_base
  sealed_base
  live_base
  event_id
Returns
  cancelled     now
  ended         now, status: it had already ended otherwise
  not_found     now: unknown or another owner's
  fenced        now: made in another history
  busy          now: too many events wait to be written
Events
  otp.cancelled
  message.cancelled
  message.failed
]]
-- include now_ms
-- include fence
-- include event_room
-- include event_ids
-- include end_otp
-- include end_message

local now = now_ms()

local otp = redis.call('HMGET', key.otp, 'client', 'mode', 'status', 'expires_at', 'message_id', 'number', 'purpose',
  'session', 'fence')
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
if is_fenced_off(otp[9]) then
  return {'fenced', now}
end
if is_full(arg.event_limit) then
  return {'busy', now}
end
local message = message_facts(message_id)
local live_name = arg.live_base .. otp[6] .. ':' .. otp[7]
local living = is_living(live_name, session, arg.otp_id)

-- All is read and decided; from here on only writes.
end_otp(arg.otp_id, arg.client, arg.mode, 'cancelled', message_id, live_name, session, living, now)
append_event(nth_event_id(0), 'otp.cancelled', arg.otp_id, message_id, arg.client, arg.mode, now, 'reason', '')
if is_idle(message) then
  end_unwanted(nth_event_id(1), 'message.cancelled', message, 'cancelled', now)
end
return {'cancelled', now}
