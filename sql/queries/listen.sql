-- News over a connection of its own.

-- name: is_listening value (channel)
select exists (select from pg_listening_channels() as channel where channel = $1);
