--[[
sender_report: give a permit back, and let the breaker learn from how its call went.

While the breaker is open only the one call that tries decides: what began before it opened says nothing new. A permit is
given back once, so that a report that is made again counts once.

KEYS
  gate          hash, the sender's breaker, hold and rate
  calls         zset, permit -> when it lapses
ARGV
  permit        empty for a fault that is no call's
  verdict       works, fails or unclear
  hold_ms       for how long the gateway asked to be left alone; 0 where it did not
  max_failures  so many failures in a row open the breaker
  pause_ms      for how long it opens the first time; twice as long after each try that failed
Returns
  noted
  opened        for how many ms nobody will be admitted
  closed
  unknown       the permit is not under way: nothing was changed
Events
]]
-- include now_ms
-- include sender_gate

local LONGEST_MS = 3600000
local MOST_DOUBLINGS = 4

local now = now_ms()
local gate = redis.call('HMGET', key.gate, 'failures', 'opened_at', 'pause_ms', 'opened_times', 'probe', 'held_at', 'hold_ms')
local failures, opened_at, opened_times = tonumber(gate[1]) or 0, gate[2], tonumber(gate[4]) or 0
if arg.permit ~= '' and not redis.call('ZSCORE', key.calls, arg.permit) then
  return {'unknown'}
end
local is_told_by_probe = opened_at and arg.permit ~= '' and arg.permit == gate[5]
local opens, closes = false, false
if is_told_by_probe then
  opens, closes = arg.verdict == 'fails', arg.verdict == 'works'
elseif not opened_at and arg.verdict == 'fails' then
  failures = failures + 1
  opens = failures >= tonumber(arg.max_failures)
elseif not opened_at and arg.verdict == 'works' then
  failures = 0
end
if closes then
  failures = 0
end
local paused, pause = left_of(opened_at, gate[3], now), 0
if opens then
  pause = math.min(arg.pause_ms * 2 ^ math.min(opened_times, MOST_DOUBLINGS), LONGEST_MS)
  paused = pause
end
local held, hold = left_of(gate[6], gate[7], now), math.min(tonumber(arg.hold_ms), LONGEST_MS)

-- All is read and decided; from here on only writes.
redis.call('HSET', key.gate, 'failures', failures)
if opens then
  redis.call('HSET', key.gate, 'opened_at', now, 'pause_ms', pause, 'opened_times', opened_times + 1)
end
if closes then
  redis.call('HDEL', key.gate, 'opened_at', 'pause_ms', 'opened_times', 'probe')
end
if hold > held then
  redis.call('HSET', key.gate, 'held_at', now, 'hold_ms', hold)
end
redis.call('PEXPIRE', key.gate, LONGEST_MS + math.max(paused, held, hold))
redis.call('ZREM', key.calls, arg.permit)
if opens then
  return {'opened', pause}
end
if closes then
  return {'closed'}
end
return {'noted'}
