-- Tells that a phone has gone, at the time at which it went, and has the pool look at what it leaves behind.
-- include append_event

-- What `hurry` needs, to be read before the first write.
local function left_behind(now)
  local offers = {}
  for _, message_id in ipairs(redis.call('ZRANGE', key.inbox, 0, -1)) do
    offers[#offers + 1] = now
    offers[#offers + 1] = arg.client .. ' ' .. message_id
  end
  return offers
end

-- Never a script's first write: there may be nothing.
local function hurry(offers)
  if #offers > 0 then
    redis.call('ZADD', key.offers, 'XX', 'LT', unpack(offers))
  end
end

local function tell_disconnected(device, reason, now)
  redis.call('HSET', key.device, 'told', 'disconnected', 'told_at', now, 'gone', reason)
  append_event(arg.event_id, 'device.disconnected', '', '', arg.client, arg.mode, math.min(device.online_until, now),
    'device', arg.device_id, 'reason', reason)
end
