-- What is not told yet of whether a phone is there. A phone that flaps is told of once in a while only, so that no phone
-- fills the stream of events; how it stands in the end is told in any case, by a later look.
-- include event_room
local TOLD_AGAIN_MS, NO_ROOM_MS, SMALL_STEP_MS = 10000, 1000, 1000

-- Returns true if `state` is to be told now; else, if it is to be told later, nil and when to look.
local function is_news(device, state, now)
  if device.told == state then
    return nil
  end
  local told_at = device.told_at
  -- What was told in the future was told by a clock that has been set back since.
  if told_at and told_at <= now + SMALL_STEP_MS and told_at + TOLD_AGAIN_MS > now then
    return nil, told_at + TOLD_AGAIN_MS
  end
  if is_full(arg.event_limit) then
    return nil, now + NO_ROOM_MS
  end
  return true
end
