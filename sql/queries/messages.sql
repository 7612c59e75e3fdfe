-- Messages looked up for their owner, and for the receipts of those who carried them.

-- name: message_by_id one (client_id, mode, message_id, from_at, until_at)
select
    message_id, otp_id, status, reason, channel, parts, sender, tries, created_at, sent_at, delivered_at, ended_at,
    expires_at, to_masked, text, metadata
from messages
where message_id = $3 and client_id = $1 and mode = $2 and created_at >= $4 and created_at < $5;

-- name: newest_message_of_otp one (client_id, mode, otp_id, from_at, until_at)
-- The event that a message began with says when that was, and so in which table it is.
select message_id, occurred_at as created_at
from events
where otp_id = $3 and client_id = $1 and mode = $2 and name in ('otp.sent', 'otp.resent')
    and occurred_at >= $4 and occurred_at < $5
order by occurred_at desc, event_id desc limit 1;

-- name: carried_message_by_id one (sender, message_id, from_at)
select message_id, client_id, mode, otp_id, status, reason, channel, created_at, tries, provider_id
from messages
where message_id = $2 and sender = $1 and created_at >= $3;

-- name: carried_message_by_provider_id one (sender, provider_id, from_at)
select message_id, client_id, mode, otp_id, status, reason, channel, created_at, tries, provider_id
from messages
where provider_id = $2 and sender = $1 and created_at >= $3
order by created_at desc, message_id desc limit 1;
