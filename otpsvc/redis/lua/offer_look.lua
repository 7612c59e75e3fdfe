--[[
offer_look: pass a phone that has not pulled a message in time or has gone, or that pulled it and is silent; give up
what nobody can have any more; and name what is known and was never told to the message.

KEYS
  offer          hash, what the pool knows of the message
  text           string, number and text under the pool's sealing
  offers         zset, client and message id -> when to look at the offer
  presence       zset, phone -> when to look whether it is still there
ARGV
  client
  message_id
  luck           a number made by chance
  device_base    names of the client's other keys, short of their last part
  pool_base
  spent_base
  inbox_base
  sim_base
  recipients_base
  is_fenced      1 where OTPs end with the history that they were made in
  event_id
Returns
  waiting        it is looked at again: sender, status, kind, device, 1 for a possible duplicate, why, age in ms, and what to call to whom, or empty
  told           the same: status and kind are to be told to the message
  moved          the same: device has it now
  over           nothing is left to be done
Events
  message.taken_over
  message.offered
]]
-- include now_ms
-- include choose_phone
-- include offer_hand_over
-- include offer_pass

local now = now_ms()
local offer = offer_facts(key.offer, arg.message_id)
local state = offer and offer.by[offer.holder]
local is_waiting = state == 'offered'
local is_past = offer and now >= offer.expires_at
if not offer or (is_told(offer) and (offer.owed ~= '' or (is_past and not is_waiting))) then
  if offer and offer.recipient ~= '' then
    redis.call('HSET', key.offer, 'recipient', '')
  end
  redis.call('ZREM', key.offers, arg.client .. ' ' .. arg.message_id)
  return {'over'}
end

local age, device = age_of(offer, now), offer.holder
local is_good = is_wanted(offer, now)
local phone = phone_facts(device)
local is_gone = not is_there(phone, offer.mode, now)
local is_unpulled = is_waiting and now - offer.offered_at >= offer.pull_ms
local is_under_way = state == 'pulled' or state == 'processed'
local is_silent = is_under_way and now - offer.heard_at >= offer.report_ms
-- The last one has failed, and one before that was passed may have it.
local is_left = not is_waiting and not is_under_way and offer.owed == '' and another_may_have(offer, device)
-- Where somebody may have it, giving it up would tell nothing: it is offered on.
local is_late = is_waiting and now >= offer.give_up_at and not another_may_have(offer, device)
local may_pass = is_good and offer.changes < MOST_CHANGES
  and ((is_waiting and not is_late and (is_unpulled or is_gone))
    or ((is_silent or is_left) and offer.moves < MOST_PASSED))
local choice, is_spent = nil, false
if may_pass then
  choice, is_spent = choose_phone(offer, arg.pool_base .. offer.mode, arg.spent_base .. offer.mode, now)
end
local is_given_up = is_waiting and ((is_late and (is_unpulled or is_gone)) or not is_good)
local dropped = is_waiting and (choice or is_given_up) and what_lies_there(offer)
-- Of several offers that a phone does not pull in the same time, one counts: it is one call that it did not answer.
local is_missed = is_unpulled and not is_gone and now - (phone[MISSED_AT] or 0) >= offer.pull_ms
local misses = tonumber(phone[MISSES] or 0) + (is_missed and 1 or 0)
local call, next_look = '', offer.expires_at
if is_waiting and not is_given_up then
  call = device .. ' enqueued'
  next_look = is_unpulled and now + offer.pull_ms or offer.offered_at + offer.pull_ms
  if now < offer.give_up_at then
    next_look = math.min(next_look, offer.give_up_at)
  end
elseif is_under_way and not is_good then
  call = device .. ' cancelled ' .. offer.id
elseif is_under_way then
  next_look = is_silent and now + offer.pull_ms or offer.heard_at + offer.report_ms
elseif is_left and is_good then
  next_look = now + offer.pull_ms
end
local may_duplicate = is_silent or offer.is_of_before
if choice then
  offer.by[device] = is_waiting and 'withdrawn' or is_silent and 'silent' or state
  offer.moves = offer.moves + (is_waiting and 0 or 1)
  be_held_by(offer, choice, now)
elseif is_given_up then
  offer.by[device] = 'withdrawn'
  if not another_may_have(offer, device) then
    owe(offer, is_good and 'failed' or 'cancelled', not is_good and 'send_timeout'
      or offer.pinned ~= '' and 'device_offline' or 'no_device')
  end
end
local owed, kind = owed_of(offer)

-- All is read and decided; from here on only writes.
write_offer(offer)
if is_spent then
  redis.call('SET', arg.spent_base .. offer.mode, '1', 'PX', SPENT_MS)
end
if is_missed then
  redis.call('HSET', arg.device_base .. device, 'misses', misses, 'missed_at', now)
  if misses >= MOST_MISSES then
    -- Its stream is open and it does not come: it is not there until it is heard of by another way.
    redis.call('HSET', arg.device_base .. device, 'online_until', now, 'gone', 'BATTERY_SAVER')
    redis.call('ZADD', arg.pool_base .. offer.mode, 'XX', now, device)
    redis.call('ZADD', key.presence, now, offer.client .. ' ' .. offer.mode .. ' ' .. device)
  end
end
if dropped then
  take_back(offer, dropped)
end
if choice then
  local outcome = is_waiting and (is_gone and 'gone' or 'not_pulled') or is_silent and 'silent' or 'failed'
  tell_of_pass(offer, device, outcome, may_duplicate, now)
  hand_over(offer, choice, now)
  return {'moved', offer.sender, '', '', offer.holder, may_duplicate and 1 or 0, outcome, age,
    offer.holder .. ' enqueued'}
end
if not is_told(offer) then
  redis.call('DEL', key.text)
  look_at(offer, now + RETELL_MS)
  return {'told', offer.sender, owed, kind, device, 0, '', age, call}
end
look_at(offer, math.min(next_look, offer.expires_at))
return {'waiting', offer.sender, '', '', device, 0, '', age, call}
