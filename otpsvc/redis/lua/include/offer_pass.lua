-- Passing a phone: another is given what this one has not pulled, has surely not sent, or says nothing of.
-- include offer_changes

-- So many phones that had pulled a message are passed, then no other phone gets it.
local MOST_PASSED = 3
-- So often it is given to some phone. What phones that come and go make of it must not fill the stream of events.
local MOST_CHANGES = 12

-- `outcome`: not_pulled, gone, silent, failed or cancelled.
local function tell_of_pass(offer, device, outcome, may_duplicate, now)
  tell_of_offer(offer, 'message.taken_over', device, now, 'outcome', outcome,
    unpack(may_duplicate and {'may_duplicate', '1'} or {}))
end
