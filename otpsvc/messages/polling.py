"""Asks gateways about messages that they took and say nothing about: for senders whose receipts come late or never.

What is due is claimed in the store, so that any number of workers ask once. What a gateway answers goes the way of
every receipt. Nothing in here knows what a receipt changes.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from otpsvc.clock import Clock
from otpsvc.faults import described
from otpsvc.messages.ports import ReceiptBook
from otpsvc.messages.receipts import LAST_WORDS
from otpsvc.senders.contract import Receipt, Sender, SentMessage

MOST_AT_ONCE = 50
POLL_TIMEOUT_S = 15.0
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0

_log = logging.getLogger(__name__)


class TakesReceipts(Protocol):
    """Who is told what gateways answer."""

    async def take(self, sender: str, receipts: Sequence[Receipt]) -> None:
        """Take receipts; raises ApiError SERVICE_UNAVAILABLE where they could not be kept."""
        ...


async def run_polling(
    book: ReceiptBook, receipts: TakesReceipts, senders: Mapping[str, Sender[Any]], stop: asyncio.Event, clock: Clock
) -> None:
    """Ask the gateways of all senders with `polls_every_s` until `stop` is set.

    Faults of the store and of gateways are waited out, and a sender that hangs slows no other. What is under way at
    `stop` is cut off; it is asked again when its claim has run out.
    """
    loops = [
        asyncio.create_task(_Poller(book, receipts, sender, every_s, clock).run())
        for sender in senders.values()
        if (every_s := sender.capabilities.polls_every_s) is not None
    ]
    stopping = asyncio.create_task(stop.wait())
    try:
        # A loop that ends has a fault of its own, which is raised below.
        await asyncio.wait({stopping, *loops}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, *loops):
            task.cancel()
        await asyncio.gather(stopping, *loops, return_exceptions=True)
    for loop in loops:
        if not loop.cancelled():
            loop.result()


class _Poller:
    def __init__(
        self, book: ReceiptBook, receipts: TakesReceipts, sender: Sender[Any], every_s: float, clock: Clock
    ) -> None:
        self._book = book
        self._receipts = receipts
        self._sender = sender
        self._every_s = every_s
        self._clock = clock
        self._abandoned: set[asyncio.Task[Sequence[Receipt]]] = set()

    async def run(self) -> None:
        n_failures = 0
        while True:
            began_at = self._clock.monotonic()
            try:
                is_more = await self._poll_once()
                n_failures = 0
            except Exception as error:  # noqa: BLE001 - polling outlives whatever a store or a stranger's sender does
                is_more = False
                n_failures += 1
                if n_failures == 1:
                    _log.warning("sender %s: polling failed, trying on: %s", self._sender.name, described(error))
            # Also where more is due: a gateway that asks to be left alone, or is away, tells a sender to stop early.
            pause_s = _MIN_PAUSE_S if is_more else _pause_s(self._every_s)
            pause_s = min(pause_s * 2.0 ** min(n_failures, 4), _MAX_PAUSE_S)
            await asyncio.sleep(max(_MIN_PAUSE_S, pause_s - (self._clock.monotonic() - began_at)))

    async def _poll_once(self) -> bool:
        """Ask about what is due; True if more may be."""
        due = await self._book.due_polls(self._sender.name, limit=MOST_AT_ONCE, again_in_s=self._every_s)
        if not due:
            return False
        told = await self._ask(due)
        if told:
            await self._receipts.take(self._sender.name, told)
        ended = {one.message_id for one in told if one.status in LAST_WORDS}
        if over := [message for message in due if message.message_id in ended]:
            await self._book.end_polls(self._sender.name, over)
        return len(due) == MOST_AT_ONCE

    async def _ask(self, due: Sequence[SentMessage]) -> list[Receipt]:
        """Return what the gateway says about these and no others; raises what the sender raises."""
        # Those of one poll come up together again. In any fixed order a gateway that is slow, or that has no answer
        # about one of them, would keep the rest from ever being asked about.
        task = asyncio.create_task(_poll(self._sender, random.sample(due, len(due))))
        try:
            await asyncio.wait({task}, timeout=POLL_TIMEOUT_S)
        finally:
            if not task.done():
                self._abandoned.add(task)
                task.add_done_callback(self._forget)
                task.cancel()
        if not task.done() or task.cancelled():
            raise TimeoutError
        ours = {message.message_id: message for message in due}
        theirs = {message.provider_id: message for message in due if message.provider_id}
        return [
            msgspec.structs.replace(one, message_id=message.message_id)
            for one in task.result()
            if (message := ours.get(one.message_id or "") or theirs.get(one.provider_id or ""))
        ]

    def _forget(self, task: "asyncio.Task[Sequence[Receipt]]") -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("sender %s: an abandoned poll ended: %s", self._sender.name, described(error))


async def _poll(sender: Sender[Any], due: Sequence[SentMessage]) -> Sequence[Receipt]:
    try:
        return await sender.poll(due)
    except SystemExit:
        # The event loop would end the process with it.
        raise RuntimeError("the sender asked to exit") from None


def _pause_s(every_s: float) -> float:
    """Look more often than a message is to be asked about: they fall due at any time."""
    return min(max(every_s / 4, _MIN_PAUSE_S), _MAX_PAUSE_S)
