"""The gateways' side of the ledger: what they say later about what they took, at the worst moments.

Receipts come before the call was answered, late, twice, out of order, contradict each other, are forged, name the
message by its one id or the other, and are brought again until somebody has taken them. All that was said is kept.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, Self

from tests.chaos.calls import Line, LostAnswer, NobodyThere
from tests.chaos.ledger import HANDED, Ledger, LedgerLine

PROOF = "only-the-gateway-knows-this"
_POLL_S = 0.01
_PAUSE_S = 0.05
_LONGEST_S = 60.0

Name = Literal["ours", "theirs", "both"]

# What a gateway says of one message: after how many seconds, counted from when it took it, and what. The first of
# each often comes before the call is answered.
Plan = tuple[tuple[float, str], ...]
PLANS: tuple[Plan, ...] = (
    (),
    (),
    ((0, "delivered"),),
    ((0, "delivered"), (0, "delivered")),
    ((0, "accepted"),),
    ((0, "sent"), (0.5, "delivered"), (0.6, "delivered")),
    ((0.2, "delivered"), (0.4, "sent"), (0.5, "accepted")),
    ((0.3, "accepted"), (0.6, "sent")),
    ((3.5, "delivered"),),
    ((0, "failed"),),
    ((0.3, "failed"), (0.3, "failed")),
    ((0.2, "sent"), (0.7, "failed")),
    ((0.1, "failed"), (0.8, "delivered")),
    ((3.0, "failed"),),
)
NAMES: tuple[Name, ...] = ("ours", "ours", "theirs", "both")


@dataclass
class Telling:
    """One receipt. `status` of its answer is 0 until one came."""

    sender: str
    message_id: str
    said: str
    name: Name
    is_forged: bool = False
    status: int = 0


class Gateways:
    """Brings receipts for whatever stands in the ledger, for the body of an `async with` and until all are brought."""

    def __init__(self, port: int, ledger: Ledger, *, seed: int) -> None:
        self.tellings: list[Telling] = []
        self._port = port
        self._ledger = ledger
        self._seed = seed
        self._known: set[tuple[str, str]] = set()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        read_to = 0
        async with asyncio.TaskGroup() as tasks:
            while not self._stop.is_set():
                self._ledger.refresh()
                for line in self._ledger.lines[read_to:]:
                    self._begin(tasks, line)
                read_to = len(self._ledger.lines)
                await asyncio.sleep(_POLL_S)

    def _begin(self, tasks: asyncio.TaskGroup, line: LedgerLine) -> None:
        """A gateway speaks once of each message, however often it was given it."""
        if line.answer in HANDED and (line.sender, line.message_id) not in self._known:
            self._known.add((line.sender, line.message_id))
            dice = random.Random(f"{self._seed} {line.sender} {line.message_id}")
            tasks.create_task(self._tell(line, dice.choice(PLANS), dice.choice(NAMES)))
            if dice.random() < 0.1:
                said = dice.choice(("delivered", "failed"))
                tasks.create_task(self._bring(Telling(line.sender, line.message_id, said, "ours", is_forged=True)))

    async def _tell(self, line: LedgerLine, plan: Plan, name: Name) -> None:
        waited_s = 0.0
        brought: list[Awaitable[None]] = []
        for at_s, said in plan:
            await asyncio.sleep(at_s - waited_s)
            waited_s = at_s
            telling = Telling(line.sender, line.message_id, said, name)
            # What was not taken yet does not hold up what comes after it.
            brought.append(asyncio.create_task(self._bring(telling)))
            await asyncio.sleep(0)
        await asyncio.gather(*brought)

    async def _bring(self, telling: Telling) -> None:
        """Bring it again until it is taken or refused, as gateways do, though not for days."""
        self.tellings.append(telling)
        proof = "guessed" if telling.is_forged else PROOF
        names = {"message_id": telling.message_id} if telling.name != "theirs" else {}
        if telling.name != "ours":
            names["provider_id"] = f"{telling.sender}-{telling.message_id}"
        line = Line(self._port, {"X-Proof": proof}, timeout_s=3.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_S):
                while telling.status in {0, 503}:
                    with contextlib.suppress(LostAnswer, NobodyThere):
                        body = [{"status": telling.said, **names}]
                        telling.status = (await line.call("POST", f"/receipts/{telling.sender}", body)).status
                    if telling.status in {0, 503}:
                        await asyncio.sleep(_PAUSE_S)
        line.close()
