-- Ends an OTP that was pending: its place among the living goes, the text of its message goes, its record stays 15 min.
local function is_living(live_name, session, otp_id)
  local living = redis.call('HGET', live_name, session)
  return living and string.match(living, '^%d+ (.+)$') == otp_id
end

local function end_otp(status, message_id, live_name, session, living, now)
  redis.call('HSET', key.otp, 'status', status, 'ended_at', now)
  redis.call('PEXPIRE', key.otp, 900000)
  redis.call('DEL', arg.sealed_base .. message_id)
  if living then
    redis.call('HDEL', live_name, session)
  end
end
