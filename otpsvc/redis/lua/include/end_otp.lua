-- Ends an OTP that was pending: its place among the living goes, the text of its message goes, its record stays 15 min.

-- Its name in the set of coming ends: owner and all, because the sweep may come after the record is gone.
local function end_member(otp_id, client, mode)
  return otp_id .. ' ' .. client .. ' ' .. mode
end

local function is_living(live_name, session, otp_id)
  local living = redis.call('HGET', live_name, session)
  return living and string.match(living, '^%d+ (.+)$') == otp_id
end

local function end_otp(otp_id, client, mode, status, message_id, live_name, session, living, now)
  redis.call('HSET', arg.otp_base .. otp_id, 'status', status, 'ended_at', now)
  redis.call('PEXPIRE', arg.otp_base .. otp_id, 900000)
  redis.call('DEL', arg.sealed_base .. message_id)
  redis.call('ZREM', key.ends, end_member(otp_id, client, mode))
  if living then
    redis.call('HDEL', live_name, session)
  end
end
