--[[
sender_state: say how a sender's gate stands, for people and metrics.

KEYS
  gate          hash, the sender's breaker, hold and rate
  calls         zset, permit -> when it lapses
ARGV
Returns
  closed        failures in a row, for how many ms it stays open (0), for how many ms the gateway asked to be left alone, calls under way, receipts missing in a row, 1 if others go before it for that
  open          the same
  half_open     the same
Events
]]
-- include now_ms
-- include sender_gate

local now = now_ms()
local gate = redis.call('HMGET', key.gate, 'failures', 'opened_at', 'pause_ms', 'held_at', 'hold_ms', 'missed', 'demoted_at')
local failures, paused = tonumber(gate[1]) or 0, left_of(gate[2], gate[3], now)
local held, under_way = left_of(gate[4], gate[5], now), count_under_way(now)
local missed, demoted = count_missed(gate[6] or ''), gate[7] and 1 or 0
if paused > 0 then
  return {'open', failures, paused, held, under_way, missed, demoted}
end
if gate[2] then
  return {'half_open', failures, 0, held, under_way, missed, demoted}
end
return {'closed', failures, 0, held, under_way, missed, demoted}
