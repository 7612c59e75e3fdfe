--[[
message_begin: record that a sender is called now, unless the message is no longer worth sending.

From here to `message_settle` nobody but that sender can say whether the message went out.

KEYS
  message     hash, the message's record
ARGV
  message_id
  token
  sender      who is called
  otp_base    names of OTP records in this partition, short of their id
  is_fenced   1 where OTPs end with the history that they were made in
Returns
  begun
  unwanted    the lease was lost, or the OTP has ended or has a newer code
Events
]]
-- include fence

local message = redis.call('HMGET', key.message, 'token', 'otp_id')
if message[1] ~= arg.token then
  return {'unwanted'}
end
local otp = redis.call('HMGET', arg.otp_base .. message[2], 'status', 'message_id', 'fence')
if otp[1] ~= 'pending' or otp[2] ~= arg.message_id or is_fenced_off(otp[3]) then
  return {'unwanted'}
end

-- All is read and decided; from here on only writes.
redis.call('HSET', key.message, 'begun_by', arg.sender)
return {'begun'}
