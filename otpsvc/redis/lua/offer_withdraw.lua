--[[
offer_withdraw: take an offer back for good. A phone that has pulled it is told to drop it when it asks next.

KEYS
  offer          hash, what the pool knows of the message
  text           string, number and text under the pool's sealing
  offers         zset, client and message id -> when to look at the offer
ARGV
  message_id
  mode
  inbox_base     names of the client's other keys, short of their last part
  sim_base
  recipients_base
  is_fenced      1 where OTPs end with the history that they were made in
  event_id
Returns
  withdrawn      nobody had pulled it
  pulled         device: it may have it
  unknown        there is no record (any more), or it is of the other mode
Events
]]
-- include offer_changes

local offer = offer_facts(key.offer, arg.message_id)
if not offer or offer.mode ~= arg.mode then
  return {'unknown'}
end
local dropped = be_withdrawn(offer)
local may_have = another_may_have(offer, '')

-- All is read and decided; from here on only writes.
write_offer(offer)
redis.call('DEL', key.text)
if dropped then
  take_back(offer, dropped)
end
if may_have then
  return {'pulled', offer.holder}
end
if is_told(offer) then
  look_no_more(offer)
end
return {'withdrawn'}
