"""The ledger seen from outside: installing its sender as a distribution of its own, and reading what it wrote.

Only this file knows where a code can be learnt: from the text that a sender was given, as a person learns it.
"""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

_CODE = re.compile(r"(?<!\d)\d{4,10}(?!\d)")
_MODULE = "otpsvc_ledger_sender"
_METADATA = "Metadata-Version: 2.1\nName: otpsvc-ledger\nVersion: 1.0\n"
_ENTRY_POINTS = f"[otpsvc.senders]\nledger = {_MODULE}:LedgerSender\n"

# What a call may have left behind it: the person's phone rang, or nobody can say that it did not.
HANDED = frozenset({"accepted", "unknown", "hang"})


class LedgerLine(NamedTuple):
    """One call of a sender."""

    sender: str
    message_id: str
    to: str
    text: str
    try_number: int
    answer: str

    @property
    def code(self) -> str:
        found = _CODE.search(self.text)
        assert found is not None, "a text without a code"
        return found[0]


def install_ledger(directory: Path) -> Path:
    """Make the distribution `otpsvc-ledger`; give the folder that PYTHONPATH must name."""
    site = directory / "site"
    about = site / "otpsvc_ledger-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("ledger_sender.py"), site / f"{_MODULE}.py")
    (about / "METADATA").write_text(_METADATA)
    (about / "entry_points.txt").write_text(_ENTRY_POINTS)
    return site


def read_line(text: str) -> LedgerLine:
    """Read one line of a ledger."""
    line = json.loads(text)
    return LedgerLine(line["sender"], line["message_id"], line["to"], line["text"], line["try"], line["answer"])


class Ledger:
    """A ledger's file, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[LedgerLine] = []
        self._codes: dict[str, str] = {}
        self._read_to = 0

    def refresh(self) -> None:
        """Read what was added; the end of a line that is not all there yet stays for the next time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_to += len(whole) + len(newline)
        for text in whole.splitlines():
            line = read_line(text.decode())
            self.lines.append(line)
            if line.answer in HANDED:
                self._codes[line.message_id] = line.code

    def code_of(self, message_id: str) -> str | None:
        """Give the code that a message carried, None while nobody got it."""
        return self._codes.get(message_id)
