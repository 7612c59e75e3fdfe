--[[
receipt_expect: note which message a gateway's id names, and give the receipts that came before this.

Those that were parked stay until they end by themselves: this call may be made again because its answer was lost.

KEYS
  sent          string, what is known of the gateway's id, JSON
  parked        list, receipts that came too early, JSON, oldest first
  polls         zset, gateway's id (as a hash) -> when to ask the gateway about it
ARGV
  id            the gateway's id as a hash
  message_id
  facts         what to keep, JSON with a message_id and an expires_at_ms
  expires_at    the end of the code's life; the note stays for an hour more, a day at most
  poll_in_ms    when to ask first; -1 to never ask
  most_polls
Returns
  expected      the parked receipts
  crowded       the parked receipts; so many are asked about already that this one will not be
  repeated      the parked receipts; the message was noted before
Events
]]
-- include now_ms

local HOUR_MS = 3600000
local DAY_MS = 86400000

local now = now_ms()
local noted = redis.call('GET', key.sent)
local parked = redis.call('LRANGE', key.parked, 0, -1)
if noted and cjson.decode(noted).message_id == arg.message_id then
  return {'repeated', unpack(parked)}
end
local is_polled = tonumber(arg.poll_in_ms) >= 0
local is_crowded = is_polled and redis.call('ZCARD', key.polls) >= tonumber(arg.most_polls)

-- All is read and decided; from here on only writes.
local life = math.min(math.max(arg.expires_at - now, 0), DAY_MS - HOUR_MS)
redis.call('SET', key.sent, arg.facts, 'PX', life + HOUR_MS)
if is_crowded then
  return {'crowded', unpack(parked)}
end
if is_polled then
  redis.call('ZADD', key.polls, now + arg.poll_in_ms, arg.id)
  redis.call('PEXPIRE', key.polls, DAY_MS)
end
return {'expected', unpack(parked)}
