"""The pages of the gateways: each example works as it stands, and each key of the settings is explained."""

import re
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from otpsvc.senders.registry import installed_senders, load_senders
from otpsvc.settings import load
from otpsvc.settings_values import Secret
from otpsvc.testing import sender_context

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "gateways").glob("*.md"))
README = ROOT / "README.md"
# The types that have no page because nobody sets them up.
DEV_ONLY = {"inbox", "terminal"}
WORD = "0123456789abcdef0123456789abcdef"


def examples(page: Path) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


def with_secrets(example: str, directory: Path) -> str:
    """Make every file that an example names."""
    for key, name in re.findall(r'^(\w+)_file = "([^"]+)"', example, re.MULTILINE):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(private_key() if "private" in key else f"whsec_{WORD}" if name == "secrets/webhook" else WORD)
        path.chmod(0o600)
    return example


def test_every_sender_has_its_page() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for kind in installed_senders().keys() - DEV_ONLY:
        assert f'type = "{kind}"' in text, kind


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.stem)
def test_the_examples_work_as_they_stand(page: Path, tmp_path: Path) -> None:
    found = [example for example in examples(page) if "[senders." in example]
    assert found
    for number, example in enumerate(found):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = directory / "otpsvc.toml"
        path.write_text(with_secrets(example, directory))
        path.chmod(0o600)
        settings = load(path, {}, needs=())
        tables = {name: table for name, table in settings.senders.items() if table.options}
        assert load_senders(tables, sender_context(is_dev=False)).keys() == tables.keys() != set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_page_says_how_to_try_it(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "`otpsvc senders check" in text or page.stem == "phones"
    assert "`otpsvc senders send-test" in text


@pytest.mark.parametrize("kind", sorted(installed_senders().keys() - DEV_ONLY))
def test_every_key_of_the_settings_is_explained(kind: str) -> None:
    sender = installed_senders()[kind].load()
    (page,) = [page for page in PAGES if f'type = "{kind}"' in page.read_text("utf-8")]
    text = page.read_text("utf-8")
    for field in msgspec.structs.fields(sender.Settings):
        assert f"`{field.name}`" in text, field.name


@pytest.mark.parametrize("kind", sorted(installed_senders().keys() - DEV_ONLY))
def test_whatever_looks_like_a_secret_is_one(kind: str) -> None:
    sender = installed_senders()[kind].load()
    for field in msgspec.structs.fields(sender.Settings):
        if re.search(r"(password|passphrase|secret|token|private_key|signing_key)s?$", field.name):
            kinds = (field.type, *getattr(field.type, "__args__", ()))
            # A type that reads its own values hides them too (test_smsgate_receipts.py).
            assert Secret in kinds or hasattr(field.type, "read_setting"), field.name
