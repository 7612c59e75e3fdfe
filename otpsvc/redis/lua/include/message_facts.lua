-- What a message's record says, to be read before the first write. `by` is the state of each sender that was asked; what
-- a script decides goes into it first and is written by `write_states`. `pid` is a gateway's own name for the message.
local function message_facts(message_id)
  local record = arg.message_base .. message_id
  local facts = redis.call('HMGET', record, 'status', 'client', 'mode', 'otp_id', 'created_at', 'channel', 'tries',
    'token', 'settled_by', 'begun_by', 'awaiting', 'sender', 'sent_at', 'ended_at', 'hopeless_by', 'asked', 'reason',
    'told_failed')
  local message = {id = message_id, status = facts[1], client = facts[2], mode = facts[3], otp_id = facts[4],
    created_at = facts[5], channel = facts[6], tries = facts[7], token = facts[8], settled_by = facts[9],
    begun_by = facts[10] or '', awaiting = facts[11] or '', sender = facts[12], sent_at = facts[13],
    ended_at = facts[14], hopeless_by = facts[15], reason = facts[17], told_failed = facts[18],
    by = {}, was = {}, pid = {}, dup = {}}
  if facts[16] then
    for sender, state in string.gmatch(facts[16], '(%S+)=(%S+)') do
      message.by[sender], message.was[sender] = state, state
      -- Before that its gateway has not named it.
      if state ~= 'begun' then
        local more = redis.call('HMGET', record, 'pid:' .. sender, 'dup:' .. sender)
        message.pid[sender], message.dup[sender] = more[1], more[2]
      end
    end
  end
  return message
end

-- Writes `by`, and with it the fields whose names and values follow.
local function write_states(record, message, ...)
  local states = {}
  for sender, state in pairs(message.by) do
    states[#states + 1] = sender .. '=' .. state
  end
  redis.call('HSET', record, 'asked', table.concat(states, ' '), ...)
end

-- Why a receipt says that this sender failed; nil where none does.
local function failure_of(message, sender)
  return message.by[sender] and string.match(message.by[sender], '^failed:(.+)$')
end
