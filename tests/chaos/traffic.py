"""People and their applications: sends, guesses, resends and cancels of every kind, until an answer comes.

A caller behaves as docs/api.md tells it to: a lost answer or a 503 is asked again with the same Idempotency-Key. What
it was told goes into the journal and nowhere else; codes are learnt from the ledger, as a person learns them.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.chaos.calls import Answer, Line, LostAnswer, NobodyThere
from tests.chaos.journal import Journal, Operation
from tests.chaos.ledger import Ledger

_PAUSE_S = 0.05
_POLL_S = 0.02
FLOWS = ("verified", "wrong_then_right", "locked", "resent", "cancelled", "superseded", "raced", "abandoned")
_offsets = itertools.count(random.SystemRandom().randrange(50_000_000))


def new_number() -> str:
    """A French mobile number of its own: +33 61x and +33 62x are all valid."""
    return f"+336{10_000_000 + next(_offsets) % 20_000_000:08d}"


class Traffic:
    """Callers of one client, who go through `flows` at random.

    `patience_s` bounds how long an operation is asked again and a code is awaited, `timeout_s` one call.
    """

    def __init__(
        self,
        port: int,
        headers: dict[str, str],
        ledger: Ledger,
        *,
        seed: int,
        flows: Sequence[str] = FLOWS,
        patience_s: float = 20.0,
        timeout_s: float = 3.0,
    ) -> None:
        self.journal = Journal()
        self.patience_s = patience_s
        self.n_flows = 0
        self._port, self._headers, self._timeout_s = port, headers, timeout_s
        self._ledger = ledger
        self._random = random.Random(seed)
        self._stop = asyncio.Event()
        self._flows: list[Callable[[Line], Awaitable[None]]] = [getattr(self, name) for name in flows]

    async def run(self, *, callers: int) -> None:
        """Go through flow after flow with so many callers at once, until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(self._caller())

    def stop(self) -> None:
        """Let the flows under way end; no new one begins."""
        self._stop.set()

    def line(self) -> Line:
        """A connection of one's own."""
        return Line(self._port, self._headers, timeout_s=self._timeout_s)

    async def _caller(self) -> None:
        while not self._stop.is_set():
            # A connection a flow: the kernel spreads them anew over the processes that listen.
            line = self.line()
            try:
                await self._random.choice(self._flows)(line)
            finally:
                line.close()
            self.n_flows += 1

    # -- flows

    async def verified(self, line: Line) -> None:
        """A right guess; the same again under its key is the same, under another it is used up."""
        otp_id, code = await self._sent(line)
        if code is None:
            return
        guess = await self.guess(line, otp_id, code, is_right=True)
        if guess.answer is not None and self._random.random() < 0.3:
            await self._ask(line, guess, "POST", f"/v1/otp/{otp_id}/verify", {"code": code})
            await self.guess(line, otp_id, code, is_right=None)

    async def wrong_then_right(self, line: Line) -> None:
        otp_id, code = await self._sent(line)
        if code is not None:
            await self.guess(line, otp_id, wrong(code), is_right=False)
            await self.guess(line, otp_id, code, is_right=True)

    async def locked(self, line: Line) -> None:
        """Three wrong ones, and a right one that comes too late."""
        otp_id, code = await self._sent(line)
        if code is not None:
            for _ in range(3):
                await self.guess(line, otp_id, wrong(code), is_right=False)
            await self.guess(line, otp_id, code, is_right=None)

    async def resent(self, line: Line) -> None:
        otp_id, _ = await self._sent(line, waits=self._random.random() < 0.5)
        if not otp_id:
            return
        again = self.journal.begin("resend", otp_id=otp_id)
        answer = await self._ask(line, again, "POST", f"/v1/otp/{otp_id}/resend", {})
        if answer is not None and answer.status == 200:
            code = await self._code(answer.body["message_id"])
            if code is not None:
                await self.guess(line, otp_id, code, is_right=True)

    async def cancelled(self, line: Line) -> None:
        otp_id, code = await self._sent(line, waits=self._random.random() < 0.5)
        if not otp_id:
            return
        cancel = self.journal.begin("cancel", otp_id=otp_id)
        await self._ask(line, cancel, "DELETE", f"/v1/otp/{otp_id}")
        if code is not None:
            await self.guess(line, otp_id, code, is_right=None)

    async def superseded(self, line: Line) -> None:
        """Two sends to one number: the first code is dead, the second lives."""
        number = new_number()
        old_id, old_code = await self._sent(line, number)
        otp_id, code = await self._sent(line, number)
        if code is not None:
            if old_code is not None:
                await self.guess(line, old_id, old_code, is_right=None)
            await self.guess(line, otp_id, code, is_right=True)

    async def raced(self, line: Line) -> None:
        """The right code from three places at once: one of them wins."""
        otp_id, code = await self._sent(line)
        if code is None:
            return
        lines = [self.line() for _ in range(3)]
        try:
            async with asyncio.TaskGroup() as tasks:
                for one in lines:
                    tasks.create_task(self.guess(one, otp_id, code, is_right=True))
        finally:
            for one in lines:
                one.close()

    async def abandoned(self, line: Line) -> None:
        await self._sent(line, waits=False)

    # -- single operations

    async def send(self, line: Line, number: str | None = None, **body: Any) -> Operation:
        """Send a code; `otp_id` of the operation is set once it is told."""
        number = number or new_number()
        send = self.journal.begin("send", to=number)
        answer = await self._ask(line, send, "POST", "/v1/otp", {"to": number, **body})
        if answer is not None and answer.status == 200:
            send.otp_id = answer.body["otp_id"]
            if self._random.random() < 0.1:
                await self._ask(line, send, "POST", "/v1/otp", {"to": number, **body})
        return send

    async def guess(self, line: Line, otp_id: str, code: str, *, is_right: bool | None) -> Operation:
        """Guess once; the same guess is asked again until somebody answers."""
        guess = self.journal.begin("guess", otp_id=otp_id, is_right=is_right)
        await self._ask(line, guess, "POST", f"/v1/otp/{otp_id}/verify", {"code": code})
        return guess

    def code_now(self, message_id: str) -> str | None:
        """The code of a message that has arrived."""
        self._ledger.refresh()
        return self._ledger.code_of(message_id)

    async def _sent(self, line: Line, number: str | None = None, *, waits: bool = True) -> tuple[str, str | None]:
        send = await self.send(line, number)
        if send.answer is None or not send.otp_id:
            return "", None
        return send.otp_id, await self._code(send.answer.body["message_id"]) if waits else None

    async def _code(self, message_id: str) -> str | None:
        """Wait for a message to arrive; None if it never does."""
        give_up_at = time.monotonic() + self.patience_s
        while (code := self._ledger.code_of(message_id)) is None and time.monotonic() < give_up_at:
            await asyncio.sleep(_POLL_S)
            self._ledger.refresh()
        return code

    async def _ask(
        self, line: Line, operation: Operation, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Answer | None:
        give_up_at = time.monotonic() + self.patience_s
        key = operation.key if method == "POST" else None
        while True:
            try:
                answer = await line.call(method, path, body, key=key)
            except LostAnswer:
                operation.n_lost += 1
            except NobodyThere:
                pass
            else:
                operation.told.append(answer)
                if answer.status != 503:
                    return answer
            if time.monotonic() > give_up_at:
                return None
            await asyncio.sleep(_PAUSE_S)


def wrong(code: str) -> str:
    """Another code of the same length."""
    return code[:-1] + str((int(code[-1]) + 1) % 10)
