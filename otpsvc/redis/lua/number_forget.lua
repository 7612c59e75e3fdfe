--[[
number_forget: erase one number from the records of one client and mode. What is pending ends as cancelled.

What a phone has not pulled is taken back and gives its budget back; one that has pulled it is asked to drop it.

What limits the number stays, and what its pulled messages count against a SIM: these hold a blind index only, and
forgetting must hand nobody new codes, nor a SIM more recipients than it may write to.

KEYS
  sends         zset, this client's and mode's codes to the number in the last hour
  due           zset, when each waiting message is next due
  ends          zset, OTP, client and mode -> when its life is over
  events        stream
  offers        zset, client and message id -> when to look at the offer
ARGV
  client
  mode
  message_ids   of older messages to the number, with a space between them
  otp_base      names of other keys in this partition, short of their last part
  message_base
  sealed_base
  live_base
  offer_base    names of the client's other keys, short of their last part
  text_base
  inbox_base
  sim_base
  recipients_base
  is_fenced     1 where OTPs end with the history that they were made in
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
-- include offer_changes

local now = now_ms()
local messages, otps, known, offers = {}, {}, {}, {}
local n_messages, n_otps = 0, 0
local message_ids = redis.call('ZRANGE', key.sends, 0, -1)
local listed = {}
for _, message_id in ipairs(message_ids) do
  listed[message_id] = true
end
for message_id in string.gmatch(arg.message_ids, '%S+') do
  if not listed[message_id] then
    listed[message_id] = true
    message_ids[#message_ids + 1] = message_id
  end
end
for _, message_id in ipairs(message_ids) do
  local offer = offer_facts(arg.offer_base .. message_id, message_id)
  if offer and offer.mode == arg.mode then
    offers[#offers + 1] = offer
  end
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
-- The latest first, so that each finds counted what those after it have left.
table.sort(offers, function(one, other) return one.recipient_at > other.recipient_at end)
local counted = {}
for _, offer in ipairs(offers) do
  local lying = be_withdrawn(offer)
  if lying then
    local counted_at = counted[lying.sim] or lying.counted_at
    lying.is_last = counted_at == offer.recipient_at
    counted[lying.sim] = lying.is_last and (tonumber(lying.was_at) or -1) or counted_at
    if not another_may_have(offer, '') then
      owe(offer, 'cancelled', 'send_timeout')
    end
  end
  offer.lying = lying
end

-- All is read and decided; from here on only writes.
local told = 0
for _, offer in ipairs(offers) do
  write_offer(offer)
  if offer.lying then
    take_back(offer, offer.lying)
  end
  if not is_told(offer) or another_may_have(offer, '') then
    look_at(offer, now)
  end
end
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
for _, message_id in ipairs(message_ids) do
  redis.call('DEL', arg.text_base .. message_id)
end
return {'forgotten', n_otps, n_messages}
