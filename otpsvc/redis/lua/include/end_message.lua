-- Ends a message: its text goes, its place in the due-set goes, its record stays for a while, and its end is told.
-- include message_facts
-- include append_event
-- include answered_by

local QUARTER_HOUR_MS, RECEIPTS_MS = 900000, 3600000

-- Ends the work on a message that was sent, and says nothing. Its record stays for `keep_ms`: receipts may come yet.
-- Never a script's first write: it only takes away.
local function let_go(message, keep_ms)
  local record = arg.message_base .. message.id
  redis.call('HDEL', record, 'token', 'begun_by', 'awaiting', 'ended_at')
  redis.call('PEXPIRE', record, keep_ms)
  redis.call('DEL', arg.sealed_base .. message.id)
  redis.call('ZREM', key.due, message.id)
end

-- `name` is the event's: what stands behind its dot is the message's last status. An end of which nobody knows waits for
-- the receipt that tells.
local function end_message(event_id, name, message, reason, now, sender)
  local record = arg.message_base .. message.id
  local provider_id = sender and message.pid[sender] or ''
  redis.call('HSET', record, 'status', string.match(name, '%.(%a+)$'), 'reason', reason, 'ended_at', now)
  if sender then
    redis.call('HSET', record, 'sender', sender, 'provider_id', provider_id)
  end
  redis.call('HDEL', record, 'token', 'begun_by', 'awaiting')
  redis.call('PEXPIRE', record, reason == 'unknown_outcome' and RECEIPTS_MS or QUARTER_HOUR_MS)
  redis.call('DEL', arg.sealed_base .. message.id)
  redis.call('ZREM', key.due, message.id)
  append_event(event_id, name, message.otp_id, message.id, message.client, message.mode, now,
    'created_at', message.created_at, 'channel', message.channel, 'tries', message.tries, 'reason', reason,
    'sender', sender or '', 'provider_id', provider_id)
end

-- Whether the message could still be sent and nobody holds it.
local function is_idle(message)
  local has_question = message.begun_by ~= '' or message.awaiting ~= ''
  return message.status == 'queued' or (message.status == 'sent' and not message.token and has_question)
end

-- Ends a message that nobody needs any more. One that was sent stays so, unless the sender that had it last has said
-- that it failed, and no other may have it. One whose sender was begun and never heard of may have gone out: who says that
-- it was cancelled, came too late or failed, would say what nobody knows.
local function end_unwanted(event_id, name, message, reason, now)
  local failure = message.status == 'sent' and failure_of(message, message.sender)
  local doubtful = in_doubt(message)
  if message.status == 'sent' and (may_have(message) or not failure) then
    let_go(message, RECEIPTS_MS)
  elseif doubtful then
    end_message(event_id, 'message.failed', message, 'unknown_outcome', now, doubtful)
  elseif failure then
    end_message(event_id, 'message.failed', message, failure, now, message.sender)
  else
    end_message(event_id, name, message, reason, now)
  end
end
