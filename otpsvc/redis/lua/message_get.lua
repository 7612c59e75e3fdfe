--[[
message_get: read one message for its owner. Writes nothing.

KEYS
  message     hash, the message's record
ARGV
  client
  mode
  otp_base    names of OTP records in this partition, short of their id
Returns
  found       otp_id, status, channel, parts, to, text, reason, sender, tries, created_at, sent_at, ended_at, delivered_at, expires_at, metadata; empty where there is none
  not_found   unknown or another owner's
Events
]]

local message = redis.call('HMGET', key.message, 'client', 'mode', 'otp_id', 'status', 'channel', 'parts', 'to', 'text',
  'reason', 'sender', 'tries', 'created_at', 'sent_at', 'ended_at', 'delivered_at',
  'expires_at')
if message[1] ~= arg.client or message[2] ~= arg.mode then
  return {'not_found'}
end
local facts = {}
for i = 3, 16 do
  facts[#facts + 1] = message[i] or ''
end
facts[#facts + 1] = redis.call('HGET', arg.otp_base .. message[3], 'metadata') or ''
return {'found', unpack(facts)}
