"""What the conformance suite stands on: the scene an author sets, the hooks that fit a gateway, and watched calls.

Nothing here knows one gateway. What an author must give is `scene` and `accepted_texts`; everything else has a default.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar

from otpsvc.ids import new_message_id
from otpsvc.senders.contract import (
    Channel,
    OutboundMessage,
    Outcome,
    ReceiptRequest,
    Sender,
    SentMessage,
)
from otpsvc.testing.discretion import breach, listening, secrets_in
from otpsvc.testing.gateways import Fault, GatewayDouble
from otpsvc.testing.senders import outbound_message
from otpsvc.testing.shapes import misshapen

__all__ = ("Fault", "Scene", "Stage", "fail", "must")

T = TypeVar("T")

_GRACE_S = 1.0


class Scene(NamedTuple):
    """An opened sender and the double it calls."""

    sender: Sender[Any]
    gateway: GatewayDouble


class Stage:
    """The hooks of a suite, and how it calls a sender.

    `faults` are those that a gateway of this kind can show. `patience_s` bounds every single call: give the sender a
    time-out of about a second in `scene`, so that the suite stays quick. `receipts_come_otherwise` says that receipts
    come over a connection of the sender's own, so that there is no request to show.
    """

    faults: ClassVar[Sequence[Fault]] = tuple(Fault)
    patience_s: ClassVar[float] = 20.0
    receipts_come_otherwise: ClassVar[bool] = False

    def scene(self) -> AbstractAsyncContextManager[Scene]:
        """Give an opened sender on its double, both fresh; override."""
        raise NotImplementedError("override `scene`: an opened sender on its double")

    async def accepted_texts(self, scene: Scene) -> list[str]:
        """Give the texts of all messages that the double took to send, in order, as a person would read them; override.

        A gateway that owns the code has no text of ours: give one entry per message, whatever it holds.
        """
        raise NotImplementedError("override `accepted_texts`: what the double took as messages to send")

    def receipts_for(
        self,
        scene: Scene,  # noqa: ARG002 - for those who override it
        message: OutboundMessage,  # noqa: ARG002 - for those who override it
        provider_id: str | None,  # noqa: ARG002 - for those who override it
    ) -> list[ReceiptRequest]:
        """Give genuine receipt requests about a message that was accepted, each proven as the gateway does it."""
        return []

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:  # noqa: ARG002 - for those who override it
        """Give a request that proves this body as the gateway would; None where no proof covers the body."""
        return None

    def odd_failure_for(
        self,
        scene: Scene,  # noqa: ARG002 - for those who override it
        message: OutboundMessage,  # noqa: ARG002 - for those who override it
        provider_id: str | None,  # noqa: ARG002 - for those who override it
    ) -> ReceiptRequest | None:
        """Give a genuine request that tells a failure under a code that nobody knows; None where failures have none."""
        return None

    async def refuse_next(self, scene: Scene) -> bool:  # noqa: ARG002 - for those who override it
        """Let the double refuse the next message in the gateway's own words; False where it has none."""
        return False

    def message(
        self, scene: Scene, number: int = 0, *, text: str | None = None, life_s: float = 300.0
    ) -> OutboundMessage:
        """Make a message; those of different `number` go to different people with different texts."""
        channels = scene.sender.capabilities.channels
        return outbound_message(
            message_id=new_message_id(partition=0).text,
            to=f"+336123456{number:02d}",
            text=f"{583920 + number} is your code. Do not share it." if text is None else text,
            channel=Channel.SMS if Channel.SMS in channels else min(channels),
            life_s=life_s,
            now=scene.sender.context.clock.time(),
        )

    def carries_number(self, scene: Scene, message: OutboundMessage) -> bool:
        """Say whether the double was told the number; override where it does not stand in a request in plain digits."""
        digits = message.to[1:]
        return any(digits in _without_marks(f"{r.path} {r.query} {r.body!r}") for r in scene.gateway.requests)

    def twin_of(self, sender: Sender[Any], settings: Any = None) -> Sender[Any]:
        """Make a second sender like this one, not opened, with other settings if they are given."""
        return type(sender)(sender.name, settings if settings is not None else sender.settings, sender.context)

    async def send(self, scene: Scene, message: OutboundMessage) -> Outcome:
        """Send as a worker does: bounded, and listening to what is said meanwhile."""
        with listening() as heard:
            outcome = await self.within(scene.sender.send(message), "send")
        must(isinstance(outcome, Outcome), f"send answered {type(outcome).__name__}, which is no outcome")
        secrets = secrets_in(scene.sender.settings)
        for what, said in (
            ("the outcome", outcome),
            ("a log line", heard.logged),
            ("what it printed", "".join(heard.printed)),
            ("repr(sender)", scene.sender),
        ):
            given_away = breach(said, message, secrets)
            must(given_away is None, f"{what} gives away {given_away}")
        fault = misshapen(outcome)
        must(fault is None, f"{type(outcome).__name__}: {fault}")
        return outcome

    async def within(self, work: Coroutine[Any, Any, T], what: str) -> T:
        """Await work that may not take longer than the suite's patience, nor outlive it."""
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=self.patience_s)
        if not done:
            task.cancel()
            await asyncio.wait({task}, timeout=_GRACE_S)
            fail(f"{what} did not end within {self.patience_s:g} s")
        return task.result()

    def sent(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> SentMessage:
        """Describe a message that was accepted."""
        return SentMessage(
            message_id=message.message_id,
            provider_id=provider_id,
            channel=message.channel,
            sent_at=scene.sender.context.clock.time(),
            client_id=message.client_id,
            mode=message.mode,
        )


def must(is_so: bool, words: str) -> None:
    """Fail with these words unless it is so; an `assert` would say nothing outside a file of tests."""
    if not is_so:
        fail(words)


def fail(words: str) -> NoReturn:
    """Fail with these words."""
    raise AssertionError(words)


def _without_marks(text: str) -> str:
    return text.translate({ord(mark): None for mark in " -()."})
