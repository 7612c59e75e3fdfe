-- What happened: events and messages in one table per day (UTC), and the numbers that were forgotten.
-- Locks: none that anyone waits for (new tables and functions only). Duration: milliseconds.
-- Later, while the service runs: a day's table is made beside the others and then attached, which blocks nobody.
-- Dropping one is tried for 0.2 s, and only that long may it hold up those who write.

-- Ids and words compare by their bytes (collate "C"): faster, and the same in Python.
create table events (
    occurred_at timestamptz not null,  -- the clock of the store that decided, as all times here but forgotten_at
    event_id text collate "C" not null,
    name text collate "C" not null,
    client_id text collate "C" not null,
    mode text collate "C" not null,
    otp_id text collate "C" not null,
    message_id text collate "C" not null,
    data json not null,  -- json, not jsonb: a detail may hold \u0000. Nothing personal is ever in here
    tx xid8 not null default pg_current_xact_id(),  -- who wrote it: the order in which readers come to see events
    primary key (occurred_at, event_id)
) partition by range (occurred_at);

create index events_otp_id on events (otp_id);
create index events_tx on events (tx);

-- A message is the sum of its events, in whatever order they are written (sql/queries/events.sql).
create table messages (
    created_at timestamptz not null,
    message_id text collate "C" not null,
    client_id text collate "C" not null,
    mode text collate "C" not null,
    otp_id text collate "C" not null,
    status text collate "C" not null,
    precedence bigint not null,  -- which event's status and reason hold: the greatest (otpsvc/postgres/message_rows.py)
    reason text collate "C",
    channel text collate "C",
    parts integer,
    sender text collate "C",
    provider_id text collate "C",
    tries integer not null,
    sent_at timestamptz,
    delivered_at timestamptz,
    ended_at timestamptz,
    expires_at timestamptz,
    to_sealed bytea,
    to_index text collate "C",
    to_masked text collate "C",
    text text collate "C",  -- as rendered, the code masked
    metadata text collate "C",  -- JSON as the client gave it
    forgotten_at timestamptz,  -- since then to_sealed, to_index, to_masked, text and metadata are null for good
    primary key (created_at, message_id)
) partition by range (created_at);

create index messages_message_id on messages (message_id);
create index messages_to_index on messages (to_index) where to_index is not null;
-- Those that still wait: few, but for those that nothing will ever end.
create index messages_waiting on messages (created_at, message_id) where status in ('queued', 'processing');

-- Numbers whose messages may still be on their way here, once for each kind of call, however often it is repeated.
create table forgotten_numbers (
    to_index text collate "C" not null,
    client_id text collate "C" not null default '',  -- '': of all clients
    mode text collate "C" not null default '',  -- '': in both modes
    forgotten_at timestamptz not null default now(),  -- the latest call
    primary key (to_index, client_id, mode)
);

-- Reads the catalog itself: what a name means may be cached, and a table that another has just made be missed.
create function is_history_day(parent text, partition text) returns boolean language sql as $$
    select exists (
        select from pg_class c join pg_inherits i on i.inhrelid = c.oid
        where c.relname = partition and i.inhparent = parent::regclass
    );
$$;

-- Makes the table of a day if it is missing; any number may call it at once.
create function ensure_history_day(parent text, day date) returns void language plpgsql as $$
declare
    partition text := parent || to_char(day, '_YYYYMMDD');
begin
    if is_history_day(parent, partition) then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('otpsvc.history_days', 0));
    if is_history_day(parent, partition) then
        return;
    end if;
    -- Messages are updated: with room beside each row, its new version stays on the same page.
    execute format(
        'create table %I (like %I including defaults including constraints) with (fillfactor = %s)',
        partition, parent, case parent when 'messages' then 80 else 100 end
    );
    execute format(
        'alter table %I attach partition %I for values from (%L) to (%L)',
        parent, partition, day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC'
    );
end
$$;

-- Opens a transaction that writes history: its days are there, and `await_history_writers` waits for it.
create function begin_history_write(event_days date[], message_days date[]) returns void language plpgsql as $$
declare
    day date;
begin
    foreach day in array event_days loop
        perform ensure_history_day('events', day);
    end loop;
    foreach day in array message_days loop
        perform ensure_history_day('messages', day);
    end loop;
    perform pg_advisory_xact_lock_shared(hashtextextended('otpsvc.history_write', 0));
end
$$;

-- Returns when every transaction that writes history and had begun before has ended. Holds up nobody afterwards.
create function await_history_writers() returns void language sql as $$
    select pg_advisory_xact_lock(hashtextextended('otpsvc.history_write', 0));
$$;

-- Drops the oldest day before `keep_from`: dropped; busy, where a reader holds on to it; none, where there is no such
-- day. One day at a time, so that nothing is locked for long.
create function drop_history_day(parent text, keep_from date) returns text language plpgsql
set lock_timeout = '200ms' as $$
declare
    doomed regclass;
begin
    select i.inhrelid::regclass into doomed
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = parent::regclass and c.relname < parent || to_char(keep_from, '_YYYYMMDD')
    order by c.relname limit 1;
    if doomed is null then
        return 'none';
    end if;
    execute format('drop table %s', doomed);
    return 'dropped';
exception when lock_not_available then
    return 'busy';
end
$$;
