"""The keyring: subkeys that have nothing in common, frames that cannot be confused, seals that cannot be moved."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from otpsvc.crypto import Keyring, KeyringError, Master, UnsealError, equal, framed

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
FIELDS = st.lists(st.binary(max_size=12) | st.text(max_size=8), max_size=5)


def ring(**masters: bytes) -> Keyring:
    return Keyring.from_masters(masters)


def as_bytes(fields: list[bytes | str]) -> list[bytes]:
    return [field.encode() if isinstance(field, str) else field for field in fields]


@given(FIELDS, FIELDS)
def test_only_equal_fields_have_equal_frames(left: list[bytes | str], right: list[bytes | str]) -> None:
    assert (framed(*left) == framed(*right)) == (as_bytes(left) == as_bytes(right))


def test_a_border_between_fields_cannot_move() -> None:
    assert framed("ab", "c") != framed("a", "bc") != framed("abc")
    assert framed("", "a") != framed("a", "")
    assert framed() != framed("")


def test_subkeys_are_hkdf_and_have_nothing_in_common() -> None:
    master = Master.derive("a", SECRET)
    for label in ("pepper", "index", "seal", "fingerprint", "auth", "check"):
        derived = HKDF(hashes.SHA256(), 32, b"otpsvc keyring v1", label.encode()).derive(SECRET)
        assert getattr(master, label) == derived
    keys = [master.pepper, master.index, master.seal, master.fingerprint, master.auth, master.check]
    assert len(set(keys)) == 6
    assert SECRET not in keys
    assert not set(keys) & {Master.derive("a", OTHER).pepper, Master.derive("a", OTHER).index}


def test_a_name_is_only_a_name() -> None:
    assert Master.derive("a", SECRET).pepper == Master.derive("b", SECRET).pepper


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_a_master_has_32_bytes(length: int) -> None:
    with pytest.raises(KeyringError, match=f"'short' must have 32 bytes, it has {length}"):
        ring(short=bytes(length))


def test_a_ring_needs_a_master() -> None:
    with pytest.raises(KeyringError, match="at least one"):
        Keyring.from_masters({})


def test_one_secret_cannot_stand_twice_in_a_ring() -> None:
    with pytest.raises(KeyringError, match="slot") as caught:
        ring(new=SECRET, old=SECRET)
    assert SECRET.hex() not in str(caught.value)


def test_an_index_master_must_be_in_the_ring() -> None:
    with pytest.raises(KeyringError, match="'gone' is not in the keyring"):
        Keyring.from_masters({"a": SECRET}, index_master="gone")


def test_the_first_master_is_current_and_all_are_found_by_slot() -> None:
    keyring = ring(new=OTHER, old=SECRET)
    assert keyring.current.name == "new"
    for master in keyring.masters:
        assert keyring.by_slot(master.slot) is master
    assert keyring.by_slot(b"\x00\x00") is None
    assert keyring.by_slot(b"") is None


def test_the_index_survives_a_rotation_of_the_pepper() -> None:
    before, after = ring(old=SECRET), ring(new=OTHER, old=SECRET)
    named = Keyring.from_masters({"new": OTHER, "old": SECRET}, index_master="new")
    assert before.index("number", "+33612345678") == after.index("number", "+33612345678")
    assert before.index_key_id == after.index_key_id != named.index_key_id
    assert before.partition("+33612345678", 256) == after.partition("+33612345678", 256)
    assert before.index("number", "x") != named.index("number", "x")


def test_an_index_tells_kinds_apart_and_is_not_a_bare_digest() -> None:
    keyring = ring(a=SECRET)
    assert len(keyring.index("number", "x")) == 16
    assert len({keyring.index(*parts) for parts in (("number", "x"), ("session", "x"), ("numberx",), ("x",))}) == 4
    assert keyring.index("number", "x") != hashlib.sha256(framed("number", "x")).digest()[:16]


def test_a_check_belongs_to_the_index_master_and_is_no_index() -> None:
    before, after = ring(old=SECRET), ring(new=OTHER, old=SECRET)
    assert before.check_of(b"x") == after.check_of(b"x")
    assert len(before.check_of(b"x")) == 5
    assert before.check_of(b"x") != before.check_of(b"y")
    assert before.check_of(b"x") != ring(new=OTHER).check_of(b"x")
    made = {before.index("api-key", b"x")[:5], before.current.auth_tag(b"x")[:5], before.check_of(b"x")}
    assert len(made) == 3
    assert after.index_master is after.masters[1]


def test_the_id_of_the_index_key_does_not_tell_the_key() -> None:
    keyring = ring(a=SECRET)
    assert keyring.current.index.hex()[:16] != keyring.index_key_id
    assert len(keyring.index_key_id) == 16


@given(st.text(max_size=20), st.integers(1, 256))
def test_every_number_has_its_partition(number: str, partitions: int) -> None:
    assert 0 <= ring(a=SECRET).partition(number, partitions) < partitions


def test_partitions_are_used_evenly() -> None:
    keyring = ring(a=SECRET)
    counts = [0] * 8
    for n in range(4000):
        counts[keyring.partition(f"+336{n:08d}", 8)] += 1
    assert min(counts) > 400


def test_uses_of_a_master_cannot_stand_in_for_each_other() -> None:
    master = Master.derive("a", SECRET)
    made = {
        master.peppered("api-key", b"x"),
        master.auth_tag(b"x"),
        bytes.fromhex(master.fingerprint_of("api-key", b"x")),
    }
    assert len(made) == 3
    assert len(master.fingerprint_of("x")) == 32


BOUND = ("client_1", "live", "msg_1", "sms")


@given(st.binary(max_size=300))
def test_a_seal_opens_where_it_was_made(plain: bytes) -> None:
    keyring = ring(a=SECRET)
    sealed = keyring.seal(plain, record_id="msg_1", count=0, bound_to=BOUND)
    assert keyring.unseal(sealed, record_id="msg_1", count=0, bound_to=BOUND) == plain
    assert len(plain) < 3 or plain not in sealed


@pytest.mark.parametrize(
    ("record_id", "count", "bound_to"),
    [
        ("msg_2", 0, BOUND),
        ("msg_1", 1, BOUND),
        ("msg_1", 0, ("client_2", *BOUND[1:])),
        ("msg_1", 0, ("client_1", "test", *BOUND[2:])),
        ("msg_1", 0, (*BOUND[:3], "voice")),
        ("msg_1", 0, BOUND[:3]),
        ("msg_1", 0, ("client_1live", "", "msg_1", "sms")),
        ("msg_1", 0, ()),
    ],
)
def test_a_seal_opens_nowhere_else(record_id: str, count: int, bound_to: tuple[str, ...]) -> None:
    keyring = ring(a=SECRET)
    sealed = keyring.seal(b"+33612345678", record_id="msg_1", count=0, bound_to=BOUND)
    with pytest.raises(UnsealError):
        keyring.unseal(sealed, record_id=record_id, count=count, bound_to=bound_to)


@given(st.data())
def test_a_changed_seal_does_not_open(data: st.DataObject) -> None:
    keyring = ring(a=SECRET)
    sealed = bytearray(keyring.seal(b"+33612345678", record_id="msg_1", count=0, bound_to=BOUND))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(sealed[: data.draw(st.integers(0, len(sealed)))])
    for broken in (bytes(sealed), cut):
        with pytest.raises(UnsealError) as caught:
            keyring.unseal(broken, record_id="msg_1", count=0, bound_to=BOUND)
        assert "336" not in str(caught.value)


def test_seals_survive_a_rotation_but_not_the_loss_of_their_master() -> None:
    sealed = ring(old=SECRET).seal(b"x", record_id="r", count=0, bound_to=())
    assert ring(new=OTHER, old=SECRET).unseal(sealed, record_id="r", count=0, bound_to=()) == b"x"
    with pytest.raises(UnsealError, match="not in the keyring"):
        ring(new=OTHER).unseal(sealed, record_id="r", count=0, bound_to=())


def test_every_record_and_count_has_a_seal_key_of_its_own() -> None:
    master = Master.derive("a", SECRET)
    keys = {master.seal_key(record, count) for record in ("msg_1", "msg_2", "msg_") for count in (0, 1, 10)}
    assert len(keys) == 9
    assert all(len(key) == 32 for key in keys)


def test_secrets_compare_whole() -> None:
    assert equal(b"a" * 32, b"a" * 32)
    for other in (b"", b"a" * 31, b"a" * 33, b"a" * 31 + b"b"):
        assert not equal(b"a" * 32, other)


def test_secrets_compare_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watching(left: bytes, right: bytes) -> bool:
        asked.append((left, right))
        return False

    monkeypatch.setattr(hmac, "compare_digest", watching)
    assert equal(b"a", b"a") is False
    assert asked == [(b"a", b"a")]
