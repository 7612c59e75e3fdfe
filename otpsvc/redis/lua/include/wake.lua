-- Leaves at most one token for a waiting worker. `waiting` is how many tokens were there before the first write.
local function wake(waiting)
  if waiting == 0 then
    redis.call('LPUSH', key.wake, 1)
    redis.call('PEXPIRE', key.wake, 60000)
  end
end
