-- A call that was accepted under the same Idempotency-Key: the first answer with the OTP's present state, or a conflict.
-- Returns nil where there was none, or where it was this very call (our own retry after a lost connection).
-- include fence
local function replay(otp_base, now)
  if arg.request == '' then
    return nil
  end
  local twin = redis.call('HMGET', key.idempotency, 'request', 'otp_id', 'message_id', 'purpose', 'channel', 'code_length',
    'expires_at', 'resend_at', 'max_attempts')
  if not twin[1] or twin[3] == arg.message_id then
    return nil
  end
  if twin[1] ~= arg.request then
    return {'conflict', now}
  end
  local otp = redis.call('HMGET', otp_base .. twin[2], 'status', 'attempts', 'expires_at', 'fence')
  local status, attempts = otp[1] or 'expired', otp[2] or twin[9]
  if status == 'pending' and (tonumber(otp[3]) <= now or is_fenced_off(otp[4])) then
    status = 'expired'
  end
  return {'replayed', now, twin[2], twin[3], twin[4], twin[5], twin[6], twin[7], twin[8], status, twin[9] - attempts}
end

-- Nothing about the number is kept here: who repeats a call names it again.
local function remember(otp_id, purpose, code_length, max_attempts, expires_at, resend_at)
  if arg.request ~= '' then
    redis.call('HSET', key.idempotency, 'request', arg.request, 'otp_id', otp_id, 'message_id', arg.message_id,
      'purpose', purpose, 'channel', arg.channel, 'code_length', code_length, 'expires_at', expires_at,
      'resend_at', resend_at, 'max_attempts', max_attempts)
    redis.call('PEXPIRE', key.idempotency, arg.idempotency_ms)
  end
end
