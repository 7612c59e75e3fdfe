-- The team's own phones: pairings, each the account of one device; the devices; their SIMs.
-- Locks: none that anyone waits for (new tables only). Duration: milliseconds.
-- Whoever locks more than one row locks them in this order: pairing, client, device.

create table devices (
    id text collate "C" primary key check (id ~ '^dev_[0-9a-hjkmnp-tv-z]{26}$'),
    client_id text not null references clients (id),
    mode text not null check (mode in ('live', 'test')),
    phone_name text not null check (length(phone_name) <= 100),  -- the phone's own word
    given_name text check (length(given_name) <= 100),  -- ours, which then counts
    status text not null check (status in ('pending', 'active', 'disabled', 'deleted')),
    version bigint not null default 1 check (version > 0),  -- grows with whatever the pool must know
    budget jsonb not null default '{}' check (jsonb_typeof(budget) = 'object'),  -- only what differs from the default
    -- A token's secret is never here, only a tag of it (HMAC-SHA-256 under the auth subkey of the master auth_key_id).
    token_tag bytea check (length(token_tag) = 32),
    auth_key_id bytea check (length(auth_key_id) between 1 and 32),
    passphrase_sealed bytea,  -- of the phone's end-to-end encryption; its first two bytes are the slot of its master
    passphrase_count bigint not null default 0,
    created_at timestamptz not null default now(),
    confirmed_at timestamptz,
    last_seen_at timestamptz,
    deleted_at timestamptz,
    check ((token_tag is null) = (auth_key_id is null)),
    check (status <> 'deleted' or (token_tag is null and passphrase_sealed is null and phone_name = ''))
);

create index devices_client_id on devices (client_id, mode, created_at) where status <> 'deleted';

-- As the phone tells them: masked but for the last four characters.
create table device_sims (
    device_id text collate "C" not null references devices (id) on delete cascade,
    slot integer not null check (slot between 0 and 9),
    number integer not null check (number between 1 and 10),
    phone_number text check (length(phone_number) <= 40),
    carrier text check (length(carrier) <= 100),
    iccid text check (length(iccid) <= 40),
    primary key (device_id, slot)
);

-- One account each: the login of one phone, once and for all. A phone enrols with the code while it is `open`: it was
-- neither `used` nor `closed` by wrong ones.
create table device_pairings (
    login text collate "C" primary key check (length(login) between 3 and 64),
    client_id text not null references clients (id),
    mode text not null check (mode in ('live', 'test')),
    password_hash text not null,  -- Argon2id, or empty where nothing is let in any more
    code_status text not null default 'open' check (code_status in ('open', 'used', 'closed')),
    code_tag bytea check (length(code_tag) = 32),
    code_expires_at timestamptz,
    wrong_codes integer not null default 0,  -- that were tried by anybody while this enrolment was open
    is_confirmed_by_itself boolean not null default false,
    device_id text collate "C" unique references devices (id),
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    check (code_tag is null or (code_status = 'open' and code_expires_at is not null and device_id is null))
);

-- No two phones may ever be waited for under one code.
create unique index device_pairings_code on device_pairings (code_tag) where code_tag is not null;
create index device_pairings_client_id on device_pairings (client_id, mode);
create index device_pairings_unused on device_pairings (expires_at) where device_id is null;

create view known_devices as
select
    d.id, d.client_id, d.mode, coalesce(d.given_name, d.phone_name) as name, d.status, d.version,
    coalesce((select p.login from device_pairings p where p.device_id = d.id), '') as login,
    coalesce(
        (
            select json_agg(
                json_build_object(
                    'slot', s.slot, 'number', s.number, 'phone_number', s.phone_number, 'carrier', s.carrier,
                    'iccid', s.iccid
                ) order by s.slot
            )
            from device_sims s where s.device_id = d.id
        )::text,
        '[]'
    ) as sims,
    d.budget, d.created_at, d.confirmed_at, d.last_seen_at, d.passphrase_sealed, d.passphrase_count,
    d.token_tag, d.auth_key_id, d.phone_name
from devices d;
