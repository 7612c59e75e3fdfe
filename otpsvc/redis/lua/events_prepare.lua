--[[
events_prepare: make the group that moves events on, from the beginning of the stream, unless it is there.

KEYS
  events      stream
ARGV
  group
Returns
  made
  known
Events
]]

if redis.call('EXISTS', key.events) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', key.events)) do
    -- The name is the second of its facts.
    if group[2] == arg.group then
      return {'known'}
    end
  end
end

-- All is read and decided; from here on only writes.
redis.call('XGROUP', 'CREATE', key.events, arg.group, '0', 'MKSTREAM')
return {'made'}
