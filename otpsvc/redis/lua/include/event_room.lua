-- Whether the events that wait to be written elsewhere, and those that living OTPs still owe, reach the bound.
local function is_full(limit)
  return redis.call('XLEN', key.events) + redis.call('ZCARD', key.ends) >= tonumber(limit)
end
