"""Senders that talk too much, or do not live well with others: found by the conformance suite, every one."""

import asyncio
import json
import logging
from typing import ClassVar

import httpcore2
import msgspec

from otpsvc.senders.contract import (
    Accepted,
    Health,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    SenderContext,
    Unknown,
)
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from tests.senders.mutants import Mutant
from tests.senders.sample.otpsvc_sample.sender import SampleSettings

# What LeavesItsConnections left: whoever lets it play has to close them.
left_open: list[httpcore2.AsyncConnectionPool] = []

# Gives things away


class SaysTheText(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        await super().send(message)
        return Unknown(f"no answer to {message.text!r}")


class SaysTheNumber(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        await super().send(message)
        return Accepted(f"0{message.to[3:]}-1")


class SaysTheCode(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        await super().send(message)
        return Accepted(message.text[:6])


class SaysTheToken(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        await super().send(message)
        return Unknown(f"Bearer {self.settings.token.reveal()}")


class LogsTheRequest(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        logging.getLogger("stranger").debug("posting %s", json.dumps(self.body(message)))
        return await super().send(message)


class PrintsTheText(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        print("sending", message.text)  # noqa: T201 - the fault itself
        return await super().send(message)


class LogsPastTheRoot(Mutant):
    log = logging.getLogger("stranger.aside")
    log.propagate = False
    log.addHandler(logging.NullHandler())

    async def send(self, message: OutboundMessage) -> Outcome:
        self.log.info("to %s", message.to)
        return await super().send(message)


class LogsTheTextBesides(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        logging.getLogger("stranger").info("posting", extra={"sent": self.body(message)})
        return await super().send(message)


class PrintsItsToken(Mutant):
    def __repr__(self) -> str:
        return f"<{self.name} {self.settings.token.reveal()}>"


# Does not live well with others


class NeedsItsGatewayToOpen(Mutant):
    async def open(self) -> None:
        await super().open()
        await self._client.request("GET", f"{self._base}/account", bearer=self.settings.token.reveal())


class LeavesItsConnections(Mutant):
    async def close(self) -> None:
        """Forget the pool without a word to it."""
        pool, self._client._pool = self._client._pool, None
        left_open.extend([pool] if pool is not None else [])
        await super().close()


class LeavesATask(Mutant):
    watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await super().open()
        self.watching = asyncio.ensure_future(asyncio.sleep(30))


class HasOneClientForAll(Mutant):
    client: ClassVar[GatewayClient]

    async def open(self) -> None:
        await super().open()
        HasOneClientForAll.client = self._client

    async def post(self, message: OutboundMessage) -> GatewayAnswer:
        return await self.client.request(
            "POST", f"{self._base}/messages", json=self.body(message), bearer=self.settings.token.reveal()
        )

    async def send(self, message: OutboundMessage) -> Outcome:
        try:
            answer = await self.post(message)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        return Accepted() if answer.is_success else Unknown()


class HasOneTokenForAll(Mutant):
    token: ClassVar[str]

    def __init__(self, name: str, settings: SampleSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        HasOneTokenForAll.token = settings.token.reveal()

    async def send(self, message: OutboundMessage) -> Outcome:
        answer = await self._client.request(
            "POST", f"{self._base}/messages", json=self.body(message), bearer=self.token
        )
        return Accepted() if answer.is_success else Rejected(RejectionKind.UNAUTHORISED)


class LearnsIntoItsSettings(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        msgspec.structs.force_setattr(self.settings, "origin", "Learnt")
        return await super().send(message)


class ClosesOnce(Mutant):
    is_closed = False

    async def close(self) -> None:
        await super().close()
        if self.is_closed:
            raise RuntimeError("closed already")
        self.is_closed = True


class ClosesOnlyWhatIsOpen(Mutant):
    is_open = False

    async def open(self) -> None:
        self.is_open = True
        await super().open()

    async def close(self) -> None:
        if not self.is_open:
            raise RuntimeError("never opened")
        await super().close()


class HasNoHealth(Mutant):
    async def health(self) -> Health:
        (await self._client.request("GET", f"{self._base}/account")).json()
        return Health(is_ready=True)


def settings_that_print(settings: SampleSettings) -> SampleSettings:
    class Loud(SampleSettings, frozen=True, kw_only=True):
        def __repr__(self) -> str:
            return f"Loud({self.token.reveal()})"

    return Loud(**msgspec.structs.asdict(settings))
