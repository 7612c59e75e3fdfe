"""The line on which news of keys comes: what is passed on, and that it comes back by itself."""

import asyncio
import contextlib
import logging
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import asyncpg
import pytest

from otpsvc.postgres import listen
from otpsvc.postgres.listen import CHANNEL, KeyNews
from otpsvc.postgres.queries import Queries, parse
from tests.clients.cable import Cable, address_over, server_socket

Operator: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

PATIENCE_S = 30
INSERT_KEY = (
    "insert into api_keys (public_id, client_id, mode, name, auth_key_id, tag)"
    " values ($1, 'client_1', 'live', '', '\\x01', sha256('x'))"
)


class Notes:
    """A reader that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._news = asyncio.Event()

    def invalidate(self, public_id: str) -> None:
        self._note(f"key {public_id}")

    def invalidate_client(self, client_id: str) -> None:
        self._note(f"client {client_id}")

    def invalidate_all(self) -> None:
        self._note("all")

    async def wait_for(self, *expected: str) -> None:
        """Wait until just this was told since the last time."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.told) < len(expected):
                self._news.clear()
                await self._news.wait()
        assert self.told == list(expected)
        self.told.clear()

    def _note(self, what: str) -> None:
        self.told.append(what)
        self._news.set()


@contextlib.asynccontextmanager
async def listening(url: str, *, timeout_s: float = 5.0, check_every_s: float = 60.0) -> AsyncIterator[Notes]:
    notes, stop = Notes(), asyncio.Event()
    news = asyncio.create_task(KeyNews(url, notes, timeout_s=timeout_s, check_every_s=check_every_s).run(stop))
    try:
        yield notes
    finally:
        stop.set()
        await asyncio.wait_for(news, PATIENCE_S)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - what is waited for is a line of a log
            await asyncio.sleep(0.01)


@pytest.fixture
async def operator(database_url: str) -> AsyncIterator[Operator]:
    """Somebody else's connection to the same database, with one client in it."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("insert into clients (id, name) values ('client_1', 'Shop')")
    yield connection
    await connection.close()


@pytest.fixture
async def cable(database_url: str) -> AsyncIterator[Cable]:
    directory = Path(tempfile.mkdtemp(prefix="cable-"))
    cable = Cable(server_socket(database_url), directory)
    await cable.plug_in()
    yield cable
    await cable.cut()
    shutil.rmtree(directory)


async def test_every_change_is_told_once_and_nothing_else(database_url: str, operator: Operator) -> None:
    async with listening(database_url) as notes:
        await notes.wait_for("all")
        await operator.execute("insert into clients (id, name) values ('client_2', 'A new client has no keys')")
        for public_id in ("0" * 13, "1" * 13):
            await operator.execute(INSERT_KEY, public_id)
        await notes.wait_for(f"key {'0' * 13}", f"key {'1' * 13}")
        await operator.execute("update api_keys set revoked_at = now() where public_id = $1", "0" * 13)
        await notes.wait_for(f"key {'0' * 13}")
        await operator.execute("update clients set status = 'suspended' where id = 'client_1'")
        await notes.wait_for("client client_1")
        await operator.execute("""update clients set policy = '{"ttl_s": 60}' where id = 'client_1'""")
        await notes.wait_for("client client_1")
        await operator.execute("update api_keys set public_id = $1 where public_id = $2", "2" * 13, "1" * 13)
        await notes.wait_for(f"key {'1' * 13}", f"key {'2' * 13}")
        await operator.execute("delete from api_keys where public_id = $1", "2" * 13)
        await notes.wait_for(f"key {'2' * 13}")
        await operator.execute("truncate api_keys")
        await notes.wait_for("all")


async def test_nothing_is_told_of_what_was_undone(database_url: str, operator: Operator) -> None:
    async with listening(database_url) as notes:
        await notes.wait_for("all")
        change = operator.transaction()
        await change.start()
        await operator.execute(INSERT_KEY, "0" * 13)
        await change.rollback()
        await operator.execute(INSERT_KEY, "1" * 13)
        await notes.wait_for(f"key {'1' * 13}")


async def test_what_is_told_can_already_be_read(database_url: str, operator: Operator) -> None:
    other = await asyncpg.connect(database_url)
    async with listening(database_url) as notes:
        await notes.wait_for("all")
        for number in range(200):
            public_id = f"{number:013d}"
            insert = asyncio.create_task(operator.execute(INSERT_KEY, public_id))
            await notes.wait_for(f"key {public_id}")
            assert await other.fetchval("select true from api_keys where public_id = $1", public_id)
            await insert
    await other.close()


@pytest.mark.parametrize("notice", ["", "all", "something new", "keys"])
async def test_a_notice_that_is_not_understood_means_anything(
    database_url: str, operator: Operator, notice: str
) -> None:
    async with listening(database_url) as notes:
        await notes.wait_for("all")
        await operator.execute("select pg_notify($1, $2)", CHANNEL, notice)
        await notes.wait_for("all")


async def test_a_line_that_the_server_ends_is_made_again(
    database_url: str, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "otpsvc"):
        async with listening(database_url) as notes:
            await notes.wait_for("all")
            for _ in range(3):
                assert await operator.fetch(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and application_name = 'otpsvc key news'"
                )
                await notes.wait_for("all")
            await operator.execute(INSERT_KEY, "0" * 13)
            await notes.wait_for(f"key {'0' * 13}")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" (")[0] for line in lines] == ["no news of API keys", "news of API keys is back"] * 3


async def test_an_outage_is_one_line_however_long(
    database_url: str, cable: Cable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "MAX_PAUSE_S", 0.01)
    tries = 0

    async def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        return await connect(*arguments, **options)

    connect = asyncpg.connect
    monkeypatch.setattr(asyncpg, "connect", counting)
    with caplog.at_level(logging.INFO, "otpsvc"):
        async with listening(address_over(cable, database_url)) as notes:
            await notes.wait_for("all")
            await cable.cut()
            await until(lambda: tries > 10)
            assert len(caplog.records) == 1
            assert str(cable.directory) not in caplog.text
            await cable.plug_in()
            await notes.wait_for("all")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "within 30 s" in caplog.text


async def test_a_dead_line_makes_no_sound_and_is_found_out(
    database_url: str, cable: Cable, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(address_over(cable, database_url), timeout_s=0.3, check_every_s=0.05) as notes:
        await notes.wait_for("all")
        cable.hang()
        await operator.execute(INSERT_KEY, "0" * 13)
        await until(lambda: "no news of API keys (TimeoutError)" in caplog.text)
        assert notes.told == []
        # What hung never arrives: the old connections are given up.
        await cable.cut()
        cable.resume()
        await cable.plug_in()
        await notes.wait_for("all")


async def test_an_address_that_passes_no_notices_on_is_said_to_be_one(
    database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a pooler in transaction mode does: the question reaches another session than the LISTEN did."""
    elsewhere = parse("-- name: is_listening value (channel)\nselect $1 = 'heard nowhere'\n")
    monkeypatch.setattr(listen, "_queries", Queries(elsewhere))
    monkeypatch.setattr(listen, "MAX_PAUSE_S", 0.01)
    async with listening(database_url) as notes:
        await until(lambda: "is it a pooler in transaction mode?" in caplog.text)
        assert notes.told == []
    assert len(caplog.records) == 1


async def test_a_server_that_says_nothing_holds_up_neither_the_start_nor_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        url = f"postgresql://u:hush@127.0.0.1:{server.getsockname()[1]}/x?sslmode=disable"
        async with listening(url, timeout_s=3600) as notes:
            accepted, _ = await asyncio.to_thread(server.accept)
        accepted.close()
        assert notes.told == []


class Line:
    """A connection that listens, and is lost when the test says so."""

    def __init__(self) -> None:
        self.lose: Callable[[], None] | None = None

    def add_termination_listener(self, listener: Callable[[object], None]) -> None:
        self.lose = lambda: listener(self)

    async def add_listener(self, channel: str, listener: object) -> None:
        pass

    async def fetchval(self, *_: object) -> bool:
        return True

    async def close(self, **_: object) -> None:
        pass


@pytest.mark.parametrize("turns", range(6))
async def test_the_end_comes_although_the_line_is_lost_in_the_same_moment(
    monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """Within a few turns of the loop, one after the other: the end must not be taken for the loss, and forgotten."""
    line, stop, notes = Line(), asyncio.Event(), Notes()

    async def connect(*_: object, **__: object) -> Operator:
        return cast("Operator", line)

    monkeypatch.setattr(asyncpg, "connect", connect)
    news = asyncio.create_task(KeyNews("", notes).run(stop))
    await notes.wait_for("all")
    assert line.lose
    stop.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    line.lose()
    done, _ = await asyncio.wait({news}, timeout=2)
    if not done:
        # What is wrong here swallows one cancellation, not two.
        news.cancel()
        await asyncio.gather(news, return_exceptions=True)
    assert done


@pytest.mark.parametrize("url", ["postgresql://u:hush-hush@h:hush-hush/x", "postgresql://u:hush-hush@/x?host=/nowhere"])
async def test_no_part_of_an_address_is_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(url):
        await until(lambda: "no news of API keys" in caplog.text)
    assert "hush" not in caplog.text
    assert "nowhere" not in caplog.text


async def test_the_end_leaves_no_connection(database_url: str, operator: Operator) -> None:
    async with listening(database_url) as notes:
        await notes.wait_for("all")
    async with asyncio.timeout(PATIENCE_S):
        while await operator.fetchval(  # noqa: ASYNC110 - a server tells nobody that a session has ended
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and application_name = 'otpsvc key news'"
        ):
            await asyncio.sleep(0.01)
