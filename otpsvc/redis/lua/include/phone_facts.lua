-- What the pool must know of a phone, as a list with these places: names would double what a choice costs.
local MODE, IS_ACTIVE, RETIRED, ONLINE_UNTIL, MISSES, QUIET_FROM, QUIET_TO, IS_SPARE, SIMS, MOST_MESSAGES, WINDOW_MS,
  MOST_RECIPIENTS, OFFERED_AT, MISSED_AT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
local MOST_MISSES = 3

local function phone_facts(device)
  return redis.call('HMGET', arg.device_base .. device, 'mode', 'is_active', 'retired', 'online_until', 'misses',
    'quiet_from', 'quiet_to', 'is_spare', 'sims', 'budget_messages', 'budget_window_ms', 'budget_recipients',
    'offered_at', 'missed_at')
end

local function is_there(phone, mode, now)
  return phone[MODE] == mode and phone[IS_ACTIVE] == '1' and phone[RETIRED] ~= '1'
    and tonumber(phone[ONLINE_UNTIL] or 0) > now and tonumber(phone[MISSES] or 0) < MOST_MISSES
end
