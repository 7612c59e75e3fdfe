"""Every place where something of a flow could have stayed, read as bytes: (where in the place, what stands there)."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
import redis

from tests.leaks.needles import Needles
from tests.leaks.stack import Stack
from tests.leaks.watchers import Monitor, Processes, Queries

Piece = tuple[str, bytes]
_PER_READ = 1 << 24
_OVERLAP = 256
# It stands right before the name that all keys of the client's phones begin with.
_LUCK = re.compile(rb"\b\d{1,7}(?=\"? \"?[^\s\"]{1,60}:device:(?:[\s\"]|\Z))")


class Place(NamedTuple):
    """Somewhere to look. `is_binary` places hold raw pages, in which only long runs of digits mean anything."""

    name: str
    read: Callable[[], Iterable[Piece]]
    is_binary: bool = False


class Hit(NamedTuple):
    """A secret where none may be."""

    place: str
    where: str
    secret: str
    around: bytes


def hunt(places: Iterable[Place], needles: Needles) -> list[Hit]:
    """Look everywhere; give each secret once per piece."""
    hits: dict[tuple[str, str, str], Hit] = {}
    for place in places:
        for where, data in place.read():
            for secret, around in needles.found_in(data, is_binary=place.is_binary):
                hits.setdefault((place.name, where, secret), Hit(place.name, where, secret, around))
    return list(hits.values())


def places_of(stack: Stack, monitor: Monitor, queries: Queries, processes: Processes) -> list[Place]:
    """Give all places of a running stack."""
    data_dir = stack.home / ".otpsvc"
    logs = [data_dir / f"{name}.log" for name in ("redis", "postgres", "guard")]
    return [
        Place("redis keys and values", lambda: _redis(stack)),
        Place("redis slowlog", lambda: _without_luck(_slowlog(stack))),
        Place("redis monitor", lambda: _without_luck(_files([monitor.path]))),
        Place("redis append-only file", lambda: _files(_below(data_dir / "redis"))),
        Place("redis snapshot", lambda: _snapshot(stack, data_dir / "redis/dump.rdb")),
        Place("postgresql rows", lambda: asyncio.run(_rows(stack.stores.database_url))),
        Place("postgresql pages and journal", lambda: _files(_below(data_dir / "postgres")), is_binary=True),
        Place("postgresql statistics", lambda: asyncio.run(_statistics(stack.stores.database_url))),
        Place("postgresql queries", lambda: [("pg_stat_activity", one.encode()) for one in queries.seen]),
        Place("server logs", lambda: _files(logs)),
        Place("what processes said", lambda: _files(_said(stack.home))),
        Place("crash dumps", lambda: _files(_dumps(stack.home)), is_binary=True),
        Place("metrics", lambda: _metrics(stack)),
        Place("http answers", lambda: [(one.call, one.data) for one in stack.answers]),
        Place("arguments and environments", lambda: _arguments(processes)),
    ]


def _redis(stack: Stack) -> Iterator[Piece]:
    with redis.Redis.from_url(stack.stores.redis_url) as client:
        raw: Any = client  # the library's types allow for both its clients
        for name in raw.scan_iter(count=1000):
            yield "a key's name", bytes(name)
            match raw.type(name):
                case b"hash":
                    parts = [part for pair in raw.hgetall(name).items() for part in pair]
                case b"zset":
                    parts = [part for member, score in raw.zrange(name, 0, -1, withscores=True)
                             for part in (member, str(score).encode())]  # fmt: skip
                case b"set":
                    parts = list(raw.smembers(name))
                case b"list":
                    parts = raw.lrange(name, 0, -1)
                case b"stream":
                    parts = [part for _, facts in raw.xrange(name) for pair in facts.items() for part in pair]
                case _:
                    parts = [raw.get(name) or b""]
            yield name.decode(errors="backslashreplace"), b"\n".join(parts)


def _snapshot(stack: Stack, path: Path) -> Iterator[Piece]:
    """What a backup of Redis would hold; nothing in it is compressed."""
    with redis.Redis.from_url(stack.stores.redis_url) as client:
        client.save()
    yield from _files([path])
    path.unlink()


def _slowlog(stack: Stack) -> Iterator[Piece]:
    with redis.Redis.from_url(stack.stores.redis_url) as client:
        raw: Any = client
        yield "slowlog", b"\n".join(entry["command"] for entry in raw.slowlog_get(-1))
        for kind in ("large-request", "large-reply"):
            try:
                entries = raw.execute_command("COMMANDLOG", "GET", -1, kind)
            except redis.ResponseError:
                return  # a server without it
            yield kind, b"\n".join(b" ".join(entry[3]) for entry in entries)


def _without_luck(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Take out the numbers that are drawn to choose a phone: one in twenty searches would meet a code of six digits."""
    for where, data in pieces:
        yield where, _LUCK.sub(b"(luck)", data)


async def _rows(url: str) -> list[Piece]:
    pieces: list[Piece] = []
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) AS name FROM pg_tables"
            " WHERE schemaname <> 'pg_catalog'"
        )
        for table in tables:
            rows = await connection.fetch(f"SELECT t::text AS line FROM ONLY {table['name']} AS t")  # noqa: S608 - names come from the catalogue
            pieces.append((table["name"], "\n".join(row["line"] for row in rows).encode()))
    finally:
        await connection.close()
    return pieces


async def _statistics(url: str) -> list[Piece]:
    """What the planner remembers of values, also of rows that are gone."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ANALYZE")
        rows = await connection.fetch("SELECT s.tablename AS name, s::text AS line FROM pg_stats AS s")
        return [(row["name"], row["line"].encode()) for row in rows]
    finally:
        await connection.close()


def _metrics(stack: Stack) -> Iterator[Piece]:
    answer = httpx.get(f"{stack.url}/metrics")
    if answer.status_code == 200:
        yield "/metrics", answer.content
    yield from _files(_below(stack.home / "metrics"))


def _arguments(processes: Processes) -> Iterator[Piece]:
    processes.look()
    for pid, shown in processes.seen.items():
        yield f"process {pid}", b"\n".join(shown)


def _said(home: Path) -> list[Path]:
    return [path for path in home.glob("*-*/*.txt") if path.is_file()]


def _dumps(home: Path) -> list[Path]:
    return [path for path in home.glob("*-*/**/*") if path.is_file() and path.suffix != ".txt"]


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _files(paths: Iterable[Path]) -> Iterator[Piece]:
    """Give files in pieces that overlap, so that nothing is cut in two."""
    for path in paths:
        try:
            with path.open("rb") as file:
                before = b""
                while data := file.read(_PER_READ):
                    yield path.name, before + data
                    before = data[-_OVERLAP:]
        except FileNotFoundError:
            continue  # servers make and drop files of their own
