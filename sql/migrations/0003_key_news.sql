-- News of API keys for the processes that remember them, and the order in which masters became current.
-- Locks: a short exclusive one on `clients`, `api_keys` and `installation`. Duration: milliseconds.

-- Notices go out with the commit, never before what they tell of can be read. `otpsvc_keys` is the channel; a notice is
-- "key <public id>", "client <client id>" or "all". Nothing secret and no name is ever in one.
create function announce_key() returns trigger language plpgsql as $$
begin
    if tg_op <> 'INSERT' then
        perform pg_notify('otpsvc_keys', 'key ' || old.public_id);
    end if;
    if tg_op <> 'DELETE' then
        perform pg_notify('otpsvc_keys', 'key ' || new.public_id);
    end if;
    return null;
end
$$;

-- A new client has no keys yet, and one can only be deleted after its keys.
create function announce_client() returns trigger language plpgsql as $$
begin
    perform pg_notify('otpsvc_keys', 'client ' || new.id);
    return null;
end
$$;

create function announce_all() returns trigger language plpgsql as $$
begin
    perform pg_notify('otpsvc_keys', 'all');
    return null;
end
$$;

create trigger announce after insert or update or delete on api_keys for each row execute function announce_key();
create trigger announce_truncate after truncate on api_keys for each statement execute function announce_all();
create trigger announce after update on clients for each row execute function announce_client();

-- Which master was current after which: the higher rank came later. An API key is moved to another master only upwards,
-- so that a process that still has an older keyring cannot take it back under a master that is about to be removed.
create sequence auth_master_ranks;

create table auth_masters (
    auth_key_id bytea primary key check (length(auth_key_id) between 1 and 32),
    rank bigint not null unique default nextval('auth_master_ranks')
);

alter sequence auth_master_ranks owned by auth_masters.rank;

insert into auth_masters (auth_key_id)
select auth_key_id from api_keys group by auth_key_id order by min(created_at);

-- Making an API key comes before the first start of the service and needs the index key already (the check in a key's
-- text comes from it), but it does not know the number of partitions.
alter table installation alter column partitions drop not null;
