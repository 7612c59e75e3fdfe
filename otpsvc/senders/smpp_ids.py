"""The ids an SMSC gives messages: as it wrote them in its answer, and as it writes the same ones in receipts.

Many count in one base when they answer and in the other when they report. Ids of receipts are turned into the form of
the answer here, so that whoever keeps ids sees only one form.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from otpsvc.senders.answers import gateway_id

IdBase = Literal["auto", "hex", "dec"]

_MOST_REMEMBERED = 10_000
_HEX = re.compile(r"[0-9A-Fa-f]{1,16}")
_DECIMAL = re.compile(r"[0-9]{1,20}")


class MessageIds:
    """The ids of one SMSC.

    `auto` compares with the last 10 000 ids of this process, as they are and turned from base to base, and once it has
    seen a form that fits, reads the ids it does not know in that form. An id that fits as it is ends the search for
    good: turned from base to base, the id of somebody else's message could look like one of ours. `hex` and `dec` name
    the base of the receipts; the answers are then in the other, and both become plain decimal numbers.
    """

    def __init__(self, receipt_base: IdBase) -> None:
        self._base = receipt_base
        self._recent: OrderedDict[str, str] = OrderedDict()
        self._turn: Callable[[str], str] = _as_it_is
        self._is_settled = False

    def submitted(self, written: str | None) -> str | None:
        """Return the id of an answer in the form that we keep; None for what does not look like an id."""
        text = gateway_id(written)
        if text is None or self._base != "auto":
            return text and self._number(text, is_hex=self._base == "dec")
        self._recent[_bare(text)] = text
        if len(self._recent) > _MOST_REMEMBERED:
            self._recent.popitem(last=False)
        return text

    def receipted(self, written: str | None, *, is_parameter: bool) -> str | None:
        """Return the id of a receipt in the form that we keep.

        `is_parameter`: it comes from the parameter `receipted_message_id`, which is the answer's own form.
        """
        text = gateway_id(written)
        if text is None or self._base != "auto":
            return text and self._number(text, is_hex=(self._base == "hex") != is_parameter)
        known = self._recent.get(_bare(text))
        if known is not None:
            self._is_settled, self._turn = True, _as_it_is
            return known
        for turn in () if self._is_settled else (_to_decimal, _to_hex):
            known = self._recent.get(_bare(turn(text)))
            if known is not None:
                self._turn = _like(turn, known)
                return known
        return self._turn(text)

    def _number(self, text: str, *, is_hex: bool) -> str:
        if (_HEX if is_hex else _DECIMAL).fullmatch(text):
            return str(int(text, 16 if is_hex else 10))
        return text


def _bare(text: str) -> str:
    """Leave out what spellings of the same id differ in."""
    return text.lstrip("0").casefold() or "0"


def _as_it_is(text: str) -> str:
    return text


def _to_decimal(text: str) -> str:
    return str(int(text, 16)) if _HEX.fullmatch(text) else text


def _to_hex(text: str) -> str:
    return f"{int(text):x}" if _DECIMAL.fullmatch(text) else text


def _like(turn: Callable[[str], str], example: str) -> Callable[[str], str]:
    """Make ids in the spelling of one that was seen: its capitals, its zeros in front."""
    width = len(example) if example.startswith("0") else 0
    is_upper = any(letter.isupper() for letter in example)

    def spelled(text: str) -> str:
        turned = turn(text).zfill(width)
        return turned.upper() if is_upper else turned

    return spelled
