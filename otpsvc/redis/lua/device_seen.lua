--[[
device_seen: note that a phone was heard of, and tell the pool what the device may do.

A phone is there while a stream of it is open, or for a while after it pulled; a call that is neither proves only that it
lives. What the record says of a version holds against every earlier one: a process that has not heard of a change yet can
neither undo it nor bring back a device that was taken out.

KEYS
  device             hash, the phone's record
  pool               zset, device -> until when it counts as there
  streams            zset, open stream -> until when it counts as alive
  inbox              zset, message id -> when it was offered
  presence           zset, phone -> when to look whether it is still there
  due                zset, when each waiting message is next due
  ends               zset, OTP, client and mode -> when its life is over
  events             stream
ARGV
  client
  mode
  device_id
  version            of the device, with the nine facts that follow
  is_active          1 where it may send, else 0
  is_out             1 where it was disabled or deleted, else 0
  sims               JSON: slot, number and operator of each
  budget_messages    per SIM in the window
  budget_window_ms
  budget_recipients  per SIM in 24 h
  quiet_from         the quiet stretch that is or comes next, ms since 1970; 0 where there is none
  quiet_to
  is_spare           1 where it is used only if no other can be, else 0
  stream             the open stream that this is a sign of, or empty
  is_pull            1 where the phone asks for messages, else 0
  was_seen           1 where it is known to have been connected before, else 0
  online_ms          for how long what it did proves that it is there
  event_limit        in the stream, with what living OTPs and messages still owe
  event_id
Returns
  seen               how many messages lie in its inbox, the latest version that is known of it
  retired            at this version or a later one it was taken out: nothing was changed
Events
  device.connected
]]
-- include now_ms
-- include device_record
-- include device_facts
-- include device_streams
-- include device_news
-- include device_connected

local device = device_record()
local version, known_version = tonumber(arg.version), device.version
if arg.is_out == '1' or (device.retired_version and version <= device.retired_version) then
  return {'retired'}
end
local now = now_ms()
local streams = streams_now(now)
local is_open = arg.stream ~= '' and not streams.ended[arg.stream]
local is_new_word = arg.is_pull == '1' or (is_open and not streams.open[arg.stream])
local was_online, is_proof = device.online_until > now, is_new_word or (is_open and device.misses < MOST_MISSES)
local changes = {'seen_at', now}
local function change(name, value)
  changes[#changes + 1] = name
  changes[#changes + 1] = value
end
if not known_version or version > known_version then
  changes = device_facts()
  change('seen_at', now)
elseif version == known_version then
  change('quiet_from', arg.quiet_from)
  change('quiet_to', arg.quiet_to)
end
if arg.is_pull == '1' then
  change('pulled_at', now)
end
if is_new_word then
  change('misses', 0)
end
if is_proof then
  device.online_until = now + arg.online_ms
  change('online_until', device.online_until)
  if not was_online then
    device.is_first = (device.connected_at or arg.was_seen == '1') and '0' or '1'
    device.connected_at = now
    change('connected_at', now)
    change('is_first', device.is_first)
    change('gone', '')
  end
end
local tells_it, look_at = nil, device.online_until
if is_proof then
  local later
  tells_it, later = is_news(device, 'connected', now)
  look_at = math.min(look_at, later or look_at)
end
local waiting = redis.call('ZCARD', key.inbox)

-- All is read and decided; from here on only writes.
redis.call('HSET', key.device, unpack(changes))
redis.call('PEXPIRE', key.device, RECORD_MS)
if is_proof then
  redis.call('ZADD', key.pool, device.online_until, arg.device_id)
  redis.call('ZADD', key.presence, look_at, presence_member())
else
  -- A client that has phones, none of which is there, is told apart from one that has none.
  redis.call('ZADD', key.pool, 'NX', now - 1, arg.device_id)
end
redis.call('ZREMRANGEBYSCORE', key.pool, '-inf', now - RECORD_MS)
redis.call('PEXPIRE', key.pool, RECORD_MS)
if is_open then
  keep_stream(arg.stream, tonumber(arg.online_ms), now)
end
if tells_it then
  tell_connected(device, now)
end
return {'seen', waiting, math.max(version, known_version or 0)}
