--[[
sender_report: give a permit back, and let the gate learn from how its call went, or from what came of it afterwards.

While the breaker is open only the one call that tries decides: what began before it opened says nothing new. A permit is
given back once, so that a report that is made again counts once.

Receipts that do not come are counted apart: a gateway that takes everything and delivers nothing looks well to the breaker.
Such a sender is demoted, not closed: others of a route go first (`sender_admit`). A number counts once in a row, however
many messages go to it, and a row must have lasted: one receipt that a message left ends it.

KEYS
  gate          hash, the sender's breaker, hold, rate, and the row of its missing receipts
  calls         zset, permit -> when it lapses
ARGV
  permit        empty for what is no call's
  verdict       works, fails or unclear; missed: no receipt came in time; heard: a receipt says that a message left
  hold_ms       for how long the gateway asked to be left alone; 0 where it did not
  max_failures  so many failures in a row open the breaker
  pause_ms      for how long it opens the first time; twice as long after each try that failed
  number        for missed: a sign of the number, eight letters
  max_missed    so many numbers in a row demote the sender; 0: nothing does
  missed_ms     but not before the row has lasted so long
Returns
  noted
  opened        for how many ms nobody will be admitted
  closed
  demoted       how many receipts are missing
  restored
  unknown       the permit is not under way: nothing was changed
Events
]]
-- include now_ms
-- include sender_gate

local LONGEST_MS = 3600000
local MOST_DOUBLINGS = 4

local now = now_ms()
local gate = redis.call('HMGET', key.gate, 'failures', 'opened_at', 'pause_ms', 'opened_times', 'probe', 'held_at', 'hold_ms',
  'missed', 'missed_at', 'demoted_at')
local failures, opened_at, opened_times = tonumber(gate[1]) or 0, gate[2], tonumber(gate[4]) or 0
local paused, held = left_of(opened_at, gate[3], now), left_of(gate[6], gate[7], now)

local function note_missed(missed, missed_at)
  if not missed_at or is_from_the_future(missed_at, now) then
    missed, missed_at = '', now
  end
  local most = tonumber(arg.max_missed)
  if count_missed(missed) < most and not string.find(missed, arg.number, 1, true) then
    missed = missed .. arg.number .. ' '
  end
  local demotes = count_missed(missed) >= most and now - missed_at >= tonumber(arg.missed_ms)

  if demotes then
    -- From now on their number is enough: whose they were is nobody's business.
    missed = string.gsub(missed, '%S+', '-')
  end

  -- All is read and decided; from here on only writes.
  redis.call('HSET', key.gate, 'missed', missed, 'missed_at', missed_at)
  if demotes then
    redis.call('HSET', key.gate, 'demoted_at', now, 'tried_at', now)
  end
  redis.call('PEXPIRE', key.gate, LONGEST_MS + math.max(paused, held))
  if demotes then
    return {'demoted', count_missed(missed)}
  end
  return {'noted'}
end

local function note_heard()
  redis.call('HSET', key.gate, 'missed', '')
  redis.call('HDEL', key.gate, 'missed', 'missed_at', 'demoted_at', 'tried_at')
end

if arg.verdict == 'missed' then
  if arg.max_missed == '0' or gate[10] then
    return {'noted'}
  end
  return note_missed(gate[8] or '', gate[9])
elseif arg.verdict == 'heard' then
  if gate[9] or gate[10] then
    note_heard()
  end
  if gate[10] then
    return {'restored'}
  end
  return {'noted'}
end
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
local pause = 0
if opens then
  pause = math.min(arg.pause_ms * 2 ^ math.min(opened_times, MOST_DOUBLINGS), LONGEST_MS)
  paused = pause
end
local hold = math.min(tonumber(arg.hold_ms), LONGEST_MS)

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
