"""PostgreSQL refuses root: how it is run then, and what a person reads when there is no way."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from otpsvc.embedded import EmbeddedError, binaries, start_stores
from otpsvc.embedded.identity import Identity, choose_identity, first_closed_parent

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run as someone else")


def only(*kinds: str) -> Callable[[Identity], bool]:
    return lambda identity: identity.kind in kinds


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every account may pass through, unlike those of pytest."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_an_ordinary_user_runs_everything_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = 65534
    monkeypatch.setattr(os, "geteuid", lambda: nobody)
    assert choose_identity(only(), ()).kind == "own"


def test_a_user_without_a_name_gets_one_or_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999)
    assert choose_identity(only("namespace"), ()).kind == "namespace"
    with pytest.raises(EmbeddedError, match="needs a user with a name and uid 3999999 has none"):
        choose_identity(only("account"), ())


@pytest.mark.usefixtures("as_root")
def test_root_prefers_the_namespace() -> None:
    chosen = choose_identity(only("namespace", "account"), (Path("/unreachable/x"),))
    assert chosen.kind == "namespace"
    assert chosen.uid != 0
    assert chosen.gid != 0


@pytest.mark.usefixtures("as_root")
def test_root_without_namespaces_takes_an_account_that_can_reach_the_files(open_dir: Path) -> None:
    assert choose_identity(only("account"), (open_dir / "data",)).kind == "account"


@pytest.mark.usefixtures("as_root")
def test_a_closed_parent_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "open").mkdir(parents=True)
    closed.chmod(0o600)
    before = [path.stat().st_mode for path in (closed, *closed.parents)]
    with pytest.raises(EmbeddedError) as caught:
        choose_identity(only("account"), (closed / "open" / "data",))
    assert [path.stat().st_mode for path in (closed, *closed.parents)] == before
    closed.chmod(0o700)
    assert "cannot pass through /" in str(caught.value)
    assert "Run as an ordinary user, or allow user namespaces" in str(caught.value)
    assert "OTPSVC_DATA_DIR" in str(caught.value)


@pytest.mark.usefixtures("as_root")
def test_root_that_may_do_nothing_is_told(open_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match="switching to 'nobody' is not allowed"):
        choose_identity(only(), (open_dir / "data",))


def test_the_topmost_closed_directory_is_found(open_dir: Path) -> None:
    closed = open_dir / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o750)
    stranger = Identity("account", 3_999_999, 3_999_999)
    assert first_closed_parent(closed / "inner" / "x", stranger) == closed
    of_its_group = Identity("account", 3_999_999, closed.stat().st_gid)
    assert first_closed_parent(closed / "x", of_its_group) is None
    assert first_closed_parent(open_dir / "x", stranger) is None


@needs_root
async def test_root_below_a_directory_closed_to_all_others(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o700)
    with start_stores(closed / ".otpsvc", durable=False) as running:
        connection = await asyncpg.connect(running.database_url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert {path.stat().st_uid for path in closed.rglob("*")} == {0}
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@needs_root
async def test_root_without_namespaces_runs_postgres_as_an_account(open_dir: Path) -> None:
    nobody = Identity("account", 65534, 65534)
    if first_closed_parent(binaries.find_binaries().postgres, nobody):
        pytest.skip("the programs of this environment are not reachable for other accounts")
    data_dir = open_dir / ".otpsvc"
    for works in (only("account"), only("namespace"), only("account")):
        with start_stores(data_dir, durable=False, works=works) as running:
            connection = await asyncpg.connect(running.database_url)
            await connection.execute("CREATE TABLE IF NOT EXISTS kept (word text)")
            await connection.close()
            owner = (data_dir / "postgres" / "base").stat().st_uid
            assert (owner == 0) == works(Identity("namespace", 1, 1))
            # Only PostgreSQL's own part belongs to the account; it may pass through, not write.
            assert data_dir.stat().st_uid == 0
            assert stat.S_IMODE(data_dir.stat().st_mode) in {0o700, 0o710}
            assert (data_dir / "redis").stat().st_uid == 0


@needs_root
def test_root_without_any_way_starts_nothing(open_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match="PostgreSQL does not run as root"):
        start_stores(open_dir / ".otpsvc", durable=False, works=only())
    assert not (open_dir / ".otpsvc" / "postgres").exists()
