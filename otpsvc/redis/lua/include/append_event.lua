-- Appends one fact to the partition's stream; what follows `now` are names and values of details. Nothing is cut off
-- here: the stream is bounded by refusing what would write more (`is_full`), and shortened by `events_acknowledge`.
-- (In a function that takes `...`, Lua hides our `arg`.)
local function append_event(event_id, name, otp_id, message_id, client, mode, now, ...)
  redis.call('XADD', key.events, '*', 'event_id', event_id, 'event', name, 'otp_id', otp_id,
    'message_id', message_id, 'client', client, 'mode', mode, 'occurred_at', now, ...)
end
