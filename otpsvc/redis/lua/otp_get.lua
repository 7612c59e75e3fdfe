--[[
otp_get: read one OTP for its owner. Writes nothing.

KEYS
  otp           hash, the OTP's record
ARGV
  client
  mode
  is_fenced     1 where OTPs end with the history that they were made in
  message_base  names of message records in this partition, short of their id
Returns
  found         now, status, message_id, message status, message parts, message reason, to, purpose, channel, code_length, attempts, max_attempts, created_at, expires_at, resend_at, ended_at, metadata, session, number, to_sealed, resends, ttl_ms
  not_found     now: unknown or another owner's
Events
]]
-- include now_ms
-- include fence

local now = now_ms()

local otp = redis.call('HMGET', key.otp, 'client', 'mode', 'status', 'message_id', 'to', 'purpose', 'channel',
  'code_length', 'attempts', 'max_attempts', 'created_at', 'expires_at', 'resend_at', 'ended_at', 'metadata', 'session',
  'number', 'to_sealed', 'resends', 'ttl_ms', 'fence')
if otp[1] ~= arg.client or otp[2] ~= arg.mode then
  return {'not_found', now}
end
local status = otp[3]
-- Its code verifies no more: what there is no word for is told as the nearest.
if status == 'pending' and (tonumber(otp[12]) <= now or is_fenced_off(otp[21])) then
  status = 'expired'
end
local message = redis.call('HMGET', arg.message_base .. otp[4], 'status', 'parts', 'reason')
return {'found', now, status, otp[4], message[1] or '', message[2] or '', message[3] or '', otp[5], otp[6], otp[7], otp[8], otp[9], otp[10], otp[11],
  otp[12], otp[13], otp[14] or '', otp[15], otp[16], otp[17], otp[18], otp[19], otp[20]}
