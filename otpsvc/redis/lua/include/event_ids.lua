-- The ids of the events of one call: the service makes one, and its last three letters count the others.
local LETTERS = '0123456789abcdefghjkmnpqrstvwxyz'

local function letter(value)
  return string.sub(LETTERS, value + 1, value + 1)
end

-- `n` from 0 to 8191. The last letter of an id holds three bits, and two that are zero.
local function nth_event_id(n)
  return string.sub(arg.event_id, 1, -4) .. letter(math.floor(n / 256)) .. letter(math.floor(n / 8) % 32)
    .. letter(n % 8 * 4)
end

local n_event_ids = 0

local function next_event_id()
  n_event_ids = n_event_ids + 1
  return nth_event_id(n_event_ids - 1)
end
