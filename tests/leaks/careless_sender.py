"""A sender as careless as they come: it repeats number and text in everything that the contract lets it say.

It is installed as a stranger's distribution (`tests.leaks.stack`), so this file must import nothing of the tests. What
it does is chosen by the last two digits of the number. Before all else it writes the message down in the ledger, from
which the test learns the code as a person does.
"""

import asyncio
import json
import logging
import os
import re

import msgspec

from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    SenderContext,
    Unknown,
)

HABITS = (
    "accepts",
    "accepts slowly",
    "names it after the number",
    "names it after the code",
    "rejects with the text",
    "rejects with the number in groups",
    "asks to come later",
    "raises the text",
    "raises a chain",
    "does not know",
    "spells the code",
    "hangs",
    "leaves a task that fails",
    "answers with the text",
    "logs the text",
)

_log = logging.getLogger("careless")


class CarelessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`ledger` is the file to write every message to."""

    ledger: str


class CarelessSender(Sender[CarelessSettings]):
    """Delivers into the ledger."""

    Settings = CarelessSettings
    capabilities = Capabilities(channels=frozenset({Channel.SMS}))

    def __init__(self, name: str, settings: CarelessSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self._tasks: set[asyncio.Task[None]] = set()
        self._file = -1

    async def open(self) -> None:
        """Open the ledger."""
        self._file = os.open(self.settings.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def close(self) -> None:
        """Close it."""
        if self._file >= 0:
            os.close(self._file)

    async def send(self, message: OutboundMessage) -> Outcome:
        """Write it down, then do what this number is for."""
        line = {"message_id": message.message_id, "to": message.to, "text": message.text}
        os.write(self._file, json.dumps(line).encode() + b"\n")
        return await self._answer(HABITS[int(message.to[-2:]) % len(HABITS)], message)

    async def _answer(self, habit: str, message: OutboundMessage) -> Outcome:
        to, text = message.to, message.text
        code = "".join(re.findall(r"\d{6,}", text))
        answers: dict[str, Outcome | str] = {
            "names it after the number": Accepted(provider_id=f"{to}-1"),
            "names it after the code": Accepted(provider_id=f"id:{code}"),
            "rejects with the text": Rejected(RejectionKind.GATEWAY_ERROR, f"cannot send {text!r} to {to}"),
            "rejects with the number in groups": Rejected(RejectionKind.BLOCKED, f"0{to[3:7]} {to[7:10]} {to[10:]}"),
            "does not know": Unknown(f"no answer for {to[1:]}"),
            "spells the code": Unknown(" ".join(code)),
            "answers with the text": text,
        }
        if habit == "asks to come later" and message.try_number == 1:
            return RetryLater(0.2, f"{to} is busy: {text}")
        await self._stumble(habit, text, to)
        return answers.get(habit, Accepted(provider_id=message.message_id))  # type: ignore[return-value]  # a stranger's mistake

    async def _stumble(self, habit: str, text: str, to: str) -> None:
        match habit:
            case "accepts slowly":
                await asyncio.sleep(0.3)
            case "raises the text":
                raise RuntimeError(f"{to}: {text}")
            case "raises a chain":
                _fail(text, to)
            case "hangs":
                await _hang(text)
            case "leaves a task that fails":
                self._tasks.add(asyncio.create_task(self._fail_late(text)))
            case "logs the text":
                _confess(text, to)

    async def _fail_late(self, text: str) -> None:
        await asyncio.sleep(0.01)
        self._tasks.clear()
        raise RuntimeError(text)


def _fail(text: str, to: str) -> None:
    try:
        int(text)
    except ValueError as error:
        error.add_note(f"while sending to {to}")
        raise KeyError(text) from error


async def _hang(text: str) -> None:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        raise ConnectionError(f"given up: {text}") from None


def _confess(text: str, to: str) -> None:
    _log.warning("sending %s to %s", text, to)
    logging.getLogger("otpsvc.senders.careless").info("sending %s", {"to": to, "text": text})
    try:
        int(text)
    except ValueError:
        _log.exception("not sent to %s", to)
