"""The stores start, keep what they are given, stay private and stop."""

import shutil
import stat
import tempfile
from pathlib import Path

import asyncpg
import pytest
import redis

from otpsvc.embedded import EmbeddedError, postgres, start_stores, stores
from otpsvc.embedded.data_dir import make_socket_dir
from otpsvc.embedded.identity import Identity


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_first_start_makes_everything_and_a_restart_keeps_it(tmp_path: Path) -> None:
    said: list[str] = []
    data_dir = tmp_path / "deep" / ".otpsvc"
    with start_stores(data_dir, say=said.append) as running:
        assert said == ["creating the PostgreSQL data directory (once, about a second)"]
        with redis.Redis.from_url(running.redis_url) as client:
            client.set("kept", "yes")
        connection = await asyncpg.connect(running.database_url)
        await connection.execute("CREATE TABLE kept (word text)")
        await connection.execute("INSERT INTO kept VALUES ('yes')")
        await connection.close()
        assert (mode(data_dir), mode(running.stores.socket_dir)) == (0o700, 0o700)
    assert not running.stores.socket_dir.exists()
    said.clear()
    with start_stores(data_dir, say=said.append) as running:
        with redis.Redis.from_url(running.redis_url) as client:
            assert client.get("kept") == b"yes"
        connection = await asyncpg.connect(running.database_url)
        assert await connection.fetchval("SELECT word FROM kept") == "yes"
        await connection.close()
    assert said == []


@pytest.mark.parametrize(("durable", "appendfsync", "fsync"), [(True, "everysec", "on"), (False, "no", "off")])
async def test_settings(data_dir: Path, durable: bool, appendfsync: str, fsync: str) -> None:
    with start_stores(data_dir, durable=durable) as running:
        with redis.Redis.from_url(running.redis_url, decode_responses=True) as client:
            wanted = {
                "port": "0",
                "save": "",
                "appendonly": "yes",
                "appendfsync": appendfsync,
                "maxmemory-policy": "noeviction",
                "databases": "16",
            }
            assert client.config_get(*wanted) == wanted
        connection = await asyncpg.connect(running.database_url)
        assert await connection.fetchval("SHOW listen_addresses") == ""
        assert await connection.fetchval("SHOW fsync") == fsync
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
        locale = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
        assert await connection.fetchval(locale) == "C"
        assert await connection.fetchval("SELECT current_database()") == "otpsvc"
        assert int(await connection.fetchval("SHOW server_version_num")) // 10_000 == 18
        await connection.close()
        for path in running.stores.socket_dir.rglob("*"):
            assert mode(path) & 0o077 == 0, path


async def test_the_users_own_postgres_settings_do_not_matter(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "elsewhere", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    with start_stores(data_dir, durable=False) as running:
        connection = await asyncpg.connect(running.database_url)
        await connection.close()


def test_stop_twice_and_start_again_at_once(data_dir: Path) -> None:
    first = start_stores(data_dir, durable=False)
    first.stop()
    first.stop()
    assert first.failure() is None
    start_stores(data_dir, durable=False).stop()


def test_the_same_process_cannot_start_twice(data_dir: Path) -> None:
    with (
        start_stores(data_dir, durable=False),
        pytest.raises(EmbeddedError, match="Another otpsvc dev"),
    ):
        start_stores(data_dir, durable=False)


@pytest.mark.parametrize("name", ["comma,quote'", "späce ü", "x" * 200])
def test_a_temp_directory_unfit_for_sockets_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unfit = tmp_path / name
    unfit.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unfit))
    chosen = make_socket_dir(Identity("own", 1, 1), tmp_path / "record")
    shutil.rmtree(chosen)
    assert unfit not in chosen.parents
    assert list(unfit.iterdir()) == []


def test_a_very_long_temp_directory(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfit = tmp_path / ("x" * 200)
    unfit.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unfit))
    with start_stores(data_dir, durable=False) as running:
        assert unfit not in running.stores.socket_dir.parents
        with redis.Redis.from_url(running.redis_url) as client:
            assert client.ping()
    assert list(unfit.iterdir()) == []


def test_no_temp_directory_fits(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfit = tmp_path / ("x" * 100)
    unfit.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unfit))
    monkeypatch.setattr("otpsvc.embedded.data_dir._SHORT_TEMP_DIRS", ())
    with pytest.raises(EmbeddedError, match="set TMPDIR to a writable directory"):
        start_stores(data_dir, durable=False)


@pytest.mark.parametrize("name", ["späce ü", "comma, 'quote' %20 \"x\""])
def test_the_data_may_lie_anywhere(data_dir: Path, tmp_path: Path, name: str) -> None:
    odd = data_dir.rename(tmp_path / name)
    start_stores(odd, durable=False).stop()


def test_a_directory_open_to_others_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    with pytest.raises(EmbeddedError, match="open to other users: chmod 700"):
        start_stores(shared, durable=False)
    assert mode(shared) == 0o755
    assert list(shared.iterdir()) == []


def test_our_own_directory_is_closed_again(data_dir: Path) -> None:
    data_dir.chmod(0o755)
    with start_stores(data_dir, durable=False):
        assert mode(data_dir) == 0o700


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"cannot use .*file"):
        start_stores(tmp_path / "file", durable=False)
    with pytest.raises(EmbeddedError, match=r"cannot use .*file"):
        start_stores(tmp_path / "file" / "below", durable=False)


@pytest.mark.parametrize("content", ["17\n", None])
def test_data_of_another_release_is_refused(data_dir: Path, content: str | None) -> None:
    version = data_dir / "postgres" / "PG_VERSION"
    if content is None:
        version.unlink()
    else:
        version.write_text(content)
    with pytest.raises(EmbeddedError, match=r"was made by PostgreSQL .* and this is 18: move it"):
        start_stores(data_dir, durable=False)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(data_dir: Path) -> None:
    (data_dir / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match=r"PostgreSQL ended at its start") as caught:
        start_stores(data_dir, durable=False)
    assert str(data_dir / "postgres.log") in str(caught.value)
    assert "no_such_setting" in str(caught.value)
    (data_dir / "postgres" / "postgresql.conf").write_text("")
    start_stores(data_dir, durable=False).stop()


def test_a_server_that_never_answers_is_given_up(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "START_TIMEOUT_S", 0.3)
    monkeypatch.setattr(postgres, "is_ready", lambda *_: False)
    with pytest.raises(EmbeddedError, match="PostgreSQL did not answer within"):
        start_stores(data_dir, durable=False)
    monkeypatch.undo()
    start_stores(data_dir, durable=False).stop()


def test_making_the_data_directory_is_bounded_and_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "INITDB_TIMEOUT_S", 0.01)
    with pytest.raises(EmbeddedError, match="Creating the PostgreSQL data directory took over"):
        start_stores(tmp_path / "data", durable=False)
    assert not (tmp_path / "data" / "postgres").exists()
    monkeypatch.undo()
    start_stores(tmp_path / "data", durable=False).stop()


async def test_values_stay_out_of_the_log(data_dir: Path) -> None:
    with start_stores(data_dir, durable=False) as running:
        connection = await asyncpg.connect(running.database_url)
        await connection.execute("CREATE TABLE numbers (number text PRIMARY KEY)")
        for _ in range(2):
            try:
                await connection.execute("INSERT INTO numbers VALUES ('+33612345678')")
            except asyncpg.UniqueViolationError:
                break
        await connection.close()
    log = (data_dir / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "33612345678" not in log
