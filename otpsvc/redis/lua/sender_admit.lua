--[[
sender_admit: decide whether a sender may be called once more now, and count that call as under way if so.

A refusal changes nothing. A permit that is under way already is admitted again and costs nothing: its answer was lost.
A sender whose receipts do not come (`sender_report`) is called last: where others could go, only one message now and then
is let in, to see whether its receipt comes. Nobody who could go with others waits for it.

KEYS
  gate          hash, the sender's breaker, hold and rate
  calls         zset, permit -> when it lapses
ARGV
  permit
  lapse_ms      after so long the permit counts no more, whether it was given back or not
  concurrency   how many calls may be under way
  rate_per_s    how many calls may begin per second; 0 where nothing bounds them
  burst         how many may begin at once after a rest
  has_others    1 where another sender could carry the message, else 0
  may_probe     1 where a receipt of the message would say whether they come again, 0 for a test's
  probe_ms      so often a sender without receipts is tried all the same; 0 where their absence means nothing
Returns
  admitted
  open          in how many ms to ask again: the breaker is open, or the one call that tries is under way
  crowd         in how many ms to ask again: enough calls are under way
  rate          in how many ms to ask again: enough calls began, or the gateway asked to be left alone
  demoted       0: its receipts do not come, so let others go first
Events
]]
-- include now_ms
-- include sender_gate

local TRIAL_MS = 1000 -- ask again so long after somebody else was let in to try
local CROWD_MS = 500

local now = now_ms()
local gate = redis.call('HMGET', key.gate, 'opened_at', 'pause_ms', 'probe', 'held_at', 'hold_ms', 'tokens', 'filled_at',
  'demoted_at', 'tried_at')
local opened_at, probe, filled_at = gate[1], gate[3], gate[7]
local is_demoted = gate[8] and arg.probe_ms ~= '0'
local is_probe_due = arg.may_probe == '1' and left_of(gate[9], arg.probe_ms, now) == 0
local goes_last = is_demoted and arg.has_others == '1'
if is_under_way(arg.permit, now) then
  return {'admitted'}
end
local held, paused = left_of(gate[4], gate[5], now), left_of(opened_at, gate[2], now)
local is_crowded = count_under_way(now) >= tonumber(arg.concurrency)
local rate_per_s, tokens = tonumber(arg.rate_per_s), nil
if rate_per_s > 0 then
  tokens = tonumber(arg.burst)
  if filled_at and not is_from_the_future(filled_at, now) then
    tokens = math.min(tokens, gate[6] + math.max(0, now - filled_at) * rate_per_s / 1000)
  end
end
local is_too_often = tokens and tokens < 1
if held > 0 and not goes_last then
  return {'rate', held}
end
if paused > 0 then
  return {'open', paused}
end
if opened_at and is_under_way(probe, now) then
  return {'open', TRIAL_MS}
end
if goes_last and (held > 0 or is_crowded or is_too_often or not is_probe_due) then
  return {'demoted', 0}
end
if is_crowded then
  return {'crowd', CROWD_MS}
end
if is_too_often then
  return {'rate', math.ceil((1 - tokens) * 1000 / rate_per_s)}
end

-- All is read and decided; from here on only writes.
redis.call('ZADD', key.calls, now + math.min(tonumber(arg.lapse_ms), MAX_LAPSE_MS), arg.permit)
redis.call('ZREMRANGEBYSCORE', key.calls, '-inf', now)
redis.call('ZREMRANGEBYSCORE', key.calls, '(' .. now + MAX_LAPSE_MS, '+inf')
redis.call('PEXPIRE', key.calls, 3600000)
if tokens then
  redis.call('HSET', key.gate, 'tokens', tokens - 1, 'filled_at', now)
end
if opened_at then
  redis.call('HSET', key.gate, 'probe', arg.permit)
end
if is_demoted and arg.may_probe == '1' then
  redis.call('HSET', key.gate, 'tried_at', now)
end
if tokens or opened_at or is_demoted then
  redis.call('PEXPIRE', key.gate, 3600000)
end
return {'admitted'}
