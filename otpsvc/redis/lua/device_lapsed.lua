--[[
device_lapsed: look at one phone, and tell what is not told yet of whether it is there.

KEYS
  device        hash, the phone's record
  inbox         zset, message id -> when it was offered
  presence      zset, phone -> when to look whether it is still there
  offers        zset, client and message id -> when to look at the offer
  due           zset, when each waiting message is next due
  ends          zset, OTP, client and mode -> when its life is over
  events        stream
ARGV
  client
  mode
  device_id
  event_limit   in the stream, with what living OTPs and messages still owe
  event_id
Returns
  connected     told now
  disconnected  told now
  waiting       it is told later
  online        nothing is to be told; it is looked at again when it is due to be heard of
  offline       nothing is to be told
  unknown       there is no record (any more)
Events
  device.connected
  device.disconnected
]]
-- include now_ms
-- include device_record
-- include device_news
-- include device_connected
-- include device_disconnected

local device, now = device_record(), now_ms()
local is_online = device.online_until > now
local state = is_online and 'connected' or 'disconnected'
local tells_it, later = nil, nil
if device.version then
  tells_it, later = is_news(device, state, now)
end
local offers = device.version and not is_online and left_behind(now) or {}
local look_at = is_online and math.min(device.online_until, later or device.online_until) or later

-- All is read and decided; from here on only writes.
if look_at then
  redis.call('ZADD', key.presence, look_at, presence_member())
end
if tells_it and is_online then
  tell_connected(device, now)
  return {'connected'}
end
if tells_it then
  tell_disconnected(device, device.gone ~= '' and device.gone or 'CONNECTION_LOST', now)
end
hurry(offers)
if not look_at then
  redis.call('ZREM', key.presence, presence_member())
end
if tells_it then
  return {'disconnected'}
end
if not device.version then
  return {'unknown'}
end
if later then
  return {'waiting'}
end
if is_online then
  return {'online'}
end
return {'offline'}
