-- What the device's own version says that the pool must know. A device that is out (disabled, deleted) stays out at this
-- version, whatever an earlier one said.
local function device_facts()
  local facts = {'version', arg.version, 'mode', arg.mode, 'is_active', arg.is_active, 'retired', arg.is_out,
    'sims', arg.sims, 'budget_messages', arg.budget_messages, 'budget_window_ms', arg.budget_window_ms,
    'budget_recipients', arg.budget_recipients, 'quiet_from', arg.quiet_from, 'quiet_to', arg.quiet_to,
    'is_spare', arg.is_spare}
  if arg.is_out == '1' then
    facts[#facts + 1] = 'retired_version'
    facts[#facts + 1] = arg.version
  end
  return facts
end
