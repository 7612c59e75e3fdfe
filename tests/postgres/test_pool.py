"""The pool: failures become ours, nothing hangs, no address leaks."""

import asyncio
import logging
import socket

import asyncpg
import pytest

from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.postgres.pool import Database, open_database
from otpsvc.postgres.queries import parse

QUERIES = parse(
    "-- name: nap value ()\nselect pg_sleep(30)\n"
    "-- name: divide value (by)\nselect 1 / $1::int\n"
    "-- name: numbers many ()\nselect 1 as n union select 2 order by n\n"
    "-- name: settings one ()\nselect current_setting('application_name') as name,"
    " current_setting('timezone') as zone, current_setting('statement_timeout') as time_out\n"
    "-- name: nothing exec ()\nselect\n"
    "-- name: who value ()\nselect pg_backend_pid()\n"
    "-- name: make exec ()\ncreate table made (id integer)\n"
    "-- name: add exec ()\ninsert into made values (1)\n"
    "-- name: count value ()\nselect count(*) from made\n"
)


async def test_rows_by_cardinality(database: Database) -> None:
    assert [row["n"] for row in await database.many(QUERIES["numbers"])] == [1, 2]
    assert await database.value(QUERIES["divide"], by=1) == 1
    await database.execute(QUERIES["nothing"])
    row = await database.one(QUERIES["settings"])
    assert row is not None
    assert dict(row) == {"name": "otpsvc", "zone": "UTC", "time_out": "5s"}


async def test_a_query_is_run_as_what_it_is(database: Database) -> None:
    with pytest.raises(TypeError, match="answers many, not one"):
        await database.one(QUERIES["numbers"])


async def test_a_session_is_one_connection(database: Database) -> None:
    async with database.session("test") as session:
        pids = {await session.value(QUERIES["who"]) for _ in range(5)}
        row = await session.one(QUERIES["settings"])
        assert [one["n"] for one in await session.many(QUERIES["numbers"])] == [1, 2]
        await session.execute(QUERIES["nothing"])
        with pytest.raises(TypeError, match="answers value, not many"):
            await session.many(QUERIES["who"])
    assert len(pids) == 1
    assert row is not None


async def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    await database.execute(QUERIES["make"])

    async def add_and_fail() -> None:
        async with database.transaction("test") as session:
            await session.execute(QUERIES["add"])
            await session.value(QUERIES["divide"], by=0)

    with pytest.raises(asyncpg.DivisionByZeroError):
        await add_and_fail()
    assert await database.value(QUERIES["count"]) == 0
    async with database.transaction("test") as session:
        await session.execute(QUERIES["add"])
        assert await database.value(QUERIES["count"]) == 0
    assert await database.value(QUERIES["count"]) == 1


async def test_an_outage_is_one_line(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    database = await open_database(database_url, timeout_s=0.1)
    for _ in range(2):
        for _ in range(3):
            with pytest.raises(ApiError):
                await database.value(QUERIES["nap"])
        assert await database.value(QUERIES["divide"], by=1) == 1
    warnings = [record for record in caplog.records if record.name == "otpsvc.postgres.pool"]
    assert [record.levelname for record in warnings] == ["WARNING"] * 2
    await database.close()


async def test_a_wrong_statement_is_not_an_outage(database: Database) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.value(QUERIES["divide"], by=0)


async def test_a_slow_statement_ends_as_unavailable(database_url: str) -> None:
    database = await open_database(database_url, timeout_s=0.2)
    with pytest.raises(ApiError) as caught:
        await database.value(QUERIES["nap"])
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    await database.close()


async def test_a_pool_in_use_ends_as_unavailable(database_url: str) -> None:
    database = await open_database(database_url, max_connections=1, timeout_s=0.2)
    async with database.borrowed_connection("test"):
        with pytest.raises(ApiError) as caught:
            await database.value(QUERIES["divide"], by=1)
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    await database.close()


async def test_lost_connections_are_made_again(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    napping = asyncio.create_task(database.value(QUERIES["nap"]))
    other = await asyncpg.connect(database_url)
    for _ in range(1000):
        if await other.fetchval("select exists (select from pg_stat_activity where query = $1)", QUERIES["nap"].sql):
            break
        await asyncio.sleep(0.005)
    await other.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    await other.close()
    with caplog.at_level(logging.WARNING), pytest.raises(ApiError) as caught:
        await napping
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    assert "nap" in caplog.text
    assert await database.value(QUERIES["divide"], by=1) == 1


async def test_a_closed_pool_is_unavailable(database_url: str) -> None:
    database = await open_database(database_url)
    await database.close()
    with pytest.raises(ApiError) as caught:
        await database.value(QUERIES["divide"], by=1)
    assert caught.value.code == "SERVICE_UNAVAILABLE"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:hush-hush@127.0.0.1:1/x", "nothing listens"),
        ("postgresql://u:hush-hush@/x?host=/nowhere", "nothing listens"),
        ("hush-hush://u:hush-hush@h/x", "not of the form"),
        ("postgresql://u:hush-hush@h:hush-hush/x", "not of the form"),
    ],
)
async def test_a_start_without_a_server_says_why_and_shows_no_address(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await open_database(url, timeout_s=2)
    assert str(caught.value).startswith("database.url: ")
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_a_missing_database_or_user_is_named_as_such(database_url: str) -> None:
    address = database_url.partition("?")[2]
    with pytest.raises(ConfigurationError, match="no database of this name"):
        await open_database(database_url.replace("/test_", "/missing_"))
    with pytest.raises(ConfigurationError, match="refuses this user"):
        await open_database(f"postgresql://nobody-like-that@/x?{address}")


async def test_a_server_that_says_nothing_does_not_hang_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigurationError, match="does not answer in time"):
            await open_database(f"postgresql://u:hush@127.0.0.1:{port}/x?sslmode=disable", timeout_s=0.2)
