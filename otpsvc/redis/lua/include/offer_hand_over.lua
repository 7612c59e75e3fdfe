-- Gives a message to the phone that was chosen for it.
-- include offer_changes

-- Decides it; nothing is written.
local function be_held_by(offer, choice, now)
  offer.holder, offer.slot, offer.sim_number = choice.device, choice.slot, choice.sim_number
  offer.recipient_was_at, offer.recipient_at = choice.recipient_was_at, choice.recipient_at
  offer.by[choice.device], offer.offered_at, offer.heard_at = 'offered', now, 0
  offer.changes, offer.history = offer.changes + 1, history_id() or ''
  offer.is_of_before, offer.is_perhaps_pulled = false, false
end

-- Writes it, after `write_offer`.
local function hand_over(offer, choice, now)
  local sim = sim_of(offer)
  redis.call('ZADD', arg.inbox_base .. offer.holder, now, offer.id)
  redis.call('PEXPIRE', arg.inbox_base .. offer.holder, HOUR_MS)
  redis.call('ZADD', arg.sim_base .. sim, offer.expires_at, offer.id)
  redis.call('ZREMRANGEBYSCORE', arg.sim_base .. sim, '-inf', now - choice.window_ms)
  redis.call('PEXPIRE', arg.sim_base .. sim, choice.window_ms + HOUR_MS)
  redis.call('ZADD', arg.recipients_base .. sim, offer.recipient_at, offer.recipient)
  redis.call('ZREMRANGEBYSCORE', arg.recipients_base .. sim, '-inf', now - DAY_MS)
  redis.call('PEXPIRE', arg.recipients_base .. sim, DAY_MS + HOUR_MS)
  redis.call('HSET', arg.device_base .. offer.holder, 'offered_at', now)
  look_at(offer, math.min(now + offer.pull_ms, offer.expires_at))
  tell_of_offer(offer, 'message.offered', offer.holder, now)
end
