--[[
pool_reach: say whether a client's message could be offered to a phone now, by presence alone: budgets are not asked.

KEYS
  pool          zset, device -> until when it counts as there
ARGV
  mode
  pinned        the only phone that may have it, or empty
  device_base   names of the client's phones, short of their last part
Returns
  reachable
  none          nobody is there
  empty         the client has no phone
  offline       the pinned phone is not there
  foreign       the pinned phone is not this client's
Events
]]
-- include now_ms
-- include phone_facts

local MOST_PHONES = 500

local now = now_ms()
if arg.pinned ~= '' then
  local phone = phone_facts(arg.pinned)
  if phone[MODE] ~= arg.mode then
    return {'foreign'}
  end
  if is_there(phone, arg.mode, now) then
    return {'reachable'}
  end
  return {'offline'}
end
if redis.call('ZCARD', key.pool) == 0 then
  return {'empty'}
end
for _, device in ipairs(redis.call('ZRANGEBYSCORE', key.pool, '(' .. now, '+inf', 'LIMIT', 0, MOST_PHONES)) do
  if is_there(phone_facts(device), arg.mode, now) then
    return {'reachable'}
  end
end
return {'none'}
