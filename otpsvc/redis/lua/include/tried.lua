-- The steps of a message's way that are over. What a worker says of a sender never undoes what a receipt has said.
-- include message_facts
-- include append_event
-- include event_ids
-- include answered_by

-- What may come again at every lease; the first times are worth telling. A call that was made is worth telling also where
-- it was long held up before, so these are counted apart.
local TOLD_TRIES, TOLD_CALLS = 5, 10
local MAY_BE_ASKED_AGAIN = {retry_later = true, held_open = true, held_rate = true, held_crowd = true,
  held_demoted = true}

local function tell_tried(message, sender, outcome, is_duplicate, now)
  append_event(next_event_id(), 'message.tried', message.otp_id, message.id, message.client, message.mode, now,
    'created_at', message.created_at, 'channel', message.channel, 'tries', message.tries, 'sender', sender,
    'outcome', outcome, unpack(is_duplicate and {'may_duplicate', '1'} or {}))
end

-- Takes pairs of sender and outcome into `message.by`, and returns what is to be told of them. That a sender was silent
-- is told once, and once more if it turns out that somebody else was called nevertheless. One that has said meanwhile that
-- it failed was not silent, and that is told.
local function take_tried(message, words, may_duplicate)
  local news = {}
  local record = arg.message_base .. message.id
  local n_put_off = string.find(words, 'retry_later', 1, true) and tonumber(redis.call('HGET', record, 'put_off')) or 0
  for sender, outcome in string.gmatch(words, '(%S+) (%S+)') do
    local failure = outcome == 'silent' and failure_of(message, sender)
    outcome = failure or outcome
    local is_silent, may_be_asked_again = outcome == 'silent', MAY_BE_ASKED_AGAIN[outcome]
    local is_duplicate = is_silent and may_duplicate
    local is_told = is_silent and (message.dup[sender] or (message.was[sender] == 'silent' and not is_duplicate))
      or failure and (message.dup[sender] or message.told_failed == sender)
    local is_call = outcome == 'retry_later'
    local is_worth_it = not may_be_asked_again or tonumber(message.tries) <= TOLD_TRIES or is_call and n_put_off < TOLD_CALLS
    if not is_told and is_worth_it then
      n_put_off = n_put_off + (is_call and 1 or 0)
      news[#news + 1] = {sender = sender, outcome = outcome, is_duplicate = is_duplicate, is_call = is_call}
      if failure then
        message.told_failed = sender
      end
    end
    if is_duplicate then
      message.dup[sender] = '1'
    end
    if not failure_of(message, sender) and message.by[sender] ~= 'sent' and sender ~= answered_by(message) then
      message.by[sender] = not may_be_asked_again and (is_silent and 'silent' or 'rejected:' .. outcome) or nil
    end
  end
  return news
end

local function write_tried(message, news, now)
  for _, one in ipairs(news) do
    if one.is_duplicate then
      redis.call('HSET', arg.message_base .. message.id, 'dup:' .. one.sender, '1')
    end
    if one.is_call then
      redis.call('HINCRBY', arg.message_base .. message.id, 'put_off', 1)
    end
    tell_tried(message, one.sender, one.outcome, one.is_duplicate, now)
  end
end
