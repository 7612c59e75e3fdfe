--[[
device_left: note that a stream of a phone ended. With none left the phone is not there, until it is heard of again.

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
  stream
  why           why it ended
  event_limit   in the stream, with what living OTPs and messages still owe
  event_id
Returns
  left          it was the last one
  kept          another one is open
  unknown       it was not open, or the phone has no record: nothing is known of it but that it has ended
Events
  device.disconnected
]]
-- include now_ms
-- include device_record
-- include device_streams
-- include device_news
-- include device_disconnected

local device, now = device_record(), now_ms()
local streams = streams_now(now)
local was_open = device.version and streams.open[arg.stream]
local is_last = was_open and streams.n_open == 1
local tells_it, later = nil, nil
if is_last and device.online_until > now then
  device.online_until, device.gone = now, arg.why
end
if is_last then
  tells_it, later = is_news(device, 'disconnected', now)
end
-- Whether it is told of or not: who waits for a code must not wait for a phone that is gone.
local offers = is_last and left_behind(now) or {}
local reason = device.gone ~= '' and device.gone or arg.why

-- All is read and decided; from here on only writes.
if is_last then
  redis.call('HSET', key.device, 'online_until', device.online_until, 'gone', reason)
  redis.call('ZADD', key.pool, 'XX', device.online_until, arg.device_id)
  redis.call('ZADD', key.presence, later or now, presence_member())
end
if streams.n_ended < MOST_ENDED then
  keep_stream('ended ' .. arg.stream, ENDED_MS, now)
end
redis.call('ZREM', key.streams, arg.stream)
hurry(offers)
if tells_it then
  tell_disconnected(device, reason, now)
end
if not was_open then
  return {'unknown'}
end
if not is_last then
  return {'kept'}
end
return {'left'}
