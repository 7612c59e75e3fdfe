"""How the server is set: what breaks a promise is put right for our connections, what is not ours to change is told."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.postgres.pool import Database, open_database
from otpsvc.postgres.queries import parse
from tests.conftest import run_sql

QUERIES = parse(
    "-- name: setting value (name)\nselect current_setting($1)\n"
    "-- name: fail value (text)\nselect 1 / (length($1::text) - 4)\n"
)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = await open_database(url)
    try:
        yield database
    finally:
        await database.close()


async def set_for(url: str, **settings: str) -> None:
    """Set something as whoever runs the server may: for all who connect to this database."""
    name = url.rpartition("?")[0].rpartition("/")[2]
    for setting, value in settings.items():
        await asyncio.to_thread(run_sql, url, f"alter database {name} set {setting} = '{value}'")


@pytest.mark.parametrize(
    ("given", "kept"), [("off", "on"), ("on", "on"), ("local", "local"), ("remote_apply", "remote_apply")]
)
async def test_a_commit_is_on_disk_when_it_is_answered(database_url: str, given: str, kept: str) -> None:
    """Else a crash of the server would take back events that the stream has let go of already."""
    await set_for(database_url, synchronous_commit=given)
    async with opened(database_url) as database:
        assert await database.value(QUERIES["setting"], name="synchronous_commit") == kept


async def test_a_role_of_its_own_ways_does_not_bring_them_along(database_url: str) -> None:
    await set_for(database_url, default_transaction_isolation="serializable", plan_cache_mode="force_generic_plan")
    async with opened(database_url) as database:
        for name, value in (
            ("default_transaction_isolation", "read committed"),
            ("plan_cache_mode", "force_custom_plan"),
        ):
            assert await database.value(QUERIES["setting"], name=name) == value


async def test_a_statement_that_fails_tells_nobody_its_values(database_url: str) -> None:
    """The server would write them into its log, and send them back with the error."""
    await set_for(database_url, log_parameter_max_length_on_error="-1")
    server = await asyncpg.connect(database_url)
    with pytest.raises(asyncpg.DivisionByZeroError) as caught:
        await server.fetchval(QUERIES["fail"].sql, "hush")
    assert "hush" in str(caught.value.context)
    await server.close()
    async with opened(database_url) as database:
        with pytest.raises(asyncpg.DivisionByZeroError) as caught:
            await database.value(QUERIES["fail"], text="hush")
    assert "hush" not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({}, None),
        ({"log_statement": "ddl"}, None),
        ({"log_statement": "mod"}, "log_statement = mod"),
        ({"log_statement": "all"}, "log_statement = all"),
        ({"log_min_duration_statement": "0"}, "log_min_duration_statement = 0"),
        ({"log_min_duration_statement": "1s"}, "log_min_duration_statement = 1000"),
        ({"log_min_duration_sample": "10", "log_statement_sample_rate": "0"}, None),
        ({"log_min_duration_sample": "10"}, "log_min_duration_sample = 10"),
        ({"log_transaction_sample_rate": "0.5"}, "log_transaction_sample_rate = 0.5"),
        ({"log_statement": "all", "log_parameter_max_length": "0"}, None),
        ({"log_statement": "all", "log_parameter_max_length": "20"}, "log_statement = all"),
    ],
)
async def test_a_server_that_logs_values_is_told_of(
    database_url: str, settings: dict[str, str], culprit: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    await set_for(database_url, **settings)
    async with opened(database_url):
        pass
    lines = [record.getMessage() for record in caplog.records if record.name == "otpsvc.postgres.conditions"]
    assert len(lines) == (culprit is not None)
    for line in lines:
        assert f"({culprit})" in line
        assert "log_parameter_max_length = 0" in line


async def test_a_pooler_that_drops_what_we_bring_is_told_of(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As PgBouncer does with what stands in its `ignore_startup_parameters`."""
    connect = asyncpg.connect

    def dropping(*arguments: Any, server_settings: dict[str, str], **options: Any) -> Any:
        del server_settings["plan_cache_mode"], server_settings["statement_timeout"]
        return connect(*arguments, server_settings=server_settings, **options)

    monkeypatch.setattr(asyncpg, "connect", dropping)
    async with opened(database_url):
        pass
    (line,) = [record.getMessage() for record in caplog.records]
    assert "statement_timeout, plan_cache_mode did not reach the server" in line
    assert "(statement_timeout = 5000, plan_cache_mode = force_custom_plan)" in line


async def test_a_pooler_that_drops_what_keeps_a_commit_is_told_of(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await set_for(database_url, synchronous_commit="off")
    create = asyncpg.create_pool

    def dropping(*arguments: Any, server_settings: dict[str, str], **options: Any) -> Any:
        del server_settings["synchronous_commit"]
        return create(*arguments, server_settings=server_settings, **options)

    monkeypatch.setattr(asyncpg, "create_pool", dropping)
    async with opened(database_url):
        pass
    (line,) = [record.getMessage() for record in caplog.records]
    assert "synchronous_commit did not reach the server" in line
    assert "(synchronous_commit = on)" in line


async def test_a_pooler_that_refuses_what_we_bring_is_no_riddle() -> None:
    """As PgBouncer does with whatever it is not told to ignore."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        words = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: plan_cache_mode\0\0"
        writer.write(b"E" + struct.pack("!i", len(words) + 4) + words)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConfigurationError) as caught:
        await open_database(f"postgresql://u:hush@127.0.0.1:{port}/x?sslmode=disable")
    assert "ignore_startup_parameters = statement_timeout, plan_cache_mode, " in str(caught.value)
    assert str(caught.value).endswith(", synchronous_commit")
    assert "hush" not in str(caught.value)
    server.close()
    await server.wait_closed()
