-- What the pool knows of one message, to be read before the first write. `by` is how far each phone is with it; what a
-- script decides goes into the table first and is written by `write_offer`. Empty is what is not known.
-- include fence

local LEAST_LIFE_MS = 5000 -- a code with less life left is given to no phone
-- The states of a phone that may have sent the message, or may yet.
local MAY_HAVE = {pulled = true, processed = true, sent = true, delivered = true, silent = true}

-- In another history than that in which the offer was last handed over, the last writes may be lost: whoever was to pull
-- it may have done so, and another phone may have been given it since (`is_of_before`). So nothing is taken back as
-- unpulled there, and whoever is given it now may be the second one. The fence decides whether it is given at all.
local function be_of_before(offer)
  offer.is_of_before = offer.history ~= '' and offer.history ~= history_id()
  offer.is_perhaps_pulled = offer.is_of_before and offer.by[offer.holder] == 'offered'
  if offer.is_perhaps_pulled then
    offer.by[offer.holder], offer.heard_at = 'pulled', offer.offered_at
  end
end

-- `record` is its name. Nil where there is no offer (any more).
local function offer_facts(record, message_id)
  local facts = redis.call('HMGET', record, 'client', 'mode', 'sender', 'channel', 'created_at',
    'otp_id', 'tries', 'message', 'otp', 'events', 'recipient', 'operator', 'expires_at', 'pull_ms', 'report_ms',
    'give_up_at', 'pinned', 'holder', 'slot', 'sim_number', 'offered_at', 'heard_at', 'moves', 'recipient_was_at',
    'recipient_at', 'is_withdrawn', 'owed', 'told', 'by', 'changes', 'history')
  if not facts[1] then
    return nil
  end
  local offer = {record = record, id = message_id, client = facts[1], mode = facts[2], sender = facts[3],
    channel = facts[4], created_at = tonumber(facts[5]), otp_id = facts[6], tries = facts[7], message = facts[8],
    otp = facts[9], events = facts[10], recipient = facts[11], operator = facts[12], expires_at = tonumber(facts[13]),
    pull_ms = tonumber(facts[14]), report_ms = tonumber(facts[15]), give_up_at = tonumber(facts[16]),
    pinned = facts[17], holder = facts[18], slot = facts[19], sim_number = facts[20],
    offered_at = tonumber(facts[21]), heard_at = tonumber(facts[22]), moves = tonumber(facts[23]),
    recipient_was_at = facts[24], recipient_at = tonumber(facts[25]), is_withdrawn = facts[26], owed = facts[27],
    told = facts[28], changes = tonumber(facts[30]), history = facts[31] or '', by = {}}
  for device, state in string.gmatch(facts[29], '(%S+)=(%S+)') do
    offer.by[device] = state
  end
  be_of_before(offer)
  return offer
end

-- Whether a phone may still be given the message: its code is good, nothing is known that has to be told of it, and the
-- sender whose offer this is was asked for it last.
local function is_wanted(offer, now)
  if offer.is_withdrawn == '1' or offer.owed ~= '' or offer.expires_at - now <= LEAST_LIFE_MS then
    return false
  end
  local otp = redis.call('HMGET', offer.otp, 'status', 'message_id', 'fence')
  if otp[1] ~= 'pending' or otp[2] ~= offer.id or is_fenced_off(otp[3]) then
    return false
  end
  for sender, state in string.gmatch(redis.call('HGET', offer.message, 'asked') or '', '(%S+)=(%S+)') do
    if sender == offer.sender then
      return state == 'begun' or state == 'accepted'
    end
  end
  return false
end

-- Whether a phone may have the message, another than `device`.
local function another_may_have(offer, device)
  for other, state in pairs(offer.by) do
    if other ~= device and MAY_HAVE[state] then
      return true
    end
  end
  return false
end

local function is_waiting_to_be_pulled(offer)
  return offer.by[offer.holder] == 'offered'
end

-- What was or is to be told to the message, in two words: a receipt's status, and why.
local function owed_of(offer)
  return string.match(offer.owed, '^(%a+):(.*)$')
end

-- How many ms ago the message was accepted.
local function age_of(offer, now)
  return math.max(0, now - offer.created_at)
end
