-- The limits that a send and a resend share, in the order in which they are told. Returns nil, or the refusal.
-- include window
-- include fence
local HOUR_MS = 3600000

local function send_refusal(now)
  if arg.is_reachable ~= '1' then
    return {'unreachable', now}
  end
  local last = redis.call('GET', key.cooldown)
  if last and tonumber(arg.cooldown_ms) > 0 then
    local sent_at, otp_id = string.match(last, '^(%d+) (.+)$')
    local until_ms = math.min(tonumber(sent_at), now) + tonumber(arg.cooldown_ms)
    if until_ms > now then
      -- A resend is advice for an OTP that still takes one.
      local otp = redis.call('HMGET', arg.otp_base .. otp_id, 'status', 'fence')
      local takes_one = otp[1] == 'pending' and not is_fenced_off(otp[2])
      return {'cooldown', now, until_ms, takes_one and otp_id or nil}
    end
  end
  local allowed_at = window_full(key.sends, tonumber(arg.max_sends), HOUR_MS, now)
  if allowed_at then
    return {'number_limit', now, allowed_at}
  end
  if arg.max_address_sends ~= '' then
    allowed_at = window_full(key.address, tonumber(arg.max_address_sends), HOUR_MS, now)
    if allowed_at then
      return {'address_limit', now, allowed_at}
    end
  end
  if arg.max_ceiling_sends ~= '' then
    allowed_at = window_full(key.ceiling, tonumber(arg.max_ceiling_sends), HOUR_MS, now)
    if allowed_at then
      return {'ceiling', now, allowed_at}
    end
  end
  return nil
end

local function count_send(otp_id, message_id, now)
  window_add(key.sends, message_id, HOUR_MS, now)
  if arg.max_address_sends ~= '' then
    window_add(key.address, message_id, HOUR_MS, now)
  end
  if arg.max_ceiling_sends ~= '' then
    window_add(key.ceiling, message_id, HOUR_MS, now)
  end
  if tonumber(arg.cooldown_ms) > 0 then
    redis.call('SET', key.cooldown, now .. ' ' .. otp_id, 'PX', arg.cooldown_ms)
  end
end
