"""People in large numbers: each code is sent, delivered, and right, wrong, lost or abandoned as in life, at full speed.

Numbers are French mobiles, every one valid, some of them coming back. Codes come through a named pipe from the sender
in the worker, so that nothing piles up on a disk. What was told is counted, to be held against PostgreSQL.
"""

import asyncio
import json
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from otpsvc.otp.policy import PURPOSES
from tests.chaos.calls import Answer, Line
from tests.chaos.ledger import read_line
from tests.chaos.traffic import wrong

# +33 6x and 7x, each followed by seven digits: all of them valid.
_BLOCKS = (60, 61, 62, 64, 65, 66, 67, 68, 73, 74, 75, 76, 77, 78, 79)
_BLOCK = 10_000_000
_STEP = 61_803_399  # prime to the count of numbers, so that none comes twice
_COMES_BACK = 0.1
_REMEMBERED = 5000
_ARRIVES_WITHIN_S = 30.0

_FLOWS = (
    ("verified",) * 80 + ("corrected",) * 8 + ("locked",) * 4 + ("resent",) * 4 + ("cancelled",) * 2 + ("lost",) * 2
)


class Arrivals:
    """Messages as they come out of the pipe."""

    def __init__(self, pipe: Path) -> None:
        os.mkfifo(pipe, 0o600)
        # Open for both, so that it never ends when the last worker goes.
        self._file = os.fdopen(os.open(pipe, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0)
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._early: dict[str, str] = {}
        self._rest = b""
        asyncio.get_running_loop().add_reader(self._file, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._file)
        self._file.close()

    async def code(self, message_id: str) -> str:
        """Wait for a message and take its code; raises TimeoutError."""
        if (code := self._early.pop(message_id, None)) is not None:
            return code
        waiting = self._waiting[message_id] = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(waiting, _ARRIVES_WITHIN_S)
        finally:
            self._waiting.pop(message_id, None)

    def forget(self, message_id: str) -> None:
        """Nobody will ask for this one."""
        self._early.pop(message_id, None)

    def _read(self) -> None:
        whole, newline, self._rest = (self._rest + (self._file.read(65_536) or b"")).rpartition(b"\n")
        for text in whole.splitlines() if newline else ():
            line = read_line(text.decode())
            waiting = self._waiting.get(line.message_id)
            if waiting is None:
                self._early[line.message_id] = line.code
                # Those of cancelled and abandoned codes are not asked for.
                while len(self._early) > _REMEMBERED:
                    del self._early[next(iter(self._early))]
            elif not waiting.done():
                waiting.set_result(line.code)


class Load:
    """So many codes over so many callers. `told` counts by the event that a call must have left behind."""

    def __init__(self, new_line: Callable[[], Line], arrivals: Arrivals, *, n_codes: int, seed: int) -> None:
        self.n_done = 0
        self.told: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self._new_line = new_line
        self._arrivals = arrivals
        self._left = n_codes
        self._random = random.Random(seed)
        self._place = self._random.randrange(len(_BLOCKS) * _BLOCK)
        self._returning: deque[str] = deque(maxlen=_REMEMBERED)

    async def run(self, *, callers: int) -> None:
        """Go through all codes."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(self._caller())

    async def _caller(self) -> None:
        line = self._new_line()
        try:
            while self._left > 0:
                self._left -= 1
                await self._code(line)
                self.n_done += 1
        finally:
            line.close()

    async def _code(self, line: Line) -> None:
        flow = self._random.choice(_FLOWS)
        number = self._number()
        sent = await self._post(line, "/v1/otp", self._body(number), told="otp.sent")
        if sent is None:
            return
        otp_id, message_id = sent.body["otp_id"], sent.body["message_id"]
        if flow == "lost":
            return
        if flow == "cancelled":
            self._count(await line.call("DELETE", f"/v1/otp/{otp_id}"), "otp.cancelled")
            return
        if flow == "resent":
            again = await self._post(line, f"/v1/otp/{otp_id}/resend", {}, told="otp.resent")
            if again is None:
                return
            self._arrivals.forget(message_id)
            message_id = again.body["message_id"]
        try:
            code = await self._arrivals.code(message_id)
        except TimeoutError:
            self.unexpected["a message that did not arrive"] += 1
            return
        path = f"/v1/otp/{otp_id}/verify"
        for _ in range({"corrected": 1, "locked": 3}.get(flow, 0)):
            await self._post(line, path, {"code": wrong(code)}, told="otp.rejected")
        if flow != "locked":
            await self._post(line, path, {"code": code, "to": number}, told="otp.verified")
            self._returning.append(number)

    def _number(self) -> str:
        if len(self._returning) > 500 and self._random.random() < _COMES_BACK:
            place = self._random.randrange(len(self._returning))
            number = self._returning[place]
            del self._returning[place]
            return number
        self._place = (self._place + _STEP) % (len(_BLOCKS) * _BLOCK)
        return f"+33{_BLOCKS[self._place // _BLOCK]}{self._place % _BLOCK:07d}"

    def _body(self, number: str) -> dict[str, Any]:
        dice = self._random
        body: dict[str, Any] = {"to": number, "ttl_s": 60, "purpose": dice.choice(PURPOSES)}
        if dice.random() < 0.2:
            body["metadata"] = {"order": dice.randrange(10**9)}
        if dice.random() < 0.2:
            body["session"] = f"session-{dice.randrange(10**12)}"
        if dice.random() < 0.3:
            body["end_user_ip"] = f"10.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}"
        return body

    async def _post(self, line: Line, path: str, body: dict[str, Any], *, told: str) -> Answer | None:
        key = f"soak-{self._random.randrange(10**15)}" if self._random.random() < 0.25 else None
        answer = await line.call("POST", path, body, key=key)
        return answer if self._count(answer, told) else None

    def _count(self, answer: Answer, told: str) -> bool:
        is_it = answer.status == 200 and (
            "valid" not in answer.body or answer.body["valid"] is (told == "otp.verified")
        )
        if is_it:
            self.told[told] += 1
        else:
            self.unexpected[f"{told}: {answer.status} {answer.code} {json.dumps(answer.body.get('valid'))}"] += 1
        return is_it
