"""What the codes of a gateway mean to us, read from data: one file per gateway in `maps/`, one row per code.

A code is looked up, never guessed at: what no row knows is GATEWAY_ERROR and says so (`is_unmapped` of a Rejected or a
Receipt), so that it is counted and somebody adds the row. The files hold our own words only; a gateway's text never
comes from here or goes through here.

Columns: `table` (`send`: answers to a send; `failure`: why a message that was taken failed; `state`: words for how far
it is; `api`: codes of calls we do not make, kept because a reader will look for them), `code`, `outcome` (`accepted`,
`retry`, `unknown`, a RejectionKind, or in `state` a ReceiptStatus), `after_s` for `retry`, `error` (the code in our
catalogue where it does not follow from the kind), `meaning`.
"""

import csv
import functools
import importlib.resources
from collections.abc import Mapping
from typing import Literal, NamedTuple

from otpsvc.errors import CATALOGUE
from otpsvc.senders.contract import (
    ERROR_OF,
    RULES,
    Accepted,
    Outcome,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Unknown,
)

TABLES = ("send", "failure", "state", "api")
DEFAULT_PAUSE_S = 5.0
_MAX_SHOWN_CODE = 40
_MAX_SHOWN_DIGITS = 5  # more of them could be a code of ours, or a number

Rule = Literal["done", "never", "after", "next", "alarm", "unknown"]


class MapRow(NamedTuple):
    """One row: what a code means. `after_s` counts for `retry` only; `error` is always a code of our catalogue."""

    table: str
    code: str
    outcome: str
    after_s: float
    error: str
    meaning: str

    @property
    def rule(self) -> Rule:
        """What follows: nothing more to do, never again, again after `after_s`, the next sender, that and an alarm."""
        if self.table == "state" or self.outcome == "accepted":
            return "done"
        if self.outcome == "retry":
            return "after"
        if self.outcome == "unknown":
            return "unknown"
        rule = RULES[RejectionKind(self.outcome)]
        return "alarm" if rule.needs_operator else "next" if rule.next_may_try else "never"


class GatewayMap:
    """The tables of one gateway. Codes are compared as text, without regard to case or the space around them."""

    def __init__(self, gateway: str, rows: Mapping[tuple[str, str], MapRow]) -> None:
        self.gateway = gateway
        self.rows = rows

    @classmethod
    def load(cls, gateway: str) -> "GatewayMap":
        """Read `maps/<gateway>.csv` of this package; raises ValueError that names the line for a bad row."""
        return _load(gateway)

    @classmethod
    def from_csv(cls, gateway: str, text: str) -> "GatewayMap":
        """Read a map from text of the same form, for senders that live elsewhere; raises ValueError."""
        rows: dict[tuple[str, str], MapRow] = {}
        for number, line in enumerate(csv.DictReader(text.splitlines(), strict=True), start=2):
            try:
                row = _row(line)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"map of {gateway}, line {number}: {error}") from None
            if rows.setdefault((row.table, _folded(row.code)), row) is not row:
                raise ValueError(f"map of {gateway}, line {number}: {row.code!r} stands in table {row.table!r} twice")
        return cls(gateway, rows)

    def row(self, table: str, code: object) -> MapRow | None:
        """Return the row of a code, None if no row knows it."""
        return self.rows.get((table, _folded(code)))

    def outcome(self, code: object, *, detail: str = "", after_s: float | None = None) -> Outcome:
        """Return what a send came to. `after_s`, where the gateway named a pause, goes before the table's."""
        row = self.row("send", code)
        if row is None:
            return Rejected(RejectionKind.GATEWAY_ERROR, f"unmapped code {shown_code(code)}", is_unmapped=True)
        told = detail or f"code {row.code}"
        match row.outcome:
            case "accepted":
                return Accepted()
            case "retry":
                return RetryLater(row.after_s if after_s is None else after_s, told)
            case "unknown":
                return Unknown(told)
        return Rejected(RejectionKind(row.outcome), told)

    def kind(self, code: object) -> RejectionKind:
        """Return why a message that was taken failed; GATEWAY_ERROR for a code that no row knows."""
        row = self.row("failure", code)
        return RejectionKind(row.outcome) if row else RejectionKind.GATEWAY_ERROR

    def status(self, word: object) -> ReceiptStatus:
        """Return how far a message is; UNKNOWN for a word that no row knows."""
        row = self.row("state", word)
        return ReceiptStatus(row.outcome) if row else ReceiptStatus.UNKNOWN


@functools.cache
def _load(gateway: str) -> GatewayMap:
    text = importlib.resources.files("otpsvc.senders").joinpath("maps", f"{gateway}.csv").read_text("utf-8")
    return GatewayMap.from_csv(gateway, text)


def _row(line: Mapping[str, str]) -> MapRow:
    table, code, outcome, error = line["table"], line["code"].strip(), line["outcome"], line["error"]
    if table not in TABLES or not code or None in line:
        raise ValueError(f"a row needs a code and one of the tables {', '.join(TABLES)}, and no more columns")
    if table == "state":
        ReceiptStatus(outcome)
    elif outcome not in {"accepted", "retry", "unknown"}:
        error = error or ERROR_OF[RejectionKind(outcome)]
    elif table == "failure":
        raise ValueError("a failure is of a RejectionKind")
    error = error or ("" if outcome == "accepted" or table == "state" else "GATEWAY_UNAVAILABLE")
    if error and error not in CATALOGUE:
        raise ValueError(f"{error} is not in the catalogue")
    after_s = float(line["after_s"]) if line["after_s"] else DEFAULT_PAUSE_S if outcome == "retry" else 0.0
    return MapRow(table, code, outcome, after_s, error, line["meaning"])


def _folded(code: object) -> str:
    return str(code).strip().casefold()


def shown_code(code: object) -> str:
    """Show a code only if it looks like one: a gateway may put anything in its place."""
    text = str(code).strip()
    is_code = len(text) <= _MAX_SHOWN_CODE and text.replace("-", "").replace("_", "").replace(".", "").isalnum()
    n_digits = sum(letter.isdigit() for letter in text)
    return text if is_code and text.isascii() and n_digits <= _MAX_SHOWN_DIGITS else "(not shown)"
