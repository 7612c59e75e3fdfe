"""What the callers were told, call by call: the only memory against which the stores are held afterwards.

An operation is one wish of a caller under one Idempotency-Key, however often it had to be asked. It is `told` what came
back and counts what was lost; nothing is concluded here.
"""

import itertools
import secrets
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.calls import Answer

Kind = Literal["send", "resend", "guess", "cancel"]


@dataclass
class Operation:
    """`is_right` is what the caller knew of a guess: the OTP's current code, or surely none of its codes."""

    kind: Kind
    key: str
    to: str = ""
    otp_id: str = ""
    is_right: bool | None = None
    told: list[Answer] = field(default_factory=list)
    n_lost: int = 0

    @property
    def answer(self) -> Answer | None:
        """The first definite answer; a 503 is none, because the call may have been made."""
        return next((answer for answer in self.told if answer.status != 503), None)

    @property
    def is_unknown(self) -> bool:
        """Whether it may have been done though nobody was told."""
        return self.answer is None and (self.n_lost > 0 or bool(self.told))

    @property
    def was_accepted(self) -> bool:
        return self.answer is not None and self.answer.status == 200

    @property
    def was_counted(self) -> bool:
        """Whether this guess was told to have cost an attempt."""
        return self.kind == "guess" and self.was_accepted

    @property
    def was_right(self) -> bool:
        """Whether this guess was told to be right."""
        return self.was_counted and self.answer is not None and self.answer.body.get("valid") is True


class Journal:
    """All operations of one stand."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._keys = (f"chaos-{secrets.token_hex(4)}-{number}" for number in itertools.count(1))

    def begin(self, kind: Kind, *, to: str = "", otp_id: str = "", is_right: bool | None = None) -> Operation:
        """Note down a wish before it is asked for the first time."""
        operation = Operation(kind, next(self._keys), to=to, otp_id=otp_id, is_right=is_right)
        self.operations.append(operation)
        return operation
