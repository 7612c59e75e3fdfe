"""The page for authors of senders names everything that there is, and what it shows can be run."""

import csv
import inspect
import re
from pathlib import Path

import pytest

from otpsvc.senders import contract
from otpsvc.senders.contract import RULES, Capabilities, ReceiptStatus, RefusalKind, RejectionKind, Sender
from otpsvc.senders.error_maps import TABLES, GatewayMap
from otpsvc.testing import SenderConformance
from otpsvc.testing.scenes import Stage

PAGE = (Path(__file__).parents[2] / "docs" / "senders.md").read_text("utf-8")
WORDS = set(re.findall(r"`([^`\n]+)`", PAGE))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "word", [*Capabilities.__struct_fields__, *RejectionKind, *ReceiptStatus, *RefusalKind, *TABLES]
)
def test_it_names(word: str) -> None:
    assert str(word) in WORDS


def test_it_names_what_every_method_is_for() -> None:
    methods = {name for name, _ in inspect.getmembers(Sender, inspect.isfunction) if not name.startswith("_")}
    assert {word.partition("(")[0] for word in WORDS} >= methods


def test_it_names_every_hook_of_the_suite() -> None:
    own = {name for one in (Stage, SenderConformance) for name in vars(one)} | {"forgeries_of"}
    tools = {"send", "sent", "within", "twin_of", "patience_s", "accepted_texts", "scene"}
    hooks = {name for name in own if not name.startswith(("_", "test_"))} - tools
    assert {re.split(r"[ (]", word)[0] for word in WORDS} >= hooks


def test_its_rules_are_the_ones_that_are_followed() -> None:
    rows = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| (yes|no) \| (yes|no) \|$", PAGE, re.MULTILINE)
    told = {
        kind: (next_may_try == "yes", needs_operator == "yes")
        for kinds, next_may_try, needs_operator in rows
        for kind in re.findall(r"[a-z_]+", kinds)
    }
    assert told == {str(kind): tuple(rule) for kind, rule in RULES.items()}


def test_what_it_imports_is_there() -> None:
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        exec(compile(block, "docs/senders.md", "exec"), {"__name__": "page"})  # noqa: S102 - our own page


def test_its_codes_can_be_read() -> None:
    (text,) = blocks("csv")
    assert len(GatewayMap.from_csv("acme", text).rows) == len(list(csv.DictReader(text.splitlines())))


def test_everything_public_in_the_contract_can_be_imported() -> None:
    assert all(hasattr(contract, name) for name in contract.__all__)
