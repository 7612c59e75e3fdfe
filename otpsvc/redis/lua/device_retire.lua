--[[
device_retire: take a phone out at a version of its device. What it has not pulled is looked at at once, for others.

A record is left even where there was none: it is what refuses those who have not heard of it yet.

KEYS
  device        hash, the phone's record
  pool          zset, device -> until when it counts as there
  streams       zset, open stream -> until when it counts as alive
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
  version
  why
  event_limit   in the stream, with what living OTPs and messages still owe
  event_id
Returns
  retired
  stale         a later version is known: nothing was changed
Events
  device.disconnected
]]
-- include now_ms
-- include device_record
-- include device_news
-- include device_disconnected

local device = device_record()
if device.version and device.version > tonumber(arg.version) then
  return {'stale'}
end
local now = now_ms()
local gone = device.gone
if device.online_until > now then
  device.online_until, gone = now, arg.why
end
if gone == '' then
  gone = arg.why
end
local tells_it, later = is_news(device, 'disconnected', now)
local offers = left_behind(now)

-- All is read and decided; from here on only writes.
redis.call('HSET', key.device, 'version', arg.version, 'mode', arg.mode, 'is_active', 0, 'retired', 1,
  'retired_version', arg.version, 'online_until', device.online_until, 'gone', gone)
redis.call('PEXPIRE', key.device, RECORD_MS)
redis.call('ZADD', key.presence, later or now, presence_member())
redis.call('ZREM', key.pool, arg.device_id)
redis.call('DEL', key.streams)
hurry(offers)
if tells_it then
  tell_disconnected(device, gone, now)
end
return {'retired'}
