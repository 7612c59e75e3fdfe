-- The fence: a promoted replica may lack the last writes, and would hand back attempts and used codes. So an OTP names
-- the history that it was made in, and ends with it. Every promotion begins a new one; a restart does too.
local known_history

local function history_id()
  known_history = known_history or string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  return known_history
end

-- An OTP without a name was made while the fence was off.
local function is_fenced_off(made_in)
  return arg.is_fenced == '1' and made_in and made_in ~= '' and made_in ~= history_id()
end
