"""A sender for the fault suite: it writes every call down before it answers, and answers what it was told to.

It is installed as a stranger's distribution (`tests.chaos.ledger`), so this file must import nothing of the tests. A
line goes out with one write to a file opened for appending, or to a named pipe: lines of several processes never mix,
and a line of a process that is killed a moment later stays. Its gateway's receipts are made by `tests.chaos.gateways`.
"""

import asyncio
import hmac
import json
import os
import time
import zlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    OutboundMessage,
    Outcome,
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    SenderContext,
    Unknown,
)

Word = Literal["accepted", "rejected", "retry_later", "unknown", "hang"]


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`answers` are chosen among by message and try: the same call always gets the same answer.

    A gateway that recognises our ids cannot reject what it took before, so an idempotent one never answers `rejected`.
    While the file `down` exists, everything is refused. Receipts must carry `proof`; without one there are none.
    """

    path: str
    answers: tuple[Word, ...] = ("accepted",)
    is_idempotent: bool = False
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    after_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 0.1
    down: str = ""
    proof: str = ""
    receipt_within_s: Annotated[float, msgspec.Meta(ge=1, le=60)] | None = None


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One receipt as this gateway writes it."""

    status: ReceiptStatus
    message_id: str | None = None
    provider_id: str | None = None


class LedgerSender(Sender[LedgerSettings]):
    """Writes `{"sender", "message_id", "to", "text", "try", "answer", "at_ns", "pid"}` per call."""

    Settings = LedgerSettings

    def __init__(self, name: str, settings: LedgerSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        if settings.is_idempotent and "rejected" in settings.answers:
            raise ConfigurationError(f"senders.{name}: an idempotent ledger does not reject")
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            is_idempotent=settings.is_idempotent,
            has_receipts=bool(settings.proof),
            receipt_within_s=settings.receipt_within_s,
        )
        self._file = -1

    async def open(self) -> None:
        """Open the file, or the pipe, whose reader must be there already."""
        self._file = os.open(self.settings.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def send(self, message: OutboundMessage) -> Outcome:
        """Write the call down, then answer."""
        word = self._word(message)
        line = {
            "sender": self.name,
            "message_id": message.message_id,
            "to": message.to,
            "text": message.text,
            "try": message.try_number,
            "answer": word,
            "at_ns": time.time_ns(),
            "pid": os.getpid(),
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")
        if self.settings.delay_s:
            await asyncio.sleep(self.settings.delay_s)
        match word:
            case "accepted":
                return Accepted(provider_id=f"{self.name}-{message.message_id}")
            case "rejected":
                return Rejected(RejectionKind.UNAVAILABLE)
            case "retry_later":
                return RetryLater(self.settings.after_s)
            case "unknown":
                return Unknown("told to")
            case "hang":
                await asyncio.Event().wait()
                return Unknown("unreachable")

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Read a list of receipts from whoever knows the proof."""
        if not self.settings.proof:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED)
        if not hmac.compare_digest(request.headers.get("x-proof", "").encode(), self.settings.proof.encode()):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC)
        try:
            told = msgspec.json.decode(request.body, type=list[Said])
        except msgspec.MsgspecError:
            return ReceiptRefusal(RefusalKind.MALFORMED)
        return Receipts(
            tuple(
                Receipt(
                    status=said.status,
                    message_id=said.message_id,
                    provider_id=said.provider_id,
                    kind=RejectionKind.UNDELIVERABLE if said.status is ReceiptStatus.FAILED else None,
                )
                for said in told
            ),
            b"{}",
        )

    def _word(self, message: OutboundMessage) -> Word:
        if self.settings.down and Path(self.settings.down).exists():
            return "rejected"
        answers = self.settings.answers
        return answers[zlib.crc32(f"{message.message_id} {message.try_number}".encode()) % len(answers)]
