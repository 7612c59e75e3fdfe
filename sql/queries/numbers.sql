-- Forgetting a number.

-- name: record_forgotten exec (to_index, client_id, mode)
insert into forgotten_numbers as n (to_index, client_id, mode) values ($1, coalesce($2, ''), coalesce($3, ''))
on conflict (to_index, client_id, mode) do update set forgotten_at = greatest(n.forgotten_at, excluded.forgotten_at);

-- name: young_messages many (to_index, client_id, mode, from_at)
select client_id, mode, message_id from messages
where to_index = $1 and created_at >= $4 and ($2::text is null or client_id = $2) and ($3::text is null or mode = $3)
order by created_at, message_id;

-- name: await_history_writers value ()
select await_history_writers();

-- name: erase_messages value (to_index, client_id, mode, from_at, until_at)
-- Locked in the order in which `merge_messages` locks.
with found as materialized (
    select created_at, message_id from messages
    where to_index = $1 and created_at >= $4 and created_at < $5
        and ($2::text is null or client_id = $2) and ($3::text is null or mode = $3)
    order by created_at, message_id
    for update
),
erased as (
    update messages m
    set to_sealed = null, to_index = null, to_masked = null, text = null, metadata = null, forgotten_at = now()
    from found
    where m.created_at = found.created_at and m.message_id = found.message_id
        and m.created_at >= $4 and m.created_at < $5
    returning 1
)
select count(*) from erased;
