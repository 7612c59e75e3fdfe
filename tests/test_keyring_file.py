"""The keyring file: what people wrote stays, a crash leaves the old one or the new one, nobody else can read it."""

import errno
import fcntl
import os
import secrets
import signal
import stat
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from otpsvc.crypto import Keyring
from otpsvc.errors import ConfigurationError
from otpsvc.keyring_file import KeyringFile, KeyringText, free_name
from otpsvc.settings import load

NOW = datetime(2026, 10, 17, 12, 0, tzinfo=UTC)
OLD, OLDER = "0a" * 32, "0b" * 32
TEXT = f"""\
# Kept by the payments team.
# Ask them first.

# made for the launch
2026a: {OLD}
2025x:{OLDER}
# the end
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "masters"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


@pytest.fixture
def file(path: Path) -> KeyringFile:
    return KeyringFile(path)


def masters(path: Path) -> dict[str, bytes]:
    """What the service reads, in its order."""
    return dict(load(None, {"OTPSVC_KEYS_MASTERS_FILE": str(path)}, needs=()).keys.masters)


def names(path: Path) -> list[str]:
    return list(masters(path))


def test_three_steps_keep_what_people_wrote(file: KeyringFile, path: Path) -> None:
    assert file.add(None, now=NOW) == "2026b"
    assert names(path) == ["2026a", "2026b", "2025x"]
    new = masters(path)["2026b"].hex()
    assert path.read_text() == TEXT.replace("2025x:", f"2026b:{new}\n2025x:")
    assert file.promote("2026b", now=NOW) == "2026a"
    assert path.read_text() == textwrap.dedent(f"""\
        # Kept by the payments team.
        # Ask them first.

        2026b:{new}
        # made for the launch
        # 2026a: first until 2026-10-17T12:00:00Z
        2026a: {OLD}
        2025x:{OLDER}
        # the end
        """)
    assert file.first_until() == {"2026a": NOW}
    assert masters(path) == {"2026b": bytes.fromhex(new), "2026a": b"\x0a" * 32, "2025x": b"\x0b" * 32}
    file.remove("2026a")
    assert (
        path.read_text()
        == f"# Kept by the payments team.\n# Ask them first.\n\n2026b:{new}\n2025x:{OLDER}\n# the end\n"
    )


def test_a_master_that_comes_back_is_first_until_later(file: KeyringFile, path: Path) -> None:
    file.promote("2025x", now=NOW)
    later = NOW + timedelta(days=1)
    assert file.promote("2026a", now=later) == "2025x"
    assert file.first_until() == {"2025x": later}
    assert names(path) == ["2026a", "2025x"]
    assert path.read_text().count("first until") == 1


@pytest.mark.parametrize(
    "text",
    [
        f"a:{OLD},b:{OLDER}",
        f"  a: {OLD} \r\n\n b:{OLDER},\n",
        f"a:{OLD}\n# b: first until yesterday\nb:{OLDER}",
        f"# a, b\na:{OLD}\n#b:{'0c' * 32}\nb:{OLDER}",
    ],
)
def test_any_form_that_the_settings_take_is_rewritten_without_loss(text: str, path: Path) -> None:
    path.write_text(text)
    try:
        before = masters(path)
    except ConfigurationError:
        pytest.fail("the settings do not take it")
    comments = [line.strip() for line in text.splitlines() if line.lstrip().startswith("#")]
    KeyringFile(path).promote("b", now=NOW)
    assert list(masters(path).items()) == [("b", before["b"]), ("a", before["a"])]
    assert KeyringFile(path).first_until() == {"a": NOW}
    for comment in comments:
        assert comment in path.read_text().splitlines()
    KeyringFile(path).promote("a", now=NOW)
    assert masters(path) == before


def test_masters_in_files_of_their_own_keep_them(tmp_path: Path) -> None:
    for name, secret in (("one", OLD), ("two", OLDER)):
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
    path = tmp_path / "masters"
    path.write_text(f"a_file:{tmp_path / 'one'}\nb_file:{tmp_path / 'two'}\n")
    path.chmod(0o600)
    file = KeyringFile(path)
    file.promote("b", now=NOW)
    assert names(path) == ["b", "a"]
    file.remove("a")
    assert masters(path) == {"b": b"\x0b" * 32}
    assert (tmp_path / "one").exists()


def test_the_file_of_the_settings_is_found_as_the_settings_find_it(path: Path, tmp_path: Path) -> None:
    config = tmp_path / "sub" / "otpsvc.toml"
    config.parent.mkdir()
    config.write_text('[keys]\nmasters_file = "../masters"\n')
    by_file = KeyringFile.of_settings(config, {})
    assert by_file is not None
    assert by_file.path.samefile(path)
    by_variable = KeyringFile.of_settings(config, {"OTPSVC_KEYS_MASTERS_FILE": str(tmp_path / "other")})
    assert by_variable is not None
    assert by_variable.path == tmp_path / "other"
    assert KeyringFile.of_settings(config, {"OTPSVC_KEYS_MASTERS": f"a:{OLD}"}) is None
    assert KeyringFile.of_settings(None, {}) is None


# -- what is refused, and changes nothing


def refusal(call: object, *arguments: object, **options: object) -> str:
    assert callable(call)
    with pytest.raises(ConfigurationError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert OLD not in str(caught.value)
    return str(caught.value)


def test_wrong_steps_are_refused_and_change_nothing(file: KeyringFile, path: Path) -> None:
    assert "there is a master 2025x already" in refusal(file.add, "2025x", now=NOW)
    for bad in ("New", "a b", "a:b", "a\nb", "-a", "é", "a" * 33):
        assert "lower-case letters" in refusal(file.add, bad, now=NOW)
    assert "there is no master 2024a" in refusal(file.promote, "2024a", now=NOW)
    assert "is the first master already" in refusal(file.promote, "2026a", now=NOW)
    assert "there is no master 2024a" in refusal(file.remove, "2024a")
    assert "is the first master; promote another" in refusal(file.remove, "2026a")
    assert path.read_text() == TEXT


@pytest.mark.parametrize("text", ["", "a", f"a:{OLD}\nb:{OLD}", f"a:{OLD}\na:{OLDER}", "a:short\nb:short", f"A:{OLD}"])
def test_a_keyring_that_cannot_be_read_is_not_rewritten(text: str, path: Path) -> None:
    path.write_text(text)
    assert "the keyring could not be used" in refusal(KeyringFile(path).add, "new", now=NOW)
    assert path.read_text() == text


def test_a_slot_that_is_taken_is_drawn_again(file: KeyringFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([OLD, OLDER, "0c" * 32])
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(draws))
    file.add("new", now=NOW)
    assert masters(path)["new"] == b"\x0c" * 32
    monkeypatch.setattr(secrets, "token_hex", lambda _: OLD)
    assert "no master fits" in refusal(file.add, "more", now=NOW)


def test_a_link_is_refused_because_its_target_belongs_to_somebody_else(file: KeyringFile, path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    through_link = KeyringFile(link)
    for step in (lambda: through_link.add(None, now=NOW), lambda: through_link.promote("2025x", now=NOW)):
        assert "is a symbolic link, as in a mounted secret" in refusal(step)
    assert through_link.first_until() == {}
    assert link.is_symlink()
    os.link(path, path.with_name("twin"))
    assert "hard link" in refusal(file.add, None, now=NOW)
    assert path.read_text() == TEXT


@pytest.mark.parametrize("number", [errno.EROFS, errno.EBUSY, errno.ENOSPC, errno.EACCES])
def test_a_place_that_takes_no_new_file_is_said_to_be_one(
    file: KeyringFile, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", fail)
    line = refusal(file.add, None, now=NOW)
    assert os.strerror(number) in line
    assert ("mounted secret" in line) == (number in {errno.EROFS, errno.EBUSY})
    assert path.read_text() == TEXT


def test_two_at_once_are_refused(file: KeyringFile, path: Path) -> None:
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "is being changed by another command" in refusal(file.add, None, now=NOW)
    file.add(None, now=NOW)


# -- owner, mode, crash


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o660])
def test_owner_and_mode_stay(file: KeyringFile, path: Path, mode: int) -> None:
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    before = path.stat()
    file.add(None, now=NOW)
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_no_moment_lets_others_read_it(file: KeyringFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    replace = Path.replace

    def watching(draft: Path, target: Path) -> Path:
        modes.append(stat.S_IMODE(draft.stat().st_mode))
        return replace(draft, target)

    monkeypatch.setattr(Path, "replace", watching)
    old = os.umask(0)
    try:
        file.add(None, now=NOW)
    finally:
        os.umask(old)
    assert modes == [0o600]
    assert list(path.parent.iterdir()) == [path]


STEPS = ("fsync", "fchmod", "replace")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_after", [False, True])
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new_one(path: Path, step: str, is_after: bool) -> None:
    program = f"""
        import os, signal
        from datetime import UTC, datetime
        from pathlib import Path
        from otpsvc.keyring_file import KeyringFile

        owner = Path if {step!r} == "replace" else os
        real = getattr(owner, {step!r})

        def deadly(*arguments, **options):
            if {is_after}:
                real(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, {step!r}, deadly)
        KeyringFile(Path({str(path)!r})).add("new", now=datetime.now(UTC))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert ended.returncode == -signal.SIGKILL
    is_new = step == "replace" and is_after
    assert names(path) == (["2026a", "new", "2025x"] if is_new else ["2026a", "2025x"])
    if not is_new:
        assert path.read_text() == TEXT
    # What lies about is for nobody else to read, and the next command clears it up.
    for left in set(path.parent.iterdir()) - {path}:
        assert stat.S_IMODE(left.stat().st_mode) == 0o600
    KeyringFile(path).add("next", now=NOW)
    assert list(path.parent.iterdir()) == [path]


# -- the first one


def test_a_first_keyring_is_ours_alone_and_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    KeyringFile(path).create(None, now=NOW)
    made = masters(path)
    assert list(made) == ["2026a", "index"]
    assert Keyring.from_masters(made).index_master.name == "index"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    text = path.read_text()
    assert "exists already" in refusal(KeyringFile(path).create, None, now=NOW)
    assert path.read_text() == text
    KeyringFile(tmp_path / "other").create("first", now=NOW)
    assert names(tmp_path / "other") == ["first", "index"]
    assert not set(masters(tmp_path / "other").values()) & set(made.values())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["keyring", "other"]
    assert "No such file" in refusal(KeyringFile(tmp_path / "no" / "such").create, None, now=NOW)
    assert "lower-case" in refusal(KeyringFile(tmp_path / "third").create, "A", now=NOW)
    assert "another one" in refusal(KeyringFile(tmp_path / "third").create, "index", now=NOW)
    assert not (tmp_path / "third").exists()
    KeyringFile(path).add(None, now=NOW)
    KeyringFile(path).promote("2026b", now=NOW)
    assert names(path) == ["2026b", "2026a", "index"]
    assert path.read_text().partition("\n\n")[0] == text.partition("\n\n")[0]
    assert path.read_text().splitlines()[-2].startswith("# It names the keys of every limit")


def test_names_are_the_year_and_a_letter() -> None:
    assert free_name(set(), NOW) == "2026a"
    assert free_name({"2026a", "2026c", "2025b"}, NOW) == "2026b"
    with pytest.raises(ConfigurationError, match="give one"):
        free_name({f"2026{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"}, NOW)


def test_no_repr_shows_a_secret() -> None:
    shown = f"{KeyringText.read(TEXT)!r} {KeyringText.read(TEXT).entries[0]!s}"
    assert OLD not in shown
    assert OLDER not in shown
