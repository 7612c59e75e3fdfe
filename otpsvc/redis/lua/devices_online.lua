--[[
devices_online: count the phones of all clients that are there.

A phone that is there is looked at when it is due to be heard of, or a little later than now where something is still to
be told. So one that is looked at only after that little is surely there; of the others the record has to be asked.

KEYS
  presence      zset, phone -> when to look whether it is still there
ARGV
  little_ms     the longest that anything waits to be told
  limit         of those to ask about
Returns
  counted       the time now, how many are surely there, then client, mode and device of each to ask about
Events
]]
-- include now_ms

local now = now_ms()
local horizon = now + arg.little_ms
local sure = redis.call('ZCOUNT', key.presence, '(' .. horizon, '+inf')
return {'counted', now, sure, unpack(redis.call('ZRANGEBYSCORE', key.presence, '-inf', horizon, 'LIMIT', 0, arg.limit))}
