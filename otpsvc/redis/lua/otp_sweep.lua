--[[
otp_sweep: say of each OTP whose life is over, and which nothing else has ended, that it expired: once.

Expiring needs no sweep to take effect, because every script looks at the time itself; but somebody has to tell it.

KEYS
  ends          zset, OTP, client and mode -> when its life is over
  events        stream
ARGV
  limit         at most 1000
  otp_base      names of OTP records in this partition, short of their id
  event_id
Returns
  swept         how many were looked at, in how many ms the next life is over (-1: none is left)
Events
  otp.expired
]]
-- include now_ms
-- include event_ids
-- include append_event

local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', key.ends, '-inf', now, 'WITHSCORES', 'LIMIT', 0, arg.limit)
local expired, later, ended = {}, {}, {}
for i = 1, #due, 2 do
  local otp_id, client, mode = string.match(due[i], '^(%S+) (%S+) (%S+)$')
  local otp = redis.call('HMGET', arg.otp_base .. otp_id, 'status', 'expires_at', 'message_id')
  -- A record that is gone was pending to its end: whatever else ends an OTP takes it out of this set.
  if not otp[1] or (otp[1] == 'pending' and tonumber(otp[2]) <= now) then
    expired[#expired + 1] = {member = due[i], id = otp_id, client = client, mode = mode, has_record = otp[1],
      message_id = otp[3] or '', at = otp[2] or due[i + 1]}
  elseif otp[1] == 'pending' then
    later[#later + 1] = otp[2]
    later[#later + 1] = due[i]
  else
    ended[#ended + 1] = due[i]
  end
end
local following = redis.call('ZRANGEBYSCORE', key.ends, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)

-- All is read and decided; from here on only writes.
for n, otp in ipairs(expired) do
  append_event(nth_event_id(n), 'otp.expired', otp.id, otp.message_id, otp.client, otp.mode, otp.at)
  if otp.has_record then
    redis.call('HSET', arg.otp_base .. otp.id, 'status', 'expired', 'ended_at', otp.at)
  end
  redis.call('ZREM', key.ends, otp.member)
end
if #later > 0 then
  redis.call('ZADD', key.ends, unpack(later))
end
if #ended > 0 then
  redis.call('ZREM', key.ends, unpack(ended))
end
return {'swept', #due / 2, following[2] and math.max(0, following[2] - now) or -1}
