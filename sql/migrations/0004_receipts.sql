-- Receipts that come when the living store has let a message go are matched here, by the gateway's own id.
-- Locks: a short exclusive one on `messages`; while the index is built, events wait to be written, and nothing else
-- does. Duration: about a second per million messages that are kept.

-- Which event's sender and provider_id hold: the greatest (otpsvc/postgres/message_rows.py). Null where an earlier version
-- wrote the row; any event with a sender holds against that.
alter table messages add column sender_precedence bigint;

create index messages_provider_id on messages (provider_id) where provider_id is not null;
