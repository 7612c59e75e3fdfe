--[[
receipt_find_or_park: say which message a gateway's id names, or keep the receipt for when somebody notes that.

A gateway may tell of a message before it has answered the call that sent it. It may also tell of messages that are none
of ours, as often as it likes: so the ids that are parked are bounded, and the oldest make room.

KEYS
  sent          string, what is known of the gateway's id, JSON
  parked        list, receipts that came too early, JSON, oldest first
  parking       zset, gateway's id (as a hash) -> when a receipt about it was parked last
ARGV
  id            the gateway's id as a hash
  receipt       JSON
  most_ids      so many ids may have receipts parked
  parked_base   names of lists of parked receipts, short of the id
Returns
  found         what is known, JSON
  parked
Events
]]
-- include now_ms

local MOST = 10
local KEPT_MS = 120000

local sent = redis.call('GET', key.sent)
if sent then
  return {'found', sent}
end
local is_new = true
for _, one in ipairs(redis.call('LRANGE', key.parked, 0, -1)) do
  is_new = is_new and one ~= arg.receipt
end
if not is_new then
  return {'parked'}
end
local now = now_ms()
local gone = redis.call('ZCOUNT', key.parking, '-inf', now - KEPT_MS)
local is_known = redis.call('ZSCORE', key.parking, arg.id)
local is_full = not is_known and redis.call('ZCARD', key.parking) - gone >= tonumber(arg.most_ids)
local oldest = is_full and redis.call('ZRANGE', key.parking, gone, gone)[1] or nil

-- All is read and decided; from here on only writes. The last ones say most.
redis.call('RPUSH', key.parked, arg.receipt)
redis.call('LTRIM', key.parked, -MOST, -1)
redis.call('PEXPIRE', key.parked, KEPT_MS)
redis.call('ZADD', key.parking, now, arg.id)
redis.call('PEXPIRE', key.parking, KEPT_MS)
redis.call('ZREMRANGEBYSCORE', key.parking, '-inf', now - KEPT_MS)
if oldest then
  redis.call('DEL', arg.parked_base .. oldest)
  redis.call('ZREM', key.parking, oldest)
end
return {'parked'}
