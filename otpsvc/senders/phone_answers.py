"""What gateways in front of Android phones, and phones of our own, have in common: reasons in free text.

They tell failures in words, some of them the phone's own. A word counts only if a row of a map knows it, and only the
row's own words are passed on: the text of a gateway must never leave this file, because it can hold the number.
"""

import re
from typing import Any

import msgspec

from otpsvc.senders.answers import MAX_RECEIPT_BYTES, Failure, fields, outcome_of_answer
from otpsvc.senders.contract import (
    Outcome,
    ReceiptRefusal,
    ReceiptRequest,
    ReceiptStatus,
    RefusalKind,
    Rejected,
    RejectionKind,
)
from otpsvc.senders.error_maps import GatewayMap, MapRow
from otpsvc.senders.http_client import GatewayAnswer, NotSent

_MAX_REASON_CHARS = 500
_RESULT_NAME = re.compile(r"RESULT_[A-Z_]{3,60}")
_UNMAPPED = "unmapped reason"
_UNWELCOME = frozenset({401, 403, 429, 503})
# A phone of our own that cannot send is not a gateway out of order: it is passed, and says so by its own kind.
_OWN_KINDS = {"DEVICE_OFFLINE": RejectionKind.DEVICE_OFFLINE, "NETWORK_ERROR": RejectionKind.UNDELIVERABLE}


class PhoneMap:
    """The tables of one gateway, and Android's own results behind them (`maps/android.csv`)."""

    def __init__(self, gateway: str) -> None:
        self._own = GatewayMap.load(gateway)
        self._android = GatewayMap.load("android")

    def refusal(self, answer: GatewayAnswer, *words: object) -> Outcome:
        """Say what became of a message whose send was not answered with success.

        `words` are the gateway's own about it, the most telling first. Words that no row knows are no guess at what a
        known status means, but make a refusal that has no row of its own one to look at.
        """
        for word in words:
            if (code := self._phrase("send", word)) is not None:
                return outcome_of_answer(self._own, code, answer)
        if 400 <= answer.status < 500 and self._own.row("send", f"http_{answer.status}") is None:
            return Rejected(RejectionKind.GATEWAY_ERROR, f"status {answer.status}, unmapped", is_unmapped=True)
        return outcome_of_answer(self._own, None, answer)

    def status(self, word: object) -> ReceiptStatus:
        """Return how far a message is; UNKNOWN for a word that no row knows."""
        return self._own.status(word)

    def failure(self, *words: object) -> Failure:
        """Say why a phone failed, with words of ours; GATEWAY_ERROR where no row knows any of the gateway's words."""
        row = self.failure_row(*words)
        if row is not None:
            return Failure(RejectionKind(row.outcome), row.code)
        # Where nothing was said there is no word to add to a table.
        said = (word for word in words if isinstance(word, str | int) and not isinstance(word, bool))
        is_told = any(str(word).strip() for word in said)
        return Failure(RejectionKind.GATEWAY_ERROR, _UNMAPPED, is_unmapped=is_told)

    def failure_row(self, *words: object) -> MapRow | None:
        """Return the row of the first of these words that any row knows."""
        for word in words:
            text = str(word)[:_MAX_REASON_CHARS].strip() if isinstance(word, str | int) else ""
            found = _RESULT_NAME.search(text)
            row = self._android.row("failure", found[0] if found else text)
            if row is not None:
                return row
            if (code := self._phrase("failure", text)) is not None:
                return self._own.row("failure", code)
        return None

    def _phrase(self, table: str, word: object) -> str | None:
        """Find the longest code of a table that stands anywhere in the text."""
        text = word[:_MAX_REASON_CHARS].casefold() if isinstance(word, str) else ""
        codes = [row.code for (of, code), row in self._own.rows.items() if of == table and code in text]
        return max(codes, key=len, default=None)


def phone_failure(text: str) -> tuple[RejectionKind, str, bool]:
    """Say why a phone of our own failed, by what it reports (`maps/phones.csv`).

    The kind, a short word of ours, and whether it said something that no table knows.
    """
    row = PhoneMap("phones").failure_row(text)
    if row is None:
        return RejectionKind.GATEWAY_ERROR, _UNMAPPED, bool(text.strip())
    return _OWN_KINDS.get(row.error, RejectionKind(row.outcome)), row.code, False


def stop_if_unwelcome(answer: GatewayAnswer) -> None:
    """Raise NotSent, which ends a poll, where the gateway wants no more questions now: too many, or not from us."""
    if answer.status in _UNWELCOME:
        raise NotSent("not to be asked now")


def too_large(request: ReceiptRequest) -> ReceiptRefusal | None:
    """Refuse a body that no receipt has, before anything is computed over it."""
    if len(request.body) > MAX_RECEIPT_BYTES:
        return ReceiptRefusal(RefusalKind.MALFORMED, "too large")
    return None


def object_in(body: bytes) -> dict[str, Any] | None:
    """Read the JSON object that a body is; None for anything else."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def first_of(value: object) -> dict[str, Any]:
    """Return the first object of a JSON list, an empty one for anything else: each message has one recipient."""
    return dict(fields(value[0])) if isinstance(value, list) and value else {}
