-- Who is to send a message: among the client's phones that are there and within budget, first none that is spare,
-- failed to pull of late, or had this very message taken back; then one whose SIM is of the number's own operator; then
-- the one with least in its inbox; then whoever was given nothing for the longest; then by chance (`arg.luck`).
--
-- Of a large pool a few are looked at, chance says which: the best of so many is as good a choice as the best of all,
-- and costs the store less. The others' turn comes if something speaks against each of those. Where the whole of a large
-- pool was looked at in vain, nobody does it again for a second (`spent`): a few are looked at, and no more.
--
-- A SIM's messages count from when they are offered. Those that are not pulled yet stand in its window at the end of
-- their code, the latest at which they can be, and at the moment of their pull from then on: whenever a phone pulls, no
-- stretch of the window's length holds more than the budget.
-- include offer_facts
-- include phone_facts

local MOST_PHONES, MOST_IN_INBOX = 500, 500
local LOOKED_AT_ONCE = 16
-- If so many have no SIM of the operator, nobody looks for one any further; nor once so many have one.
local LOOKED_AT_FOR_OPERATOR, ENOUGH_OF_OPERATOR = 32, 8
local SPENT_MS = 1000
local LONGEST_REST_MS = 1000000000
local RECIPIENTS_MS = 86400000

local function is_quiet(phone, now)
  return tonumber(phone[QUIET_FROM] or 0) <= now and now < tonumber(phone[QUIET_TO] or 0)
end

local function has_sim_of(sims, operator)
  return operator ~= '' and sims and string.find(sims, '"' .. operator .. '"', 1, true) ~= nil
end

-- The SIM of a phone that is within its budget and has sent least, of this operator or of all others; nil if none is.
-- A phone that does not tell its SIMs has one.
local function free_sim(phone, device, offer, is_of_operator, now)
  local sims, best = cjson.decode(phone[SIMS] or '[]'), nil
  if #sims == 0 then
    sims = {{0, '', ''}}
  end
  for _, sim in ipairs(sims) do
    local name = device .. ':' .. sim[1]
    if (offer.operator ~= '' and sim[3] == offer.operator) == is_of_operator then
      local sent = redis.call('ZCOUNT', arg.sim_base .. name, '(' .. now - phone[WINDOW_MS], '+inf')
      if sent < tonumber(phone[MOST_MESSAGES]) and not (best and best.sent <= sent) then
        local known = tonumber(redis.call('ZSCORE', arg.recipients_base .. name, offer.recipient))
        if known and known <= now - RECIPIENTS_MS then
          known = nil
        end
        if known or redis.call('ZCOUNT', arg.recipients_base .. name, '(' .. now - RECIPIENTS_MS, '+inf')
          < tonumber(phone[MOST_RECIPIENTS]) then
          best = {device = device, slot = sim[1], sim_number = sim[2], sent = sent, window_ms = phone[WINDOW_MS],
            recipient_was_at = known or '', recipient_at = known and known >= now and known + 1 or now}
        end
      end
    end
  end
  return best
end

-- The smaller the better. The place, which chance decides, makes each unlike all others.
local function rank_of(phone, is_again, is_of_operator, in_inbox, place, now)
  local has_missed = tonumber(phone[MISSES] or 0) > 0
  local class = (is_again and 4 or 0) + (phone[IS_SPARE] == '1' and 2 or 0) + (has_missed and 1 or 0)
  local rest = math.min(math.max(now - (phone[OFFERED_AT] or 0), 0), LONGEST_REST_MS - 1)
  return ((((class * 2 + (is_of_operator and 0 or 1)) * 512 + in_inbox) * LONGEST_REST_MS) + LONGEST_REST_MS - rest)
    * 512 + place
end

-- Below this a rank says that nothing speaks against the phone, or only that it has no SIM of the operator.
local function good_rank(is_any_good)
  return (is_any_good and 2 or 1) * 512 * LONGEST_REST_MS * 512
end

local function phones_of(offer, pool, now)
  if offer.pinned ~= '' then
    return {offer.pinned}
  end
  return redis.call('ZRANGEBYSCORE', pool, '(' .. now, '+inf', 'LIMIT', 0, MOST_PHONES)
end

local function by_chance(phones, place)
  return phones[(arg.luck + place) % #phones + 1]
end

-- The first few by chance, put so that those with a SIM of the operator come first; and how many of these were looked for
-- and found. What else is to be known of the others costs more, and is asked of few.
local function first_of_operator(phones, operator)
  local found, others = {}, {}
  for place = 0, math.min(#phones, LOOKED_AT_FOR_OPERATOR) - 1 do
    local device = by_chance(phones, place)
    if #found < ENOUGH_OF_OPERATOR and has_sim_of(redis.call('HGET', arg.device_base .. device, 'sims'), operator) then
      found[#found + 1] = device
    else
      others[#others + 1] = device
    end
  end
  local n_found = #found
  for _, device in ipairs(others) do
    found[#found + 1] = device
  end
  return found, n_found
end

-- Returns who is to have it: device, slot, sim_number and what its budget needs to know; or nil, whether that is to
-- be noted as `spent`, and whether anybody was there who might have sent it at another time.
local function choose_phone(offer, pool, spent, now)
  local phones, is_anybody = phones_of(offer, pool, now), false
  local is_large = #phones > LOOKED_AT_ONCE
  local n_phones = is_large and redis.call('EXISTS', spent) == 1 and LOOKED_AT_ONCE or #phones
  local first, n_of_operator = {}, 0
  if offer.operator ~= '' and is_large then
    first, n_of_operator = first_of_operator(phones, offer.operator)
  end
  local ranks, ranked = {}, {}
  for place = 0, n_phones - 1 do
    local device = first[place + 1] or by_chance(phones, place)
    local known = offer.by[device]
    local phone = (not known or known == 'withdrawn') and phone_facts(device)
    if phone and is_there(phone, offer.mode, now) then
      is_anybody = true
      local in_inbox = redis.call('ZCARD', arg.inbox_base .. device)
      if not is_quiet(phone, now) and in_inbox < MOST_IN_INBOX then
        local is_of_operator = has_sim_of(phone[SIMS], offer.operator)
        local rank = rank_of(phone, known, is_of_operator, in_inbox, place, now)
        ranks[#ranks + 1], ranked[rank] = rank, {phone, device, is_of_operator}
        if is_of_operator then
          -- Its other SIMs, should that one be over its budget.
          rank = rank_of(phone, known, false, in_inbox, place, now)
          ranks[#ranks + 1], ranked[rank] = rank, {phone, device, false}
        end
      end
    end
    local is_last = place == n_phones - 1
    if is_last or (place + 1) % LOOKED_AT_ONCE == 0 then
      table.sort(ranks)
      local is_any_good = n_of_operator < ENOUGH_OF_OPERATOR or place + 1 >= LOOKED_AT_FOR_OPERATOR
      local n_asked, good = 0, good_rank(is_any_good)
      while ranks[n_asked + 1] and (is_last or ranks[n_asked + 1] < good) do
        n_asked = n_asked + 1
        local one = ranked[ranks[n_asked]]
        local sim = free_sim(one[1], one[2], offer, one[3], now)
        if sim then
          return sim
        end
      end
      ranks = {unpack(ranks, n_asked + 1)}
    end
  end
  return nil, is_anybody and is_large and n_phones == #phones, is_anybody
end
