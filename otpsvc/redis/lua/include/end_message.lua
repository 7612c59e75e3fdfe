-- Ends a message: its text goes, its place in the due-set goes, its record stays for a while, and its end is told.
-- include append_event

-- What the event of its end tells, to be read before the first write.
local function message_facts(message_id)
  local facts = redis.call('HMGET', arg.message_base .. message_id, 'status', 'client', 'mode', 'otp_id', 'created_at',
    'channel', 'tries', 'begun_by')
  return {id = message_id, status = facts[1], client = facts[2], mode = facts[3], otp_id = facts[4],
    created_at = facts[5], channel = facts[6], tries = facts[7], begun_by = facts[8] or ''}
end

-- `name` is the event's: what stands behind its dot is the message's last status.
local function end_message(event_id, name, message, reason, now, sender, provider_id)
  local record = arg.message_base .. message.id
  redis.call('HSET', record, 'status', string.match(name, '%.(%a+)$'), 'reason', reason, 'ended_at', now)
  if sender then
    redis.call('HSET', record, 'sender', sender, 'provider_id', provider_id or '')
  end
  redis.call('HDEL', record, 'token', 'begun_by')
  redis.call('PEXPIRE', record, 900000)
  redis.call('DEL', arg.sealed_base .. message.id)
  redis.call('ZREM', key.due, message.id)
  append_event(event_id, name, message.otp_id, message.id, message.client, message.mode, now,
    'created_at', message.created_at, 'channel', message.channel, 'tries', message.tries, 'reason', reason,
    'sender', sender or '', 'provider_id', provider_id or '')
end

-- Ends a message that nobody needs any more. One whose sender was begun and never heard of may have gone out: who says
-- that it was cancelled, or came too late, would say what nobody knows.
local function end_unwanted(event_id, name, message, reason, now)
  if message.begun_by ~= '' then
    end_message(event_id, 'message.failed', message, 'unknown_outcome', now, message.begun_by)
  else
    end_message(event_id, name, message, reason, now)
  end
end
