-- Writes a message and puts it into the due-set at once. The record outlives its code by a day, so that a worker that
-- was away still finds what it has to end; the sealed text goes with the code. `text` has the code masked.
local function enqueue(message_id, otp_id, client, mode, channel, to, expires_at, now)
  redis.call('HSET', key.message, 'client', client, 'mode', mode, 'otp_id', otp_id, 'channel', channel, 'to', to,
    'text', arg.text, 'parts', arg.parts, 'status', 'queued', 'tries', 0, 'created_at', now, 'expires_at', expires_at)
  redis.call('PEXPIREAT', key.message, expires_at + 86400000)
  redis.call('SET', key.sealed, arg.sealed_text, 'PXAT', expires_at)
  redis.call('ZADD', key.due, now, message_id)
end
