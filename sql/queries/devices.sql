-- The team's own phones and their pairings. Rows are locked in this order: pairing, client, device.

-- name: drop_old_pairings exec ()
-- What was never used is of no interest a day after its end.
delete from device_pairings where login in (
    select login from device_pairings where device_id is null and expires_at < now() - interval '1 day'
    limit 100 for update skip locked
);

-- name: count_open_pairings value (client_id)
-- None where there is no such client.
select count(p.login) from clients c
left join device_pairings p on p.client_id = c.id and p.device_id is null and p.expires_at > now()
where c.id = $1
group by c.id;

-- name: free_code exec (code_tag)
-- A code that has expired may be given to another pairing.
update device_pairings set code_tag = null
where code_tag = $1 and (code_expires_at <= now() or expires_at <= now());

-- name: insert_pairing value (login, client_id, mode, password_hash, code_tag, code_expires_at, expires_at, is_confirmed_by_itself)
insert into device_pairings
    (login, client_id, mode, password_hash, code_tag, code_expires_at, expires_at, is_confirmed_by_itself)
values ($1, $2, $3, $4, $5, least($6::timestamptz, $7::timestamptz), $7, $8)
on conflict do nothing
returning login;

-- name: open_pairings many (client_id, mode)
select login, client_id, mode, created_at, expires_at from device_pairings
where client_id = $1 and mode = $2 and device_id is null and expires_at > now()
order by created_at, login;

-- name: all_open_pairings many ()
select login, client_id, mode, created_at, expires_at from device_pairings
where device_id is null and expires_at > now()
order by client_id, mode, created_at, login;

-- name: close_pairing value (login, client_id, mode)
-- Who has proven its password, or used its code, a moment ago finds another password here and is refused.
update device_pairings set
    expires_at = now(), password_hash = '', code_tag = null,
    code_status = case when code_status = 'open' then 'closed' else code_status end
where login = $1 and client_id = $2 and mode = $3 and device_id is null and expires_at > now()
returning login;

-- name: account one (login)
select
    p.login, p.client_id, p.mode, p.password_hash, p.expires_at, p.device_id, d.status as device_status,
    p.is_confirmed_by_itself
from device_pairings p left join devices d on d.id = p.device_id
where p.login = $1;

-- name: set_code value (login, code_tag, code_expires_at)
update device_pairings set code_tag = $2, code_expires_at = least($3::timestamptz, expires_at)
where login = $1 and code_status = 'open' and device_id is null and expires_at > now()
returning code_expires_at;

-- name: has_open_codes value ()
select exists (
    select from device_pairings where code_tag is not null and code_expires_at > now() and expires_at > now()
);

-- name: lock_codes value ()
-- Codes are tried one after the other: two that count a wrong one on many rows could wait for each other for good.
select pg_advisory_xact_lock(hashtextextended('otpsvc.device_codes', 0));

-- name: use_code one (code_tag)
update device_pairings set code_tag = null, code_status = 'used'
where code_tag = $1 and code_expires_at > now() and expires_at > now()
returning
    login, client_id, mode, password_hash, expires_at, device_id, null::text as device_status, is_confirmed_by_itself;

-- name: count_wrong_code exec (most_wrong)
update device_pairings set
    wrong_codes = wrong_codes + 1,
    code_tag = case when wrong_codes + 1 < $1 then code_tag end,
    code_status = case when wrong_codes + 1 < $1 then code_status else 'closed' end
where code_tag is not null and code_expires_at > now() and expires_at > now();

-- name: set_password value (login, password_hash)
update device_pairings p set password_hash = $2
where p.login = $1 and p.password_hash <> ''
    and exists (select from devices d where d.id = p.device_id and d.status in ('pending', 'active'))
returning p.login;

-- name: lock_pairing one (login)
select password_hash, device_id, is_confirmed_by_itself, expires_at > now() as is_open
from device_pairings where login = $1
for update;

-- name: lock_client value (client_id)
select id from clients where id = $1 and status = 'active' for no key update;

-- name: count_devices value (client_id, mode)
select count(*) from devices where client_id = $1 and mode = $2 and status <> 'deleted';

-- name: insert_device exec (id, client_id, mode, phone_name, status, token_tag, auth_key_id)
insert into devices (id, client_id, mode, phone_name, status, token_tag, auth_key_id, confirmed_at)
values ($1, $2, $3, $4, $5, $6, $7, case when $5 = 'active' then now() end);

-- name: bind_pairing exec (login, device_id, password_hash)
update device_pairings set
    device_id = $2, code_tag = null, code_status = 'used', password_hash = coalesce($3, password_hash)
where login = $1;

-- name: lock_device one (id)
select status, phone_name from devices where id = $1 for update;

-- name: register_again exec (id, phone_name, token_tag, auth_key_id, must_be_confirmed)
update devices set
    phone_name = $2,
    token_tag = $3,
    auth_key_id = $4,
    status = case when $5 then 'pending' else status end,
    confirmed_at = case when $5 then null else confirmed_at end,
    version = version + 1
where id = $1;

-- name: note_token_master exec (auth_key_id)
insert into auth_masters (auth_key_id) values ($1) on conflict do nothing;

-- name: delete_sims exec (device_id)
delete from device_sims where device_id = $1;

-- name: insert_sims exec (device_id, sims)
insert into device_sims (device_id, slot, number, phone_number, carrier, iccid)
select $1, s.slot, s.number, s.phone_number, s.carrier, s.iccid
from jsonb_to_recordset($2::text::jsonb)
    as s (slot integer, number integer, phone_number text, carrier text, iccid text);

-- name: raise_version exec (id)
update devices set version = version + 1 where id = $1;

-- name: known_device one (id)
select * from known_devices where id = $1;

-- name: device_of_client one (id, client_id, mode)
select * from known_devices where id = $1 and client_id = $2 and mode = $3 and status <> 'deleted';

-- name: devices_of_client many (client_id, mode)
select * from known_devices where client_id = $1 and mode = $2 and status <> 'deleted' order by created_at, id;

-- name: all_devices many ()
select * from known_devices where status <> 'deleted' order by client_id, mode, created_at, id;

-- name: confirm_device value (id, client_id, mode, seen_version)
-- Only one that waits for it, and (where it is given) only as whoever confirms it has seen it.
update devices set status = 'active', confirmed_at = now(), version = version + 1
where id = $1 and client_id = $2 and mode = $3 and status = 'pending' and version = coalesce($4::bigint, version)
returning id;

-- name: enable_device value (id, client_id, mode)
-- Only one that is disabled. One that nobody has confirmed waits for that again.
update devices set
    status = case when confirmed_at is null then 'pending' else 'active' end,
    version = version + 1
where id = $1 and client_id = $2 and mode = $3 and status = 'disabled'
returning id;

-- name: disable_device value (id, client_id, mode)
update devices set status = 'disabled', version = version + 1
where id = $1 and client_id = $2 and mode = $3 and status <> 'deleted'
returning id;

-- name: lock_pairing_of value (device_id)
select login from device_pairings where device_id = $1 for update;

-- name: delete_device value (id, client_id, mode)
update devices set
    status = 'deleted', deleted_at = now(), phone_name = '', given_name = null, budget = '{}',
    token_tag = null, auth_key_id = null, passphrase_sealed = null, passphrase_count = 0, version = version + 1
where id = $1 and client_id = $2 and mode = $3 and status <> 'deleted'
returning id;

-- name: close_pairing_of exec (device_id)
update device_pairings set password_hash = '' where device_id = $1;

-- name: rename_device value (id, client_id, mode, name)
update devices set given_name = $4, version = version + 1
where id = $1 and client_id = $2 and mode = $3 and status <> 'deleted'
returning id;

-- name: set_device_budget value (id, client_id, mode, budget)
update devices set budget = $4::text::jsonb, version = version + 1
where id = $1 and client_id = $2 and mode = $3 and status <> 'deleted'
returning id;

-- name: set_device_passphrase value (id, client_id, mode, sealed, count)
-- Only at the very version that it was sealed for: no two texts are ever kept sealed under one count.
update devices set passphrase_sealed = $4, passphrase_count = $5, version = version + 1
where id = $1 and client_id = $2 and mode = $3 and status <> 'deleted' and version + 1 = $5
returning id;

-- name: clear_device_token value (id, client_id, mode)
update devices set token_tag = null, auth_key_id = null, version = version + 1
where id = $1 and client_id = $2 and mode = $3 and status <> 'deleted'
returning id;

-- name: note_device_seen exec (id)
update devices set last_seen_at = now()
where id = $1 and status <> 'deleted' and (last_seen_at is null or last_seen_at < now() - interval '1 minute');

-- name: retag_token value (id, old_auth_key_id, old_tag, auth_key_id, tag)
-- Only if the token is still the one that was read, and only to a master that became current later.
update devices set auth_key_id = $4, token_tag = $5
where id = $1 and auth_key_id = $2 and token_tag = $3
    and (select rank from auth_masters where auth_key_id = $4) > (select rank from auth_masters where auth_key_id = $2)
returning id;

-- name: reseal_passphrase value (id, old_sealed, sealed)
-- Likewise. The slot of the master stands in front of what is sealed under it. No new version, as it is the same text.
update devices set passphrase_sealed = $3
where id = $1 and passphrase_sealed = $2
    and (select rank from auth_masters where auth_key_id = substr($3::bytea, 1, 2))
        > coalesce((select rank from auth_masters where auth_key_id = substr($2::bytea, 1, 2)), 0)
returning id;
