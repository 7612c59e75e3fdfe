--[[
otp_resend: put a fresh code with a fresh life on a pending OTP, with a new message, or refuse and change nothing.

The used attempts stay used. The one code before stays valid for a grace, but never past its own end.

KEYS
  otp            hash, the OTP's record
  message        hash, the new message's record
  sealed         string, the new message's sealed number and text
  live           hash, session -> living OTP of this client, mode, number and purpose
  cooldown       string, when this client, mode, number, purpose and session last got a code
  sends          zset, this client's and mode's codes to the number
  due            zset, when each waiting message is next due
  ends           zset, OTP, client and mode -> when its life is over
  wake           list, the token that wakes a worker
  events         stream
  idempotency    hash, the stored answer (the OTP's own name where the call has no Idempotency-Key)
  address        zset, codes asked for from the end user's address (the OTP's own name where none was given)
  ceiling        zset, all clients' codes to the number (the OTP's own name where the ceiling is off)
ARGV
  otp_id
  message_id
  client
  mode
  channel
  text               as it will be read, the code masked
  parts              how many SMS the text takes
  code_hash
  sealed_text
  cooldown_ms
  grace_ms
  max_sends
  max_resends
  max_address_sends  empty where no address was given
  max_ceiling_sends  empty where the ceiling is off
  queue_limit
  event_limit
  request            fingerprint of the decoded request, empty where the call has no Idempotency-Key
  idempotency_ms
  otp_base           names of other records in this partition, short of their id
  message_base
  sealed_base
  is_reachable       1 where somebody could carry it, else 0
  is_fenced          1 where OTPs end with the history that they were made in
  event_id
Returns
  accepted       now, expires_at, resend_at, attempts left
  replayed       now, otp_id, message_id, purpose, channel, code_length, expires_at, resend_at, status, attempts left
  conflict       now: the Idempotency-Key belongs to another request
  not_found      now: unknown, another owner's, verified, superseded or cancelled
  fenced         now: made in another history
  expired        now
  locked         now
  resend_limit   now
  unreachable    now: no phone could carry it
  cooldown       now, when, otp_id of the code that was sent if it is still pending
  number_limit   now, when
  address_limit  now, when
  ceiling        now, when
  busy           now: the queue of messages is full, or that of events
Events
  otp.resent
  message.cancelled
  message.failed
]]
-- include now_ms
-- include replay
-- include send_refusal
-- include event_room
-- include event_ids
-- include enqueue
-- include end_otp
-- include end_message
-- include wake

local now = now_ms()

local otp = redis.call('HMGET', key.otp, 'client', 'mode', 'status', 'message_id', 'expires_at', 'resends', 'attempts',
  'max_attempts', 'code_hash', 'ttl_ms', 'session', 'to', 'purpose', 'code_length', 'resend_at', 'fence', 'number',
  'to_sealed', 'metadata')
local client, mode, status, old_message_id, ends_at = otp[1], otp[2], otp[3], otp[4], tonumber(otp[5])
local resends, attempts_left = tonumber(otp[6]), client and otp[8] - otp[7]
if client ~= arg.client or mode ~= arg.mode then
  return {'not_found', now}
end
if redis.call('EXISTS', key.message) == 1 then
  return {'accepted', now, ends_at, tonumber(otp[15]), attempts_left}
end
local replayed = replay(arg.otp_base, now)
if replayed then
  return replayed
end
if status == 'verified' or status == 'superseded' or status == 'cancelled' then
  return {'not_found', now}
end
if is_fenced_off(otp[16]) then
  return {'fenced', now}
end
if status == 'expired' or ends_at <= now then
  return {'expired', now}
end
-- With none left it may yet be pending, while a gateway has not said whether a guess is right.
if status == 'locked' or attempts_left <= 0 then
  return {'locked', now}
end
if resends >= tonumber(arg.max_resends) then
  return {'resend_limit', now}
end
local refusal = send_refusal(now)
if refusal then
  return refusal
end
if redis.call('ZCARD', key.due) >= tonumber(arg.queue_limit) or is_full(arg.event_limit) then
  return {'busy', now}
end
local old_message = message_facts(old_message_id)
local waiting = redis.call('LLEN', key.wake)

-- All is read and decided; from here on only writes.
local expires_at = now + otp[10]
local resend_at = now + arg.cooldown_ms
redis.call('HSET', key.otp, 'code_hash', arg.code_hash, 'previous_hash', otp[9],
  'previous_until', math.min(ends_at, now + arg.grace_ms), 'message_id', arg.message_id, 'resends', resends + 1,
  'expires_at', expires_at, 'resend_at', resend_at)
redis.call('PEXPIREAT', key.otp, expires_at + 900000)
redis.call('ZADD', key.ends, expires_at, end_member(arg.otp_id, arg.client, arg.mode))
enqueue(arg.message_id, arg.otp_id, arg.client, arg.mode, arg.channel, otp[12], expires_at, now)
count_send(arg.otp_id, arg.message_id, now)
redis.call('HSET', key.live, otp[11], expires_at .. ' ' .. arg.otp_id)
redis.call('PEXPIRE', key.live, 1800000)
redis.call('DEL', arg.sealed_base .. old_message_id)
if is_idle(old_message) then
  end_unwanted(nth_event_id(0), 'message.cancelled', old_message, 'resent', now)
end
remember(arg.otp_id, otp[13], otp[14], otp[8], expires_at, resend_at)
append_event(nth_event_id(1), 'otp.resent', arg.otp_id, arg.message_id, arg.client, arg.mode, now,
  'purpose', otp[13], 'code_length', otp[14], 'max_attempts', otp[8], 'channel', arg.channel, 'parts', arg.parts,
  'to', otp[12], 'to_index', string.match(otp[17], '(%x+)$'), 'to_sealed', otp[18], 'text', arg.text,
  'metadata', otp[19], 'expires_at', expires_at, 'resend_at', resend_at)
wake(waiting)
return {'accepted', now, expires_at, resend_at, attempts_left}
