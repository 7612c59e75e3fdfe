-- A sliding window: a zset of what happened, scored by when, exact over the last `span_ms`. A score in the future (the
-- clock was set back) counts as now.

-- Returns nil while fewer than `most` lie in the window, else the time at which the next one is allowed.
local function window_full(name, most, span_ms, now)
  local from = '(' .. (now - span_ms)
  local count = redis.call('ZCOUNT', name, from, '+inf')
  if count < most then
    return nil
  end
  local leaving = redis.call('ZRANGEBYSCORE', name, from, '+inf', 'WITHSCORES', 'LIMIT', count - most, 1)
  return math.min(tonumber(leaving[2]), now) + span_ms
end

local function window_add(name, member, span_ms, now)
  redis.call('ZADD', name, now, member)
  redis.call('ZREMRANGEBYSCORE', name, '-inf', now - span_ms)
  redis.call('PEXPIRE', name, span_ms)
end
