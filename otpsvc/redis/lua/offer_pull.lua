--[[
offer_pull: give a phone what it may send, all of it marked as pulled in the same step.

What is new goes first. What it had pulled before and has said nothing of for a moment is given again, as far as there
is room: its answer may have been lost. What it pulled and nobody wants any more is named, so that it may drop it. What
nobody wants and it had not pulled is taken back.

KEYS
  device         hash, the phone's record
  inbox          zset, message id -> when it was offered
  offers         zset, client and message id -> when to look at the offer
ARGV
  device_id
  version        of the caller's knowledge of the phone
  is_active      1 where the phone may send, else 0
  limit          at most 100
  inbox_base     names of the client's other keys, short of their last part
  sim_base
  recipients_base
  offer_base
  text_base
  slots          two bytes for each master that the caller has: what is sealed under another is left for others
  is_fenced      1 where OTPs end with the history that they were made in
  call           names this call: the same again gets the same
  event_id
Returns
  pulled         how many were left because the caller lacks their master, then a list per message: message_id, sealed (empty: it is to be dropped), the SIM's number or empty, created_at, expires_at
  retired        the phone must be turned away
Events
  message.pulled
]]
-- include now_ms
-- include offer_changes

local MOST_IN_INBOX = 500
-- A phone reports anew whatever it is given again, so one whose first word is on its way must be left alone.
local AGAIN_MS = 2000
local SLOT_BYTES = 2 -- with which sealed text begins: under which master it is sealed

local function can_open(sealed)
  for place = 1, #arg.slots, SLOT_BYTES do
    if string.sub(arg.slots, place, place + SLOT_BYTES - 1) == string.sub(sealed, 1, SLOT_BYTES) then
      return true
    end
  end
  return false
end

local now = now_ms()
local device = redis.call('HMGET', key.device, 'retired_version', 'is_active')
if device[1] and tonumber(device[1]) >= tonumber(arg.version) then
  return {'retired'}
end
local may_send = arg.is_active == '1' and device[2] ~= '0'
local listed, again, pulled, unwanted, over, n_unopened = {}, {}, {}, {}, {}, 0
for _, message_id in ipairs(redis.call('ZRANGE', key.inbox, 0, MOST_IN_INBOX - 1)) do
  local offer = offer_facts(arg.offer_base .. message_id, message_id)
  local state = offer and offer.by[arg.device_id]
  local is_held = offer and offer.holder == arg.device_id
  local is_perhaps_pulled = is_held and offer.is_perhaps_pulled
  if not state or offer.expires_at <= now or (state ~= 'offered' and state ~= 'pulled' and state ~= 'silent') then
    if state == 'offered' then
      offer.lying = what_lies_there(offer)
      unwanted[#unwanted + 1] = offer
    else
      over[#over + 1] = message_id
    end
  elseif state == 'offered' and not is_wanted(offer, now) then
    offer.lying = what_lies_there(offer)
    unwanted[#unwanted + 1] = offer
  else
    local sealed = ''
    if is_held and may_send and is_wanted(offer, now) then
      sealed = redis.call('GET', arg.text_base .. message_id) or ''
    end
    local entry = {message_id, sealed, offer.sim_number, offer.created_at, offer.expires_at}
    local is_new = state == 'offered' or (is_perhaps_pulled and sealed ~= '')
    if sealed ~= '' and not can_open(sealed) then
      n_unopened = n_unopened + 1
    elseif not is_new then
      local given = redis.call('HMGET', arg.offer_base .. message_id, 'given_by', 'given_at')
      local given_at = tonumber(given[2] or 0)
      if given[1] == arg.call then
        -- It was told under this very event id, whose answer was lost: what is new goes on counting.
        n_event_ids = n_event_ids + 1
      end
      if sealed == '' or given[1] == arg.call or given_at > now or given_at <= now - AGAIN_MS then
        again[#again + 1] = entry
      end
    elseif sealed ~= '' and #listed < tonumber(arg.limit) then
      pulled[#pulled + 1] = offer
      listed[#listed + 1] = entry
    end
  end
end
while #listed < tonumber(arg.limit) and #again > 0 do
  listed[#listed + 1] = table.remove(again, 1)
end

-- All is read and decided; from here on only writes.
for _, offer in ipairs(pulled) do
  local may_duplicate = offer.is_of_before
  offer.by[arg.device_id], offer.heard_at, offer.is_perhaps_pulled = 'pulled', now, false
  if may_duplicate then
    -- Told here, once.
    offer.history = history_id() or ''
  end
  write_offer(offer)
  redis.call('ZADD', arg.sim_base .. sim_of(offer), now, offer.id)
  redis.call('ZADD', arg.recipients_base .. sim_of(offer), 'GT', now, offer.recipient)
  look_at(offer, math.min(now + offer.report_ms, offer.expires_at))
  tell_of_offer(offer, 'message.pulled', arg.device_id, now, unpack(may_duplicate and {'may_duplicate', '1'} or {}))
end
for _, entry in ipairs(listed) do
  redis.call('HSET', arg.offer_base .. entry[1], 'given_by', arg.call, 'given_at', now)
end
for _, offer in ipairs(unwanted) do
  offer.by[arg.device_id] = 'withdrawn'
  if not another_may_have(offer, arg.device_id) then
    owe(offer, 'cancelled', 'send_timeout')
  end
  write_offer(offer)
  take_back(offer, offer.lying)
  look_at(offer, now)
end
if #over > 0 then
  redis.call('ZREM', key.inbox, unpack(over))
end
return {'pulled', n_unopened, listed}
