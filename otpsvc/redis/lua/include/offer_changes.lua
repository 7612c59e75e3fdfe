-- What happens to an offer. `write_offer` comes first of all writes, because a full server refuses it.
-- include event_ids
-- include offer_facts

local RETELL_MS = 3000 -- what is not known to be told by then is told again
local DAY_MS, HOUR_MS = 86400000, 3600000

local function write_offer(offer)
  local states = {}
  for device, state in pairs(offer.by) do
    -- A doubt is no pull: it stays one for as long as nothing more is known.
    local is_doubt = offer.is_perhaps_pulled and device == offer.holder and state == 'pulled'
    states[#states + 1] = device .. '=' .. (is_doubt and 'offered' or state)
  end
  redis.call('HSET', offer.record, 'by', table.concat(states, ' '), 'holder', offer.holder, 'slot', offer.slot,
    'sim_number', offer.sim_number, 'offered_at', offer.offered_at, 'heard_at', offer.heard_at, 'moves', offer.moves,
    'changes', offer.changes, 'recipient_was_at', offer.recipient_was_at, 'recipient_at', offer.recipient_at,
    'is_withdrawn', offer.is_withdrawn, 'owed', offer.owed, 'told', offer.told, 'recipient', offer.recipient,
    'history', offer.history)
end

-- The events of a message stand in the stream of its own partition: its name was learned from the offer.
local function tell_of_offer(offer, name, device, now, ...)
  redis.call('XADD', offer.events, '*', 'event_id', next_event_id(), 'event', name, 'otp_id', offer.otp_id,
    'message_id', offer.id, 'client', offer.client, 'mode', offer.mode, 'occurred_at', now, 'device', device,
    'sender', offer.sender, 'created_at', offer.created_at, 'channel', offer.channel, 'tries', offer.tries, ...)
end

local function look_at(offer, at)
  redis.call('ZADD', key.offers, at, offer.client .. ' ' .. offer.id)
end

local function look_no_more(offer)
  redis.call('ZREM', key.offers, offer.client .. ' ' .. offer.id)
end

-- Whether nothing is left to be told of what is known.
local function is_told(offer)
  return offer.owed == offer.told
end

-- Notes what the message has to be told, and says whether that is news: that it left is stronger than that it failed.
local function owe(offer, status, kind)
  local owed = owed_of(offer)
  if owed == status or owed == 'delivered' or (owed == 'sent' and status ~= 'delivered') then
    return false
  end
  offer.owed = status .. ':' .. kind
  return true
end

local function sim_of(offer)
  return offer.holder .. ':' .. offer.slot
end

-- What `take_back` needs of an offer that lies in an inbox, to be read before anything is decided that changes it.
local function what_lies_there(offer)
  local sim = sim_of(offer)
  local counted_at = tonumber(redis.call('ZSCORE', arg.recipients_base .. sim, offer.recipient) or nil)
  return {device = offer.holder, sim = sim, recipient = offer.recipient, counted_at = counted_at,
    is_last = counted_at == offer.recipient_at, was_at = offer.recipient_was_at}
end

-- Takes an offer out of an inbox and gives its budget back. Somebody who was written to again since then stays counted.
local function take_back(offer, lying)
  redis.call('ZREM', arg.inbox_base .. lying.device, offer.id)
  redis.call('ZREM', arg.sim_base .. lying.sim, offer.id)
  if lying.is_last and lying.was_at == '' then
    redis.call('ZREM', arg.recipients_base .. lying.sim, lying.recipient)
  elseif lying.is_last then
    redis.call('ZADD', arg.recipients_base .. lying.sim, lying.was_at, lying.recipient)
  end
end

-- Takes an offer back for good, in `offer` alone; returns what `take_back` needs where it lies in an inbox. Whose number
-- it was is needed no more.
local function be_withdrawn(offer)
  local lying = nil
  if is_waiting_to_be_pulled(offer) then
    lying = what_lies_there(offer)
    offer.by[offer.holder] = 'withdrawn'
  end
  offer.is_withdrawn, offer.recipient = '1', ''
  return lying
end
