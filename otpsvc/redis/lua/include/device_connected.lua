-- Tells that a phone has come, at the time at which it came.
-- include append_event
local function tell_connected(device, now)
  redis.call('HSET', key.device, 'told', 'connected', 'told_at', now)
  append_event(arg.event_id, 'device.connected', '', '', arg.client, arg.mode, math.min(device.connected_at or now, now),
    'device', arg.device_id, 'is_first', device.is_first)
end
