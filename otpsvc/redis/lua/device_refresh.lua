--[[
device_refresh: tell the pool of a device's new version, if it knows the phone. Says nothing of whether it is there.

KEYS
  device             hash, the phone's record
ARGV
  mode
  version            of the device, with the nine facts that follow
  is_active          1 where it may send, else 0
  is_out             1 where it was disabled or deleted, else 0
  sims               JSON: slot, number and operator of each
  budget_messages    per SIM in the window
  budget_window_ms
  budget_recipients  per SIM in 24 h
  quiet_from         the quiet stretch that is or comes next, ms since 1970; 0 where there is none
  quiet_to
  is_spare           1 where it is used only if no other can be, else 0
Returns
  refreshed
  stale              this version or a later one is known
  unknown            there is no record
Events
]]
-- include device_facts

local known_version = redis.call('HGET', key.device, 'version')
if not known_version then
  return {'unknown'}
end
if tonumber(known_version) >= tonumber(arg.version) then
  return {'stale'}
end

-- All is read and decided; from here on only writes.
redis.call('HSET', key.device, unpack(device_facts()))
return {'refreshed'}
