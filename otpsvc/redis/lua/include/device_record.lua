-- What a phone's record says of its presence, to be read before the first write.
local RECORD_MS = 604800000
local MOST_MISSES = 3 -- so many offers in a row that it did not pull, and an open stream proves nothing any more

local function device_record()
  local facts = redis.call('HMGET', key.device, 'version', 'retired_version', 'online_until', 'connected_at', 'misses',
    'told', 'told_at', 'gone', 'is_first')
  return {version = tonumber(facts[1]), retired_version = tonumber(facts[2]), online_until = tonumber(facts[3]) or 0,
    connected_at = tonumber(facts[4]), misses = tonumber(facts[5]) or 0, told = facts[6] or 'disconnected',
    told_at = tonumber(facts[7]), gone = facts[8] or '', is_first = facts[9] or '0'}
end

-- How the set of those to look at names the phone.
local function presence_member()
  return arg.client .. ' ' .. arg.mode .. ' ' .. arg.device_id
end
