--[[
otp_verify: count one guess, compare it, and consume the OTP if it is right: once, whatever comes in parallel.

The record keeps an operation, a fingerprint and the outcome of each counted guess, so that a call whose answer was lost
can be made again without costing an attempt. Where the message went out through a gateway that makes its own code, a guess
that is not ours is counted all the same and then has to be put to that gateway; `otp_check` takes its answer. Each time
that is counted before it is done: one guess is put to a gateway three times at most, and not again while its answer may
be on its way.

KEYS
  otp             hash, the OTP's record
  ends            zset, OTP, client and mode -> when its life is over
  due             zset, when each waiting message is next due
  events          stream
ARGV
  otp_id
  client
  mode
  number          what the names of this client's keys about the number end with; empty where the caller sent no number
  purpose         empty where the caller sent none
  session         fingerprint, empty where the caller sent none
  code_hash
  code_length
  operation       fingerprint of the operation's id
  guess           fingerprint of the guess
  event_limit
  is_fenced       1 where OTPs end with the history that they were made in
  otp_base        names of other keys in this partition, short of their last part
  live_base
  fails_base
  sealed_base
  event_id
Returns
  right           now, to, purpose, metadata, verified_at, 1 where this operation had its answer before
  wrong           now, attempts left, 1 where this operation had its answer before
  ask             now, message_id, when that message was sent, the sender whose gateway is to be asked, the gateway's id, 1 where it was asked about these digits before
  undecided       now, when: the gateway was asked and has not said yet; nobody asks it again before then
  conflict        now: the operation was used for another guess
  not_found       now: unknown, another owner's, another number, purpose or session, verified, superseded or cancelled
  fenced          now: made in another history
  busy            now: too many events wait to be written
  expired         now
  format          now, code_length: the guess is longer or shorter than the code
  no_attempts     now
Events
  otp.verified
  otp.rejected
  otp.locked
]]
-- include now_ms
-- include window
-- include fence
-- include event_room
-- include event_ids
-- include end_otp
-- include append_event

local HOUR_MS = 3600000
local MOST_QUESTIONS = 3
-- Longer than anybody waits for a gateway.
local QUESTION_MS = 10000
local now = now_ms()

local otp = redis.call('HMGET', key.otp, 'client', 'mode', 'number', 'purpose', 'session', 'status', 'expires_at',
  'code_length', 'attempts', 'max_attempts', 'code_hash', 'previous_hash', 'previous_until', 'message_id', 'to',
  'metadata', 'ended_at', 'guess_1', 'guess_2', 'guess_3', 'fence', 'check_by')
local number, purpose, session, status, ends_at = otp[3], otp[4], otp[5], otp[6], tonumber(otp[7])
local attempts, max_attempts, message_id = tonumber(otp[9]), tonumber(otp[10]), otp[14]

-- Whom to ask: only who carried the newest code.
local checked_message, sent_at, checker, provider_id = string.match(otp[22] or '', '^(%S+) (%S+) (%S+) (.+)$')
local function ask(is_repeat)
  return {'ask', now, checked_message, tonumber(sent_at), checker, provider_id, is_repeat}
end

-- Before it is put: nobody who dies meanwhile forgets it. The event's id tells the second run of a call whose answer was
-- lost from another call.
local function count_question(attempt, n)
  redis.call('HSET', key.otp, 'question_' .. attempt, n .. ' ' .. arg.event_id, 'question_' .. attempt .. '_at', now)
end

if otp[1] ~= arg.client or otp[2] ~= arg.mode
  or (arg.number ~= '' and arg.number ~= number)
  or (arg.purpose ~= '' and arg.purpose ~= purpose)
  or (arg.session ~= '' and arg.session ~= session) then
  return {'not_found', now}
end
if is_fenced_off(otp[21]) then
  return {'fenced', now}
end
local repeated, was_asked
for i = 1, attempts do
  local operation, guess, outcome = string.match(otp[17 + i], '^(%S+) (%S+) (%S+)$')
  was_asked = was_asked or (outcome == 'asked' and guess == arg.guess and operation ~= arg.operation)
  if operation == arg.operation then
    if guess ~= arg.guess then
      return {'conflict', now}
    end
    if outcome == 'right' then
      return {'right', now, otp[15], purpose, otp[16], tonumber(otp[17]), 1}
    end
    if outcome == 'wrong' then
      return {'wrong', now, max_attempts - i, 1}
    end
    repeated = i
  end
end
if status == 'verified' or status == 'superseded' or status == 'cancelled' then
  return {'not_found', now}
end
-- What was told to have expired stays so, wherever the clock goes.
if status == 'expired' or ends_at <= now then
  return {'expired', now}
end
if repeated then
  local asked = redis.call('HMGET', key.otp, 'question_' .. repeated, 'question_' .. repeated .. '_at')
  local n, call = string.match(asked[1] or '1 -', '^(%d+) (%S+)$')
  local again_at = math.min(tonumber(asked[2] or 0), now) + QUESTION_MS
  if call == arg.event_id then
    -- This very call, whose answer was lost.
    return ask((was_asked or tonumber(n) > 1) and 1 or 0)
  end
  if now < again_at then
    return {'undecided', now, math.min(again_at, ends_at)}
  end
  if checked_message == message_id then
    if tonumber(n) >= MOST_QUESTIONS then
      return {'undecided', now, ends_at}
    end
    count_question(repeated, n + 1)
    return ask(1)
  end
  -- Another code is on its way, and nobody asks about this guess any more: it is wrong from here on, whoever carries that.
elseif status == 'locked' or attempts >= max_attempts then
  return {'no_attempts', now}
elseif arg.code_length ~= otp[8] then
  return {'format', now, tonumber(otp[8])}
elseif is_full(arg.event_limit) then
  return {'busy', now}
end
local is_right = not repeated and (arg.code_hash == otp[11]
  or (otp[12] and arg.code_hash == otp[12] and now < tonumber(otp[13])))
local attempt = repeated or attempts + 1
local is_one_asked = false
for i = 1, attempts do
  is_one_asked = is_one_asked or (i ~= repeated and string.find(otp[17 + i], ' asked', 1, true) ~= nil)
end
local is_asked = not is_right and checked_message == message_id
local live_name = arg.live_base .. number .. ':' .. purpose
local living = is_living(live_name, session, arg.otp_id)

-- All is read and decided; from here on only writes, the counted attempt first.
attempts = repeated and attempts or attempt
redis.call('HSET', key.otp, 'attempts', attempts, 'guess_' .. attempt,
  arg.operation .. ' ' .. arg.guess .. ' ' .. (is_right and 'right' or is_asked and 'asked' or 'wrong'))
if is_right then
  end_otp(arg.otp_id, arg.client, arg.mode, 'verified', message_id, live_name, session, living, now)
  append_event(nth_event_id(0), 'otp.verified', arg.otp_id, message_id, arg.client, arg.mode, now, 'attempt', attempt)
  return {'right', now, otp[15], purpose, otp[16], now, 0}
end
if is_asked then
  -- Whether it failed, nobody knows yet.
  count_question(attempt, 1)
  return ask(was_asked and 1 or 0)
end
window_add(arg.fails_base .. number, arg.otp_id .. ':' .. attempt, HOUR_MS, now)
append_event(nth_event_id(0), 'otp.rejected', arg.otp_id, message_id, arg.client, arg.mode, now, 'attempt', attempt)
-- While another guess is with a gateway, it may yet be the right one.
if attempts >= max_attempts and not is_one_asked then
  end_otp(arg.otp_id, arg.client, arg.mode, 'locked', message_id, live_name, session, living, now)
  append_event(nth_event_id(1), 'otp.locked', arg.otp_id, message_id, arg.client, arg.mode, now)
end
return {'wrong', now, max_attempts - attempt, 0}
