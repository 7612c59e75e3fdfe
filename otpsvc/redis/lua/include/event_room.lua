-- Whether the events that wait to be written elsewhere, and those that living OTPs and messages still owe, reach the
-- bound.
local function is_full(limit)
  return redis.call('XLEN', key.events) + redis.call('ZCARD', key.ends) + redis.call('ZCARD', key.due)
    >= tonumber(limit)
end
