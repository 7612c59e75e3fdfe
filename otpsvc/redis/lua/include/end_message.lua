-- Ends a message: its text goes, its place in the due-set goes, its record stays for a while.
local function end_message(message_name, sealed_name, due_name, message_id, status, reason, now)
  redis.call('HSET', message_name, 'status', status, 'reason', reason, 'ended_at', now)
  redis.call('HDEL', message_name, 'token')
  redis.call('PEXPIRE', message_name, 900000)
  redis.call('DEL', sealed_name)
  redis.call('ZREM', due_name, message_id)
end
