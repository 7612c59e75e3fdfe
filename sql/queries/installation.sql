-- The installation's one row, and whether PostgreSQL answers at all.

-- name: record_installation exec (partitions, index_key_id)
insert into installation (partitions, index_key_id) values ($1, $2)
on conflict (is_only_row) do update set partitions = excluded.partitions
where installation.partitions is null;

-- name: installation one ()
select partitions, index_key_id from installation;

-- name: ping value ()
select 1;
