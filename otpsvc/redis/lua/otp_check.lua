--[[
otp_check: take a gateway's answer about a guess that `otp_verify` counted, and consume the OTP if it is right: once.

A guess is answered once. Who brings a second answer to it hears the first.

KEYS
  otp             hash, the OTP's record
  ends            zset, OTP, client and mode -> when its life is over
  events          stream
ARGV
  otp_id
  client
  mode
  operation       fingerprint of the operation's id
  guess           fingerprint of the guess
  is_right        1 or 0
  is_fenced       1 where OTPs end with the history that they were made in
  otp_base        names of other keys in this partition, short of their last part
  live_base
  fails_base
  sealed_base
  event_id
Returns
  right           now, to, purpose, metadata, verified_at, 1 where this guess had its answer before
  wrong           now, attempts left, 1 where this guess had its answer before
  not_found       now: unknown, another owner's, never asked, or ended meanwhile
  fenced          now: made in another history
  expired         now
Events
  otp.verified
  otp.rejected
  otp.locked
]]
-- include now_ms
-- include fence
-- include event_ids
-- include end_otp
-- include append_event
-- include window

local HOUR_MS = 3600000
local now = now_ms()

local otp = redis.call('HMGET', key.otp, 'client', 'mode', 'number', 'purpose', 'session', 'status', 'expires_at',
  'attempts', 'max_attempts', 'message_id', 'to', 'metadata', 'ended_at', 'guess_1', 'guess_2', 'guess_3', 'fence')
local number, purpose, session, status = otp[3], otp[4], otp[5], otp[6]
local message_id, max_attempts = otp[10], tonumber(otp[9])
if otp[1] ~= arg.client or otp[2] ~= arg.mode then
  return {'not_found', now}
end
if is_fenced_off(otp[17]) then
  return {'fenced', now}
end
local attempt, outcome
local n_asked = 0
for i = 1, tonumber(otp[8]) do
  local operation, guess, said = string.match(otp[13 + i], '^(%S+) (%S+) (%S+)$')
  if operation == arg.operation and guess == arg.guess then
    attempt, outcome = i, said
  elseif said == 'asked' then
    n_asked = n_asked + 1
  end
end
if not attempt then
  return {'not_found', now}
end
if outcome == 'right' then
  return {'right', now, otp[11], purpose, otp[12], tonumber(otp[13]), 1}
end
if outcome == 'wrong' then
  return {'wrong', now, max_attempts - attempt, 1}
end
if status == 'expired' or (status == 'pending' and tonumber(otp[7]) <= now) then
  return {'expired', now}
end
if status ~= 'pending' then
  return {'not_found', now}
end
local live_name = arg.live_base .. number .. ':' .. purpose
local living = is_living(live_name, session, arg.otp_id)

-- All is read and decided; from here on only writes.
redis.call('HSET', key.otp, 'guess_' .. attempt,
  arg.operation .. ' ' .. arg.guess .. ' ' .. (arg.is_right == '1' and 'right' or 'wrong'))
if arg.is_right == '1' then
  end_otp(arg.otp_id, arg.client, arg.mode, 'verified', message_id, live_name, session, living, now)
  append_event(nth_event_id(0), 'otp.verified', arg.otp_id, message_id, arg.client, arg.mode, now, 'attempt', attempt)
  return {'right', now, otp[11], purpose, otp[12], now, 0}
end
window_add(arg.fails_base .. number, arg.otp_id .. ':' .. attempt, HOUR_MS, now)
append_event(nth_event_id(0), 'otp.rejected', arg.otp_id, message_id, arg.client, arg.mode, now, 'attempt', attempt)
-- While another guess is with the gateway, it may yet be the right one.
if tonumber(otp[8]) >= max_attempts and n_asked == 0 then
  end_otp(arg.otp_id, arg.client, arg.mode, 'locked', message_id, live_name, session, living, now)
  append_event(nth_event_id(1), 'otp.locked', arg.otp_id, message_id, arg.client, arg.mode, now)
end
return {'wrong', now, max_attempts - attempt, 0}
