-- The days of which there are tables of events or messages.

-- name: days_before many (parent, before)
select to_date(right(c.relname::text, 8), 'YYYYMMDD') as day
from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = $1::text::regclass and c.relname < $1 || to_char($2::date, '_YYYYMMDD')
order by c.relname desc;
