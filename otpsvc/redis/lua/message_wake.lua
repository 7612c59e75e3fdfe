--[[
message_wake: leave a token for a worker, by one that stops and may have taken one with it.

KEYS
  wake        list, the token that wakes a worker
ARGV
Returns
  woken
Events
]]
-- include wake

wake(redis.call('LLEN', key.wake))
return {'woken'}
