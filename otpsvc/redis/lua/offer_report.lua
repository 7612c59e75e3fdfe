--[[
offer_report: take what a phone says about one message. Only one that the message was offered to is heard, and its state
only moves forward.

That it failed is the next phone's turn, if another may do better and surely nobody else has the message.

KEYS
  offer          hash, what the pool knows of the message
  text           string, number and text under the pool's sealing
  device         hash, the phone's record
  inbox          zset, message id -> when it was offered
  offers         zset, client and message id -> when to look at the offer
ARGV
  message_id
  device_id
  version        of the caller's knowledge of the phone
  status         pulled, processed, sent, delivered, failed or cancelled
  kind           why, for failed and cancelled: a word of our own
  next_may_try   1 where another phone may do better, else 0
  error          our short word for the phone's last error
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
  waiting        nothing is to be told: sender, status, kind, device, 1 for a possible duplicate, why, age in ms, and what to call to whom, or empty
  told           the same: status and kind are to be told to the message
  moved          the same: device has it now
  ignored        unknown, foreign, or nothing new
  retired        the phone must be turned away
Events
  message.taken_over
  message.offered
]]
-- include now_ms
-- include choose_phone
-- include offer_hand_over
-- include offer_pass

local FROM = {
  processed = {offered = true, pulled = true, silent = true},
  sent = {offered = true, pulled = true, processed = true, silent = true, withdrawn = true, failed = true,
    cancelled = true},
  delivered = {offered = true, pulled = true, processed = true, silent = true, withdrawn = true, failed = true,
    cancelled = true, sent = true},
  failed = {offered = true, pulled = true, processed = true, silent = true},
  cancelled = {offered = true, pulled = true, processed = true, silent = true},
}

local now = now_ms()
local phone = redis.call('HMGET', key.device, 'retired_version', 'version')
if phone[1] and tonumber(phone[1]) >= tonumber(arg.version) then
  return {'retired'}
end
local offer = offer_facts(key.offer, arg.message_id)
local state = offer and offer.by[arg.device_id]
if not state then
  return {'ignored'}
end
local status, age = arg.status, age_of(offer, now)
local owed, kind = owed_of(offer)
if status == state and owed == status and not is_told(offer) then
  -- Said again before it was told.
  return {'told', offer.sender, owed, kind, arg.device_id, 0, '', age, ''}
end
if not FROM[status] or not FROM[status][state] then
  return {'ignored'}
end

local has_failed, has_left = status == 'failed' or status == 'cancelled', status == 'sent' or status == 'delivered'
local is_holder, sim, is_of_before = offer.holder == arg.device_id, sim_of(offer), offer.is_of_before
local was_offered = state == 'offered' or (is_holder and offer.is_perhaps_pulled)
offer.by[arg.device_id] = status
local is_owed, choice, is_spent, dropped, call = false, nil, false, nil, ''
if has_left then
  is_owed = owe(offer, status, '')
  if is_waiting_to_be_pulled(offer) then
    dropped = what_lies_there(offer)
    offer.by[offer.holder] = 'withdrawn'
  elseif offer.holder ~= arg.device_id and MAY_HAVE[offer.by[offer.holder]] then
    call = offer.holder .. ' cancelled ' .. offer.id
  end
elseif has_failed and not another_may_have(offer, arg.device_id) and not is_waiting_to_be_pulled(offer) then
  if arg.next_may_try == '1' and offer.moves < MOST_PASSED and is_wanted(offer, now) then
    choice, is_spent = choose_phone(offer, arg.pool_base .. offer.mode, arg.spent_base .. offer.mode, now)
  end
  if not choice then
    -- A phone that drops what it was told to drop gives no reason.
    is_owed = owe(offer, status, status == 'cancelled' and arg.kind == '' and 'send_timeout' or arg.kind)
  end
elseif is_holder then
  offer.heard_at = now
  if has_failed and arg.next_may_try ~= '1' then
    -- One that was passed may have it. Nobody else is to try.
    offer.is_withdrawn = '1'
  end
end
if choice then
  offer.moves = offer.moves + 1
  be_held_by(offer, choice, now)
end
owed, kind = owed_of(offer)
local has_record = arg.error ~= '' and phone[2]

-- All is read and decided; from here on only writes.
write_offer(offer)
redis.call('ZREM', key.inbox, arg.message_id)
if is_spent then
  redis.call('SET', arg.spent_base .. offer.mode, '1', 'PX', SPENT_MS)
end
if has_failed and has_record then
  redis.call('HSET', key.device, 'last_error', arg.error, 'last_error_at', now)
end
if was_offered then
  -- It has the message from elsewhere than its list: its budget counts from now.
  redis.call('ZADD', arg.sim_base .. sim, 'XX', now, arg.message_id)
elseif is_holder and (status == 'processed' or status == 'sent') then
  -- What its operator counts is when it was sent, which may be long after it was pulled.
  redis.call('ZADD', arg.sim_base .. sim, 'XX', 'GT', now, arg.message_id)
end
if dropped then
  take_back(offer, dropped)
end
if choice then
  tell_of_pass(offer, arg.device_id, status, is_of_before, now)
  hand_over(offer, choice, now)
  return {'moved', offer.sender, '', '', offer.holder, is_of_before and 1 or 0, 'failed', age,
    offer.holder .. ' enqueued'}
end
if is_owed then
  redis.call('DEL', key.text)
  look_at(offer, now + RETELL_MS)
  return {'told', offer.sender, owed, kind, arg.device_id, 0, '', age, call}
end
if is_holder and status == 'processed' then
  look_at(offer, math.min(now + offer.report_ms, offer.expires_at))
elseif is_holder and has_failed then
  look_at(offer, math.min(now + offer.pull_ms, offer.expires_at))
end
return {'waiting', offer.sender, '', '', arg.device_id, 0, '', age, call}
