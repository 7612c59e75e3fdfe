--[[
number_forget: erase one number from the records of one client and mode. What is pending ends as cancelled.

What limits the number stays: its names hold a blind index only, and forgetting must hand nobody new codes.

KEYS
  sends         zset, this client's and mode's codes to the number: every record that could still name it is in there
  due           zset, when each waiting message is next due
  ends          zset, OTP, client and mode -> when its life is over
  events        stream
ARGV
  client
  mode
  otp_base      names of other keys in this partition, short of their last part
  message_base
  sealed_base
  live_base
  event_id
Returns
  forgotten     how many OTPs, how many messages named the number until now
Events
  otp.cancelled
  message.cancelled
  message.failed
]]
-- include now_ms
-- include event_ids
-- include end_otp
-- include end_message

local now = now_ms()
local messages, otps, known = {}, {}, {}
local n_messages, n_otps = 0, 0
for _, message_id in ipairs(redis.call('ZRANGE', key.sends, 0, -1)) do
  local message = message_facts(message_id)
  if message.client == arg.client and message.mode == arg.mode then
    messages[#messages + 1] = message
    if redis.call('HGET', arg.message_base .. message_id, 'to') ~= '' then
      n_messages = n_messages + 1
    end
    if not known[message.otp_id] then
      known[message.otp_id] = true
      local otp = redis.call('HMGET', arg.otp_base .. message.otp_id, 'status', 'expires_at', 'message_id', 'number',
        'purpose', 'session', 'to')
      if otp[1] then
        local live_name = arg.live_base .. otp[4] .. ':' .. otp[5]
        otps[#otps + 1] = {id = message.otp_id, is_pending = otp[1] == 'pending' and tonumber(otp[2]) > now,
          message_id = otp[3], live_name = live_name, session = otp[6],
          living = is_living(live_name, otp[6], message.otp_id)}
        if otp[7] ~= '' then
          n_otps = n_otps + 1
        end
      end
    end
  end
end

-- All is read and decided; from here on only writes.
local told = 0
for _, otp in ipairs(otps) do
  redis.call('HSET', arg.otp_base .. otp.id, 'to', '', 'to_sealed', '', 'metadata', '')
  if otp.is_pending then
    end_otp(otp.id, arg.client, arg.mode, 'cancelled', otp.message_id, otp.live_name, otp.session, otp.living, now)
    append_event(nth_event_id(told), 'otp.cancelled', otp.id, otp.message_id, arg.client, arg.mode, now,
      'reason', 'forgotten')
    told = told + 1
  end
end
for _, message in ipairs(messages) do
  redis.call('HSET', arg.message_base .. message.id, 'to', '', 'text', '')
  redis.call('DEL', arg.sealed_base .. message.id)
  if is_idle(message) then
    end_unwanted(nth_event_id(told), 'message.cancelled', message, 'forgotten', now)
    told = told + 1
  end
end
return {'forgotten', n_otps, n_messages}
