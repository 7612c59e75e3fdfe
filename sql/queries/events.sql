-- Events written, read and done away with; and the messages that events are about.

-- name: begin_history_write value (event_days, message_days)
select begin_history_write($1, $2);

-- name: insert_events value (occurred_at, event_id, name, client_id, mode, otp_id, message_id, data)
-- In the order of the key, so that two who write the same events do not wait for each other in a circle.
with written as (
    insert into events (occurred_at, event_id, name, client_id, mode, otp_id, message_id, data)
    select * from unnest(
        $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::json[]
    )
    order by 1, 2
    on conflict do nothing
    returning 1
)
select count(*) from written;

-- name: merge_messages exec (created_at, message_id, client_id, mode, otp_id, status, precedence, reason, channel, parts, sender, provider_id, tries, sent_at, delivered_at, ended_at, expires_at, to_sealed, to_index, to_masked, text, metadata, sender_precedence)
-- Any order and any division of a message's events ends in the same row: the status and reason of the greatest
-- precedence, the sender and provider_id of the greatest sender_precedence, of each time the earliest, of all else what is
-- known. `merged` in otpsvc/postgres/message_rows.py is the same for events of one batch.
insert into messages as m (
    created_at, message_id, client_id, mode, otp_id, status, precedence, reason, channel, parts, sender, provider_id,
    tries, sent_at, delivered_at, ended_at, expires_at, sender_precedence, forgotten_at, to_sealed, to_index, to_masked,
    text, metadata
)
select
    created_at, message_id, client_id, mode, otp_id, status, precedence, reason, channel, parts, sender, provider_id,
    tries, sent_at, delivered_at, ended_at, expires_at, sender_precedence, f.forgotten_at,
    case when f.forgotten_at is null then to_sealed end,
    case when f.forgotten_at is null then to_index end,
    case when f.forgotten_at is null then to_masked end,
    case when f.forgotten_at is null then text end,
    case when f.forgotten_at is null then metadata end
from unnest(
    $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
    $9::text[], $10::integer[], $11::text[], $12::text[], $13::integer[], $14::timestamptz[], $15::timestamptz[],
    $16::timestamptz[], $17::timestamptz[], $18::bytea[], $19::text[], $20::text[], $21::text[], $22::text[],
    $23::bigint[]
) as given (
    created_at, message_id, client_id, mode, otp_id, status, precedence, reason, channel, parts, sender, provider_id,
    tries, sent_at, delivered_at, ended_at, expires_at, to_sealed, to_index, to_masked, text, metadata,
    sender_precedence
)
cross join lateral (
    select max(n.forgotten_at) as forgotten_at from forgotten_numbers n
    -- The two times are of two clocks: what was sent a moment later may lose its number too, what was before never keeps it.
    where n.to_index = given.to_index and given.created_at < n.forgotten_at + interval '10 seconds'
        and n.client_id in ('', given.client_id) and n.mode in ('', given.mode)
) as f
order by created_at, message_id
on conflict (created_at, message_id) do update set
    status = case
        when (excluded.precedence, excluded.status, coalesce(excluded.reason, ''))
            > (m.precedence, m.status, coalesce(m.reason, '')) then excluded.status else m.status end,
    reason = case
        when (excluded.precedence, excluded.status, coalesce(excluded.reason, ''))
            > (m.precedence, m.status, coalesce(m.reason, '')) then excluded.reason else m.reason end,
    precedence = greatest(m.precedence, excluded.precedence),
    channel = greatest(m.channel, excluded.channel),
    parts = greatest(m.parts, excluded.parts),
    sender = case
        when (coalesce(excluded.sender_precedence, -1), coalesce(excluded.sender, ''), coalesce(excluded.provider_id, ''))
            > (coalesce(m.sender_precedence, -1), coalesce(m.sender, ''), coalesce(m.provider_id, ''))
        then excluded.sender else m.sender end,
    provider_id = case
        when (coalesce(excluded.sender_precedence, -1), coalesce(excluded.sender, ''), coalesce(excluded.provider_id, ''))
            > (coalesce(m.sender_precedence, -1), coalesce(m.sender, ''), coalesce(m.provider_id, ''))
        then excluded.provider_id else m.provider_id end,
    sender_precedence = greatest(m.sender_precedence, excluded.sender_precedence),
    tries = greatest(m.tries, excluded.tries),
    sent_at = least(m.sent_at, excluded.sent_at),
    delivered_at = least(m.delivered_at, excluded.delivered_at),
    ended_at = least(m.ended_at, excluded.ended_at),
    expires_at = greatest(m.expires_at, excluded.expires_at),
    forgotten_at = greatest(m.forgotten_at, excluded.forgotten_at),
    to_sealed = case
        when coalesce(m.forgotten_at, excluded.forgotten_at) is null then greatest(m.to_sealed, excluded.to_sealed) end,
    to_index = case
        when coalesce(m.forgotten_at, excluded.forgotten_at) is null then greatest(m.to_index, excluded.to_index) end,
    to_masked = case
        when coalesce(m.forgotten_at, excluded.forgotten_at) is null then greatest(m.to_masked, excluded.to_masked) end,
    text = case
        when coalesce(m.forgotten_at, excluded.forgotten_at) is null then greatest(m.text, excluded.text) end,
    metadata = case
        when coalesce(m.forgotten_at, excluded.forgotten_at) is null then greatest(m.metadata, excluded.metadata) end;

-- name: events_of_otp many (client_id, mode, otp_id, from_at, until_at)
select occurred_at, event_id, name, client_id, mode, otp_id, message_id, data, tx::text as tx
from events
where otp_id = $3 and client_id = $1 and mode = $2 and occurred_at >= $4 and occurred_at < $5
order by occurred_at, event_id;

-- name: newest_events many (otp_id, client_id, horizon, from_at, until_at, max_rows)
-- What is seen and yet has a number of a transaction to come was written in another server, before a dump and restore.
select occurred_at, event_id, name, client_id, mode, otp_id, message_id, data, tx::text as tx
from events
where occurred_at >= $4 and occurred_at < $5
    and (tx < $3::text::xid8 or tx >= pg_snapshot_xmax(pg_current_snapshot()))
    and ($1::text is null or otp_id = $1) and ($2::text is null or client_id = $2)
order by occurred_at desc, event_id desc limit $6;

-- name: reading_horizon value ()
-- Every transaction below this one has ended: what it wrote is to be seen, and nothing will ever be added below.
select pg_snapshot_xmin(pg_current_snapshot())::text;

-- name: events_after many (tx, event_id, horizon, otp_id, client_id, from_at, max_rows)
select occurred_at, event_id, name, client_id, mode, otp_id, message_id, data, tx::text as tx
from events
where occurred_at >= $6 and tx >= $1::text::xid8 and tx < $3::text::xid8 and (tx, event_id) > ($1::text::xid8, $2)
    and ($4::text is null or otp_id = $4) and ($5::text is null or client_id = $5)
order by tx, event_id limit $7;

-- name: begin_house_keeping value ()
select pg_try_advisory_lock(hashtextextended('otpsvc.history_house', 0));

-- name: end_house_keeping value ()
select pg_advisory_unlock(hashtextextended('otpsvc.history_house', 0));

-- name: drop_history_day value (parent, keep_from)
select drop_history_day($1, $2);

-- name: end_lost_messages value (from_at, until_at, precedence, max_rows)
-- Messages that nothing in the living store could end any more: no worker ran until their records were gone. One that is
-- being written this moment is not waited for.
with lost as materialized (
    select created_at, message_id from messages
    where created_at >= $1 and created_at < $2 and status in ('queued', 'processing')
    order by created_at, message_id limit $4
    for update skip locked
),
ended as (
    update messages m set status = 'expired', reason = 'unrecorded', precedence = $3
    from lost
    where m.created_at = lost.created_at and m.message_id = lost.message_id
        and m.created_at >= $1 and m.created_at < $2
    returning 1
)
select count(*) from ended;

-- name: purge_forgotten_numbers exec (before)
-- Not while the history is so far behind itself: what was sent before is then still to be written. A clock that runs ahead
-- proves nothing.
delete from forgotten_numbers
where forgotten_at < $1 and exists (select from events where occurred_at >= $1 and occurred_at < now() + interval '1 hour');

-- name: today value ()
select (now() at time zone 'UTC')::date;
