-- The streams of a phone that count now. One that has ended is remembered for a while under `ended <stream>`: a keep-alive
-- that was under way when it ended must not open it again.
local STREAMS_MS = 600000
local ENDED_MS = 60000
local MOST_ENDED = 100

local function streams_now(now)
  local streams = {open = {}, ended = {}, n_open = 0, n_ended = 0}
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key.streams, '(' .. now, '+inf')) do
    local ended = string.match(member, '^ended (.+)$')
    if ended then
      streams.ended[ended] = true
      streams.n_ended = streams.n_ended + 1
    else
      streams.open[member] = true
      streams.n_open = streams.n_open + 1
    end
  end
  return streams
end

local function keep_stream(member, for_ms, now)
  redis.call('ZADD', key.streams, now + math.min(for_ms, STREAMS_MS), member)
  redis.call('ZREMRANGEBYSCORE', key.streams, '-inf', now)
  redis.call('PEXPIRE', key.streams, STREAMS_MS)
end
