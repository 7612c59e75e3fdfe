--[[
events_acknowledge: forget events that are safely written elsewhere: acknowledge them, and cut the stream off before the
oldest one that is not.

KEYS
  events      stream
ARGV
  group       the consumer group of those who write them
  entries     the stream's ids, with a space between them; at most 1000
Returns
  cut         how many left the stream
  gone        the stream was lost, or its group: nothing is left to acknowledge
Events
]]

local entries = {}
for entry in string.gmatch(arg.entries, '%S+') do
  entries[#entries + 1] = entry
end
local group
if redis.call('EXISTS', key.events) == 1 then
  for _, one in ipairs(redis.call('XINFO', 'GROUPS', key.events)) do
    local facts = {}
    for i = 1, #one, 2 do
      facts[one[i]] = one[i + 1]
    end
    if facts['name'] == arg.group then
      group = facts
    end
  end
end
if not group then
  return {'gone'}
end

-- Freeing memory must work on a server that has none left, so the first write is none that it refuses.
redis.call('XACK', key.events, arg.group, unpack(entries))
local oldest = redis.call('XPENDING', key.events, arg.group)[2]
if not oldest then
  local ms, count = string.match(group['last-delivered-id'], '^(%d+)-(%d+)$')
  oldest = ms .. '-' .. (count + 1)
end
return {'cut', redis.call('XTRIM', key.events, 'MINID', oldest)}
