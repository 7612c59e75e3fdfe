"""End-to-end encryption, both ways, and what is refused."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from otpsvc.phone_encryption import MOST_ROUNDS, ROUNDS, DecryptionError, decrypted, encrypted


def field(plain: bytes, passphrase: str, rounds: int, salt: bytes = bytes(range(16))) -> str:
    """A field as another program makes it: padding and all by hand."""
    key = hashlib.pbkdf2_hmac("sha1", passphrase.encode(), salt, rounds, 32)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(salt)).encryptor()
    n_padding = 16 - len(plain) % 16
    sealed = encryptor.update(plain + bytes([n_padding]) * n_padding) + encryptor.finalize()
    return f"$aes-256-cbc/pbkdf2-sha1$i={rounds}${base64.b64encode(salt).decode()}${base64.b64encode(sealed).decode()}"


@pytest.mark.parametrize("text", ["", "Your code is 4711", "é🙂" * 40, "x" * 16, "$a$b$"])
def test_what_was_encrypted_can_be_read(text: str) -> None:
    sealed = encrypted(text, "correct horse")
    assert decrypted(sealed, "correct horse") == text
    assert sealed != encrypted(text, "correct horse")
    assert f"$i={ROUNDS}$" in sealed


@pytest.mark.parametrize("rounds", [1, 1000, 300_000])
def test_another_program_chooses_the_rounds(rounds: int) -> None:
    assert decrypted(field("Grüße".encode(), "pässword", rounds), "pässword") == "Grüße"


GOOD = field(b"text", "word", 10)


@pytest.mark.parametrize(
    "broken",
    [
        "", "text", "$" * 4, GOOD[1:], GOOD + "$", GOOD.replace("cbc", "gcm"), GOOD.replace("i=10", "i=0"),
        GOOD.replace("i=10", f"i={MOST_ROUNDS + 1}"), GOOD.replace("i=10", "i=" + "9" * 5000),
        GOOD.replace("i=10", "i=-1"), GOOD.replace("i=10", "10"), GOOD.replace("i=10", "i=1_0"), GOOD[:-5], GOOD[:-24],
        GOOD.replace("AAEC", "AA"), GOOD.replace("AAEC", "A*EC"), GOOD.replace("i=10", "i=11"),
        field(b"\xff\xfe", "word", 10),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_nothing_of_itself(broken: str) -> None:
    with pytest.raises(DecryptionError) as refusal:
        decrypted(broken, "word")
    assert refusal.value.__cause__ is None
    assert "text" not in str(refusal.value)


def test_another_passphrase_does_not_read_it() -> None:
    n_read = 0
    for number in range(200):
        try:
            n_read += decrypted(field(b"text", "word", 1, salt=bytes([number] * 16)), "wort") == "text"
        except DecryptionError:
            continue
    assert n_read == 0
