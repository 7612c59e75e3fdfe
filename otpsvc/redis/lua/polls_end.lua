--[[
polls_end: ask the gateway no more about these messages.

Gateways use ids again: one that names another message by now goes on.

KEYS
  polls         zset, gateway's id (as a hash) -> when to ask the gateway about it
ARGV
  ended         pairs of the gateway's id (as a hash) and the message's, all with a space between; at most 1000
  sent_base     names of what is known of the gateway's ids, short of the id
Returns
  ended
Events
]]

local ended = {}
for id, message_id in string.gmatch(arg.ended, '(%S+) (%S+)') do
  local sent = redis.call('GET', arg.sent_base .. id)
  if not sent or cjson.decode(sent).message_id == message_id then
    ended[#ended + 1] = id
  end
end

-- All is read and decided; from here on only writes.
if #ended > 0 then
  redis.call('ZREM', key.polls, unpack(ended))
end
return {'ended'}
