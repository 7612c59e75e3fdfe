-- Appends one fact to the partition's stream, which keeps the newest hundred thousand.
local function append_event(stream, event_id, name, otp_id, message_id, client, mode, now)
  redis.call('XADD', stream, 'MAXLEN', '~', 100000, '*', 'event_id', event_id, 'event', name, 'otp_id', otp_id,
    'message_id', message_id, 'client', client, 'mode', mode, 'occurred_at', now)
end
