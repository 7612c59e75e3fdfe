-- What a sender's gate knows of time. What was written down in the future was written by a clock that has been set back
-- since: it counts as over, because nobody may be locked out until that clock has caught up.

-- No permit counts for longer than this, so a score beyond it is from such a clock.
local MAX_LAPSE_MS = 300000
local SMALL_STEP_MS = 1000 -- a clock that is being corrected takes steps like this all the time

local function is_from_the_future(at, now)
  return tonumber(at) > now + SMALL_STEP_MS
end

-- How many ms are left of what began at `began_at` and lasts `span_ms`; 0 where it never began.
local function left_of(began_at, span_ms, now)
  if not began_at or is_from_the_future(began_at, now) then
    return 0
  end
  return math.max(0, began_at + span_ms - now)
end

local function count_under_way(now)
  return redis.call('ZCOUNT', key.calls, '(' .. now, now + MAX_LAPSE_MS)
end

local function is_under_way(permit, now)
  local lapses_at = permit and tonumber(redis.call('ZSCORE', key.calls, permit))
  return lapses_at and lapses_at > now and lapses_at <= now + MAX_LAPSE_MS
end

-- How many numbers are in a row of missing receipts: the sign of each, and a space behind it.
local function count_missed(row)
  return select(2, string.gsub(row, '%S+', ''))
end
