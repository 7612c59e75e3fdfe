-- What PostgreSQL knows of the masters: which one keys the indexes, which came after which, what depends on each.

-- name: record_index_key exec (index_key_id)
insert into installation (index_key_id) values ($1)
on conflict do nothing;

-- name: index_key value ()
select index_key_id from installation;

-- name: note_master exec (auth_key_id)
insert into auth_masters (auth_key_id) values ($1)
on conflict do nothing;

-- name: promote_master exec (auth_key_id)
insert into auth_masters (auth_key_id) values ($1)
on conflict (auth_key_id) do update set rank = nextval('auth_master_ranks');

-- name: known_masters many ()
-- A key that is revoked or expired never works again, so nothing depends on its master. A phone that is disabled comes
-- back with its login, but what its passphrase was is known under its master only.
select
    coalesce(m.auth_key_id, u.auth_key_id) as auth_key_id,
    m.auth_key_id is not null as was_current,
    count(u.public_id) as living_keys,
    count(distinct u.device_id) as phones
from auth_masters m
full join (
    select auth_key_id, public_id, null as device_id from api_keys
    where revoked_at is null and (expires_at is null or expires_at > now())
    union all
    select auth_key_id, null, id from devices where token_tag is not null and status in ('pending', 'active')
    union all
    select substr(passphrase_sealed, 1, 2), null, id from devices where passphrase_sealed is not null
) u on u.auth_key_id = m.auth_key_id
group by 1, 2;
