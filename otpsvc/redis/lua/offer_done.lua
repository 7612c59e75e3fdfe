--[[
offer_done: note that a message was told what was owed to it. Nothing is due until something new happens, and whose
number it was is needed no more.

KEYS
  offer       hash, what the pool knows of the message
  offers      zset, client and message id -> when to look at the offer
ARGV
  client
  message_id
  status      the receipt's status that was told
Returns
  done
  stale       another is owed by now, or there is no record (any more)
Events
]]
local KEPT_MS = 3600000 -- as the message's own record: words that come later are not heard

local facts = redis.call('HMGET', key.offer, 'owed', 'told')
local owed = facts[1] or ''
if owed == '' or string.match(owed, '^%a+') ~= arg.status then
  return {'stale'}
end

-- All is read and decided; from here on only writes.
redis.call('HSET', key.offer, 'told', owed, 'recipient', '')
redis.call('PEXPIRE', key.offer, KEPT_MS)
redis.call('ZREM', key.offers, arg.client .. ' ' .. arg.message_id)
return {'done'}
