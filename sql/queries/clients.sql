-- Clients and their API keys.

-- name: insert_client one (id, name, policy)
insert into clients (id, name, policy) values ($1, $2, $3::jsonb)
on conflict (id) do nothing
returning id, name, status, policy, created_at;

-- name: client_by_id one (id)
select id, name, status, policy, created_at from clients where id = $1;

-- name: all_clients many ()
select id, name, status, policy, created_at from clients order by created_at, id;

-- name: set_client_policy one (id, policy)
update clients set policy = $2::jsonb where id = $1
returning id, name, status, policy, created_at;

-- name: set_client_status one (id, status)
update clients set status = $2 where id = $1
returning id, name, status, policy, created_at;

-- name: insert_key one (public_id, client_id, mode, name, auth_key_id, tag, expires_at)
with master as (
    insert into auth_masters (auth_key_id) values ($5)
    on conflict do nothing
)
insert into api_keys (public_id, client_id, mode, name, auth_key_id, tag, expires_at)
values ($1, $2, $3, $4, $5, $6, $7)
returning public_id, client_id, mode, name, created_at, expires_at, revoked_at;

-- name: keys_of_client many (client_id)
select public_id, client_id, mode, name, created_at, expires_at, revoked_at
from api_keys where client_id = $1 order by created_at, public_id;

-- name: revoke_key one (client_id, public_id)
-- Revoking twice keeps the first time.
update api_keys set revoked_at = coalesce(revoked_at, now())
where client_id = $1 and public_id = $2
returning public_id, client_id, mode, name, created_at, expires_at, revoked_at;

-- name: key_for_authentication one (public_id)
select
    k.public_id, k.client_id, k.mode, k.auth_key_id, k.tag, k.expires_at, k.revoked_at,
    c.status as client_status, c.policy
from api_keys k join clients c on c.id = k.client_id
where k.public_id = $1;

-- name: retag_key value (public_id, old_auth_key_id, old_tag, auth_key_id, tag)
-- Only if the record is still the one that was read, and only to a master that became current later.
update api_keys set auth_key_id = $4, tag = $5
where public_id = $1 and auth_key_id = $2 and tag = $3
    and (select rank from auth_masters where auth_key_id = $4) > (select rank from auth_masters where auth_key_id = $2)
returning public_id;
