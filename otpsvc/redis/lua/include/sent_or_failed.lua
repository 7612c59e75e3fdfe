-- What the word of a gateway makes of a message that could still be sent by another.
-- include answered_by
-- include end_message
-- include event_ids
-- include tried
-- include wake

-- The fields of a message that this sender has now taken, and the event that says so.
local function sent_fields(message, sender, now)
  return 'status', 'sent', 'reason', '', 'sender', sender, 'provider_id', message.pid[sender] or '',
    'sent_at', message.sent_at or now
end

local function tell_sent(message, sender, now)
  append_event(next_event_id(), 'message.sent', message.otp_id, message.id, message.client, message.mode, now,
    'created_at', message.created_at, 'channel', message.channel, 'tries', message.tries, 'reason', '',
    'sender', sender, 'provider_id', message.pid[sender] or '')
end

-- A receipt has answered: nobody else is asked.
local function become_sent(message, sender, now)
  if message.status ~= 'sent' or message.begun_by == sender then
    redis.call('HSET', arg.message_base .. message.id, sent_fields(message, sender, now))
    tell_sent(message, sender, now)
  end
  let_go(message, RECEIPTS_MS)
end

-- Writes that a message is due. One that was sent once is never queued again.
local function make_due(message, reason, due_at, begun_by, awaiting)
  redis.call('HSET', arg.message_base .. message.id, 'status', message.status == 'sent' and 'sent' or 'queued',
    'reason', reason, 'begun_by', begun_by)
  redis.call('HDEL', arg.message_base .. message.id, 'token')
  if message.awaiting ~= awaiting then
    redis.call('HSET', arg.message_base .. message.id, 'awaiting', awaiting)
  end
  redis.call('ZADD', key.due, due_at, message.id)
end

-- A sender has said that the message failed, and nobody else is asked. Others that were asked before may have it yet.
local function end_failed(message, sender, now)
  local answered, doubtful = answered_by(message), in_doubt(message)
  if answered then
    become_sent(message, answered, now)
  elseif may_have(message) then
    let_go(message, RECEIPTS_MS)
  elseif doubtful then
    end_message(next_event_id(), 'message.failed', message, 'unknown_outcome', now, doubtful)
  else
    end_message(next_event_id(), 'message.failed', message, failure_of(message, sender), now, sender)
  end
end

-- The sender whose word was waited for has said that it failed: the next one's turn, or the end if that would be no use.
local function gateway_failed(message, sender, now, waiting)
  local kind = failure_of(message, sender)
  if message.hopeless_by == sender then
    end_failed(message, sender, now)
  else
    make_due(message, kind, now, '', sender)
    if message.told_failed ~= sender then
      tell_tried(message, sender, kind, false, now)
    end
    wake(waiting)
  end
end
