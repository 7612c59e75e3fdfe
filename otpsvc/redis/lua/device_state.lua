--[[
device_state: say how a phone stands, and how much of its budget each SIM has used; for people.

KEYS
  device            hash, the phone's record
  inbox             zset, message id -> when it was offered
ARGV
  sim_base          names of what each SIM has sent, short of the slot
  recipients_base   names of whom each SIM wrote to, short of the slot
Returns
  known             1 where it is there, seen_at, pulled_at, connected_at, messages in its inbox, misses, last_error, last_error_at, gone, then of each SIM its slot, messages in the window, recipients in 24 h
  unknown           there is no record
Events
]]
-- include now_ms

local DAY_MS = 86400000

local facts = redis.call('HMGET', key.device, 'version', 'online_until', 'retired', 'seen_at', 'pulled_at',
  'connected_at', 'misses', 'last_error', 'last_error_at', 'gone', 'sims', 'budget_window_ms')
if not facts[1] then
  return {'unknown'}
end
local now = now_ms()
local is_online = (tonumber(facts[2]) or 0) > now and facts[3] ~= '1'
local told_sims, sims = cjson.decode(facts[11] or '[]'), {}
if #told_sims == 0 then
  -- A phone that does not tell its SIMs has one.
  told_sims = {{0}}
end
for _, sim in ipairs(told_sims) do
  local slot = string.format('%d', sim[1])
  sims[#sims + 1] = slot
  sims[#sims + 1] = redis.call('ZCOUNT', arg.sim_base .. slot, '(' .. now - (facts[12] or 0), '+inf')
  sims[#sims + 1] = redis.call('ZCOUNT', arg.recipients_base .. slot, '(' .. now - DAY_MS, '+inf')
end
local waiting = redis.call('ZCARD', key.inbox)
return {'known', is_online and 1 or 0, tonumber(facts[4]) or 0, tonumber(facts[5]) or 0, tonumber(facts[6]) or 0,
  waiting, tonumber(facts[7]) or 0, facts[8] or '', tonumber(facts[9]) or 0, facts[10] or '', unpack(sims)}
