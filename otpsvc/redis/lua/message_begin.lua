--[[
message_begin: record that a sender is called now, unless the message is no longer worth sending.

From here to `message_settle` nobody but that sender, or its receipt, can say whether the message went out.

KEYS
  message        hash, the message's record
  events         stream
ARGV
  message_id
  token
  sender         who is called
  tried          steps that are over and not yet written: sender, outcome, sender, outcome, ...
  may_duplicate  1 where a sender that was silent may have the message, else 0
  otp_base       names of other keys in this partition, short of their last part
  message_base
  is_fenced      1 where OTPs end with the history that they were made in
  event_id
Returns
  begun
  unwanted    the lease was lost, the OTP has ended or has a newer code, or a receipt says that nobody else need be asked
Events
  message.tried
]]
-- include now_ms
-- include fence
-- include tried

local lease = redis.call('HMGET', key.message, 'token', 'otp_id', 'asked', 'begun_in')
if lease[1] ~= arg.token then
  return {'unwanted'}
end
if lease[4] == arg.event_id then
  -- This very call, whose answer was lost.
  return {'begun'}
end
local message = {id = arg.message_id, by = {}, was = {}, begun_by = '', awaiting = ''}
if lease[3] or arg.tried ~= '' then
  -- Not the first one to be asked.
  message = message_facts(arg.message_id)
end
local question = message.begun_by ~= '' and message.begun_by or message.awaiting
if answered_by(message) or (question ~= '' and message.hopeless_by == question) then
  return {'unwanted'}
end
local otp = redis.call('HMGET', arg.otp_base .. lease[2], 'status', 'message_id', 'fence')
if otp[1] ~= 'pending' or otp[2] ~= arg.message_id or is_fenced_off(otp[3]) then
  return {'unwanted'}
end
local now = now_ms()
local before = message.by[question]
if question ~= '' and question ~= arg.sender and not (before and string.find(before, ':', 1, true)) then
  message.by[question] = 'silent'
end
local news = take_tried(message, arg.tried, arg.may_duplicate == '1')
message.by[arg.sender] = 'begun'

-- All is read and decided; from here on only writes.
if message.begun_by == arg.sender then
  -- Asked again: its receipt is waited for since the first time.
  write_states(key.message, message, 'begun_by', arg.sender)
else
  write_states(key.message, message, 'begun_by', arg.sender, 'begun_at', now)
end
if message.awaiting ~= '' then
  redis.call('HDEL', key.message, 'awaiting')
end
if lease[3] then
  -- Whether it took the message is open again.
  redis.call('HDEL', key.message, 'pid:' .. arg.sender)
end
if #news > 0 then
  redis.call('HSET', key.message, 'begun_in', arg.event_id)
  write_tried(message, news, now)
end
return {'begun'}
