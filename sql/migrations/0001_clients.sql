-- The installation's fixed facts, the tenants and their API keys.
-- Locks: none that anyone waits for (new tables only). Duration: milliseconds.

-- One row, written at the first start. What is in it cannot be changed by a setting, because the names of all keys in
-- Redis depend on it.
create table installation (
    is_only_row boolean primary key default true check (is_only_row),
    partitions integer not null check (partitions between 1 and 256),
    index_key_id text not null check (index_key_id <> ''),
    created_at timestamptz not null default now()
);

create table clients (
    id text primary key check (id ~ '^client_[a-z0-9]{1,64}$'),
    name text not null check (length(name) between 1 and 100),
    status text not null default 'active' check (status in ('active', 'suspended')),
    policy jsonb not null default '{}' check (jsonb_typeof(policy) = 'object'),  -- only what differs from the default
    created_at timestamptz not null default now()
);

-- A key's secret is never here, only a tag of it (HMAC-SHA-256 under the auth subkey of the master named by auth_key_id).
create table api_keys (
    public_id text primary key check (public_id ~ '^[0-9a-hjkmnp-tv-z]{13}$'),
    client_id text not null references clients (id),
    mode text not null check (mode in ('live', 'test')),
    name text not null check (length(name) <= 100),
    auth_key_id bytea not null check (length(auth_key_id) between 1 and 32),
    tag bytea not null check (length(tag) = 32),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

create index api_keys_client_id on api_keys (client_id, created_at);
