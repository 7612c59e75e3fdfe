--[[
offer_make: choose a phone for a message and put it into that phone's inbox. The same message again gets the same answer
as long as somebody has it.

KEYS
  offer          hash, what the pool knows of the message
  text           string, number and text under the pool's sealing
  pool           zset, device -> until when it counts as there
  spent          string, there while nobody of the pool is to be looked for again
  message        hash, the message's record
  offers         zset, client and message id -> when to look at the offer
  events         stream of the message's partition
ARGV
  message_id
  client
  mode
  sender         whose offer this is
  recipient      blind index of the number
  operator       of the number, in the same form as those of the phones' SIMs; empty where nobody knows
  sealed
  expires_at     the end of the code
  pull_ms        a phone that has not pulled it by then loses it
  report_ms      one that pulled it and has said nothing for so long is passed
  give_up_ms     after its acceptance, if nobody has pulled it; sooner where the code ends soon
  pinned         the only phone that may have it, or empty
  luck           a number made by chance
  device_base    names of the client's other keys, short of their last part
  inbox_base
  sim_base
  recipients_base
  otp_base       names of OTPs in the message's partition, short of their id
  is_fenced      1 where OTPs end with the history that they were made in
  event_id
Returns
  offered        device, how many ms ago the message was accepted
  none           age: nobody is there, or the phone that may have it was called off, or was another sender's choice
  budget         age: those who are there are over their budget, or left alone for now
  empty          age: the client has no phone
  offline        age: the pinned phone is not there
  foreign        age: the pinned phone is not this client's
  unwanted       the code has ended, or another sender was asked
Events
  message.offered
]]
-- include now_ms
-- include choose_phone
-- include offer_hand_over

-- What nobody has pulled is given up while another sender can still be asked.
local LEFT_FOR_OTHERS_MS = 35000
local HAS_IT = {offered = true, pulled = true, processed = true, sent = true, delivered = true, silent = true}

local now = now_ms()
local record = redis.call('HMGET', key.message, 'otp_id', 'channel', 'created_at', 'tries')
if not record[1] then
  return {'unwanted'}
end
local offer = offer_facts(key.offer, arg.message_id)
local has_somebody = offer and (HAS_IT[offer.by[offer.holder]] or another_may_have(offer, ''))
if has_somebody and offer.sender == arg.sender and offer.is_withdrawn ~= '1' then
  return {'offered', offer.holder, age_of(offer, now)}
end
local expires_at = tonumber(arg.expires_at)
offer = {record = key.offer, id = arg.message_id, client = arg.client, mode = arg.mode, sender = arg.sender,
  channel = record[2], created_at = tonumber(record[3]), otp_id = record[1], tries = record[4], message = key.message,
  otp = arg.otp_base .. record[1], events = key.events, recipient = arg.recipient, operator = arg.operator,
  expires_at = expires_at, pull_ms = tonumber(arg.pull_ms), pinned = arg.pinned, moves = 0, changes = 0,
  is_withdrawn = '0', owed = '', told = '', by = offer and offer.by or {}}
local age = age_of(offer, now)
if not is_wanted(offer, now) then
  return {'unwanted'}
end
if has_somebody then
  return {'none', age}
end
if arg.pinned ~= '' then
  local phone = phone_facts(arg.pinned)
  if phone[MODE] ~= arg.mode then
    return {'foreign', age}
  end
  if not is_there(phone, arg.mode, now) then
    return {'offline', age}
  end
elseif redis.call('ZCARD', key.pool) == 0 then
  return {'empty', age}
end
local choice, is_spent, is_anybody = choose_phone(offer, key.pool, key.spent, now)
if not choice then
  if is_spent then
    redis.call('SET', key.spent, '1', 'PX', SPENT_MS)
  end
  if is_anybody then
    return {'budget', age}
  end
  return {'none', age}
end
be_held_by(offer, choice, now)

-- All is read and decided; from here on only writes.
redis.call('HSET', key.offer, 'client', arg.client, 'mode', arg.mode, 'sender', arg.sender, 'channel', offer.channel,
  'created_at', offer.created_at, 'otp_id', offer.otp_id, 'tries', offer.tries, 'message', key.message,
  'otp', offer.otp, 'events', key.events, 'operator', arg.operator,
  'expires_at', expires_at, 'pull_ms', arg.pull_ms, 'report_ms', arg.report_ms,
  'give_up_at', math.min(offer.created_at + arg.give_up_ms, expires_at - LEFT_FOR_OTHERS_MS), 'pinned', arg.pinned)
redis.call('PEXPIREAT', key.offer, expires_at + DAY_MS)
write_offer(offer)
redis.call('SET', key.text, arg.sealed, 'PXAT', expires_at)
hand_over(offer, choice, now)
return {'offered', offer.holder, age}
