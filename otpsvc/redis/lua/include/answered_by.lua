-- Names the sender that has the message for sure, so that nobody else is to be asked: its receipt says that it left, or
-- that it was taken where no other gateway has taken it. Nil where no receipt says so.
local function answered_by(message)
  local state = message.by[message.begun_by]
  if state == 'accepted' or state == 'sent' then
    return message.begun_by
  end
  local first
  for sender, known in pairs(message.by) do
    local is_enough = known == 'sent' or (known == 'accepted' and message.status ~= 'sent')
    if is_enough and not (first and first < sender) then
      first = sender
    end
  end
  return first
end

-- Whether some gateway has taken the message and has not said that it failed. That it was silent since says nothing.
local function may_have(message)
  for sender, state in pairs(message.by) do
    if state == 'accepted' or state == 'sent' or (state == 'silent' and message.pid[sender]) then
      return true
    end
  end
  return false
end

-- Names a sender that may have the message without anybody's knowing, the open question before all others; nil where
-- surely none has.
local function in_doubt(message)
  local open = message.by[message.begun_by]
  if message.begun_by ~= '' and not (open and string.find(open, ':', 1, true)) then
    return message.begun_by
  end
  local first
  for sender, state in pairs(message.by) do
    if (state == 'begun' or state == 'silent') and not (first and first < sender) then
      first = sender
    end
  end
  return first
end

-- Whether a receipt says that the message has left, by whomever.
local function has_left(message)
  for _, state in pairs(message.by) do
    if state == 'sent' then
      return true
    end
  end
  return false
end
