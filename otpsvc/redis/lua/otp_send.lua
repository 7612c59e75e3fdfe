--[[
otp_send: accept a new OTP and its message, or refuse and change nothing.

KEYS
  otp            hash, the new OTP's record
  message        hash, the new message's record
  sealed         string, the message's sealed number and text
  live           hash, session -> living OTP of this client, mode, number and purpose
  cooldown       string, when this client, mode, number, purpose and session last got a code
  sends          zset, this client's and mode's codes to the number
  fails          zset, this client's and mode's wrong guesses for the number
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
  purpose
  session            fingerprint, empty where the caller named none
  number             what the names of this client's keys about the number end with
  to                 the number, masked
  to_index           the number's blind index
  to_sealed          the number and what a resend needs, sealed
  metadata           JSON, empty where none
  channel
  text               as it will be read, the code masked
  parts              how many SMS the text takes
  code_hash
  code_length
  sealed_text
  ttl_ms
  cooldown_ms
  max_attempts
  max_sends
  max_wrong_guesses
  max_address_sends  empty where no address was given
  max_ceiling_sends  empty where the ceiling is off
  max_live
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
  accepted       now, expires_at, resend_at
  replayed       now, otp_id, message_id, purpose, channel, code_length, expires_at, resend_at, status, attempts left
  conflict       now: the Idempotency-Key belongs to another request
  locked_out     now, when the next code is allowed
  unreachable    now: no phone could carry it
  cooldown       now, when, otp_id of the code that was sent if it is still pending
  number_limit   now, when
  address_limit  now, when
  ceiling        now, when
  live_limit     now, when the first of the living sessions ends
  busy           now: the queue of messages is full, or that of events
Events
  otp.sent
  otp.superseded
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

local repeated = redis.call('HMGET', key.otp, 'created_at', 'expires_at', 'resend_at')
if repeated[1] then
  return {'accepted', tonumber(repeated[1]), tonumber(repeated[2]), tonumber(repeated[3])}
end
local replayed = replay(arg.otp_base, now)
if replayed then
  return replayed
end

local locked_until = window_full(key.fails, tonumber(arg.max_wrong_guesses), HOUR_MS, now)
if locked_until then
  return {'locked_out', now, locked_until}
end
local refusal = send_refusal(now)
if refusal then
  return refusal
end

-- A send supersedes only its own session's code, and only so many sessions may have one: a stranger who opens the same
-- form can neither kill the code that a person is typing nor multiply the guesses.
local living, first_end, superseded = 0, nil, nil
local sessions = redis.call('HGETALL', key.live)
local ended = {}
for i = 1, #sessions, 2 do
  local ends_at, otp_id = string.match(sessions[i + 1], '^(%d+) (.+)$')
  if tonumber(ends_at) <= now or is_fenced_off(redis.call('HGET', arg.otp_base .. otp_id, 'fence')) then
    ended[#ended + 1] = sessions[i]
  elseif sessions[i] == arg.session then
    superseded = otp_id
  else
    living = living + 1
    first_end = math.min(first_end or tonumber(ends_at), tonumber(ends_at))
  end
end
if living >= tonumber(arg.max_live) then
  return {'live_limit', now, first_end}
end
if redis.call('ZCARD', key.due) >= tonumber(arg.queue_limit) or is_full(arg.event_limit) then
  return {'busy', now}
end

local old_message
if superseded then
  local message_id = redis.call('HGET', arg.otp_base .. superseded, 'message_id')
  old_message = message_id and message_facts(message_id)
end
local fence = arg.is_fenced == '1' and history_id() or ''
local waiting = redis.call('LLEN', key.wake)

-- All is read and decided; from here on only writes.
local expires_at = now + arg.ttl_ms
local resend_at = now + arg.cooldown_ms
redis.call('HSET', key.otp, 'client', arg.client, 'mode', arg.mode, 'purpose', arg.purpose, 'session', arg.session,
  'number', arg.number, 'to', arg.to, 'to_sealed', arg.to_sealed, 'metadata', arg.metadata, 'channel', arg.channel,
  'status', 'pending', 'code_hash', arg.code_hash, 'code_length', arg.code_length, 'attempts', 0,
  'max_attempts', arg.max_attempts, 'resends', 0, 'ttl_ms', arg.ttl_ms, 'message_id', arg.message_id,
  'created_at', now, 'expires_at', expires_at, 'resend_at', resend_at, 'fence', fence)
redis.call('PEXPIREAT', key.otp, expires_at + 900000)
redis.call('ZADD', key.ends, expires_at, end_member(arg.otp_id, arg.client, arg.mode))
enqueue(arg.message_id, arg.otp_id, arg.client, arg.mode, arg.channel, arg.to, expires_at, now)
count_send(arg.otp_id, arg.message_id, now)
if #ended > 0 then
  redis.call('HDEL', key.live, unpack(ended))
end
redis.call('HSET', key.live, arg.session, expires_at .. ' ' .. arg.otp_id)
redis.call('PEXPIRE', key.live, 1800000)
if superseded and old_message then
  -- Its place among the living has just been taken.
  end_otp(superseded, arg.client, arg.mode, 'superseded', old_message.id, key.live, arg.session, false, now)
  append_event(nth_event_id(0), 'otp.superseded', superseded, old_message.id, arg.client, arg.mode, now)
  if is_idle(old_message) then
    end_unwanted(nth_event_id(1), 'message.cancelled', old_message, 'superseded', now)
  end
end
remember(arg.otp_id, arg.purpose, arg.code_length, arg.max_attempts, expires_at, resend_at)
append_event(nth_event_id(2), 'otp.sent', arg.otp_id, arg.message_id, arg.client, arg.mode, now,
  'purpose', arg.purpose, 'code_length', arg.code_length, 'max_attempts', arg.max_attempts, 'channel', arg.channel,
  'parts', arg.parts, 'to', arg.to, 'to_index', arg.to_index, 'to_sealed', arg.to_sealed, 'text', arg.text,
  'metadata', arg.metadata, 'expires_at', expires_at, 'resend_at', resend_at)
wake(waiting)
return {'accepted', now, expires_at, resend_at}
