-- What the server has made of a connection's settings.

-- name: server_settings many (names)
select lower(name) as name, setting from pg_settings where lower(name) = any($1::text[]);
