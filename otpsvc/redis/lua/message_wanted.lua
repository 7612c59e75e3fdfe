--[[
message_wanted: ask before one more sender whether a leased message is still worth sending. Writes nothing.

KEYS
  message     hash, the message's record
ARGV
  message_id
  token
  otp_base    names of OTP records in this partition, short of their id
Returns
  wanted
  unwanted    the lease was lost, or the OTP has ended or has a newer code
Events
]]

local message = redis.call('HMGET', key.message, 'token', 'otp_id')
if message[1] ~= arg.token then
  return {'unwanted'}
end
local otp = redis.call('HMGET', arg.otp_base .. message[2], 'status', 'message_id')
if otp[1] == 'pending' and otp[2] == arg.message_id then
  return {'wanted'}
end
return {'unwanted'}
