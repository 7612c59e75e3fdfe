-- The fence: a promoted replica may lack the last writes, and would hand back attempts and used codes. So an OTP names
-- the history that it was made in, and ends with it. Every promotion begins a new one; a restart does too.
local known_history

-- Nil where nothing is fenced and the server does not let a script ask.
local function history_id()
  if not known_history then
    local told = arg.is_fenced == '1' and redis.call('INFO', 'replication') or redis.pcall('INFO', 'replication')
    known_history = type(told) == 'string' and string.match(told, 'master_replid:(%x+)') or nil
  end
  return known_history
end

-- An OTP without a name was made while the fence was off.
local function is_fenced_off(made_in)
  return arg.is_fenced == '1' and made_in and made_in ~= '' and made_in ~= history_id()
end
