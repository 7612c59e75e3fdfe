"""Senders that are wrong in one way each, made from the sample; the conformance suite must find every one of them."""

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    OutboundMessage,
    Outcome,
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.http_client import GatewayAnswer, NoAnswer, NotSent, outcome_of
from tests.senders.sample.otpsvc_sample.sender import SampleSender, SampleSettings

Change = Callable[[OutboundMessage], OutboundMessage]


def able(**changed: Any) -> Capabilities:
    return msgspec.structs.replace(SampleSender.capabilities, **changed)


class Mutant(SampleSender):
    """Sends as the sample does, with the places to go wrong in."""

    def body(self, message: OutboundMessage) -> dict[str, object]:
        return {
            "reference": message.message_id,
            "from": self.settings.origin,
            "to": message.to,
            "text": message.text,
            "valid_for": int(message.life_s),
        }

    async def post(self, message: OutboundMessage) -> GatewayAnswer:
        return await self._client.request(
            "POST", f"{self._base}/messages", json=self.body(message), bearer=self.settings.token.reveal()
        )


# Lies about what became of a message


class CallsEverythingAccepted(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        return outcome if isinstance(outcome, Accepted) else Accepted("g-1")


class CallsAnyAnswerAccepted(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        try:
            await self.post(message)
        except (NotSent, NoAnswer):
            return Unknown()
        return Accepted()


class RejectsAfterAHang(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        return Rejected(RejectionKind.UNAVAILABLE) if isinstance(outcome, Unknown) else outcome


class WantsToTryAgainWhatWasTaken(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        is_status = isinstance(outcome, Unknown) and outcome.detail.startswith("status 5")
        return RetryLater(1.0) if is_status else outcome


class CallsARefusedConnectionUnknown(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        is_refused = isinstance(outcome, RetryLater) and outcome.detail != "status 429"
        return Unknown() if is_refused else outcome


class CutsThePauseShort(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        return RetryLater(1.0) if isinstance(outcome, RetryLater) else outcome


class AcceptsBeforeItSends(Mutant):
    under_way: asyncio.Task[Outcome] | None = None

    async def send(self, message: OutboundMessage) -> Outcome:
        self.under_way = asyncio.ensure_future(super().send(message))
        return Accepted()


class ForgetsTheFault(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        return RetryLater(outcome.after_s) if isinstance(outcome, RetryLater) else outcome


class GivesTheIdOfTheOneBefore(Mutant):
    before: str | None = None

    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        if not isinstance(outcome, Accepted):
            return outcome
        given, self.before = self.before, outcome.provider_id
        return Accepted(given)


class GivesANumberForAnId(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        return Accepted(7) if isinstance(outcome, Accepted) else outcome  # type: ignore[arg-type]  # the lie itself


class GivesAWordForAKind(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        return Rejected("blocked") if isinstance(outcome, Rejected) else outcome  # type: ignore[arg-type]  # the lie


class AsksToBeAskedNever(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        return RetryLater(math.inf, is_fault=True) if isinstance(outcome, RetryLater) else outcome


class AnswersNothing(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        await super().send(message)
        return None  # type: ignore[return-value]  # the lie itself


# Hangs, throws, blocks


class HangsForEver(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        if isinstance(outcome, Unknown):
            await asyncio.Event().wait()
        return outcome


class IgnoresCancellation(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        sending = asyncio.ensure_future(super().send(message))
        end_at = time.monotonic() + 3
        while not sending.done() and time.monotonic() < end_at:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        await asyncio.sleep(1.5)
        return await sending


class SwallowsCancellation(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        try:
            return await super().send(message)
        except asyncio.CancelledError:
            return Unknown("cancelled")


class Throws(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        answer = await self.post(message)
        return Accepted(answer.json()["id"])  # type: ignore[index]  # None where it is not JSON: it throws


class BlocksTheLoop(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        time.sleep(0.1)  # noqa: ASYNC251 - the fault itself
        return await super().send(message)


class BlocksOnABadDay(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        if isinstance(outcome, RetryLater):
            time.sleep(1.5)  # noqa: ASYNC251 - the fault itself
        return outcome


class DiesOfACancelledCall(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        try:
            return await super().send(message)
        except asyncio.CancelledError:
            await self.close()
            raise


# Sends more, less, or something else


class SendsTwice(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        await super().send(msgspec.structs.replace(message, message_id=f"msg_{uuid.uuid4().hex}"))
        return await super().send(message)


class RepeatsInside(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        return await super().send(message) if isinstance(outcome, Unknown | RetryLater) else outcome


class RepeatsUnderAnotherName(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        if not isinstance(outcome, Unknown):
            return outcome
        return await super().send(msgspec.structs.replace(message, message_id=f"msg_{uuid.uuid4().hex}"))


class RepeatsAWhileLater(Mutant):
    later: asyncio.Task[Outcome] | None = None

    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        if isinstance(outcome, Unknown | RetryLater):
            self.later = asyncio.ensure_future(self.again(message))
        return outcome

    async def again(self, message: OutboundMessage) -> Outcome:
        await asyncio.sleep(0.2)
        return await super().send(msgspec.structs.replace(message, message_id=f"msg_{uuid.uuid4().hex}"))


class KeepsForBetterDays(Mutant):
    """Takes what it could not hand over along with the next one."""

    def __init__(self, name: str, settings: SampleSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self.kept: list[OutboundMessage] = []

    async def send(self, message: OutboundMessage) -> Outcome:
        outcome = await super().send(message)
        if isinstance(outcome, RetryLater):
            self.kept.append(message)
        while isinstance(outcome, Accepted) and self.kept:
            await super().send(self.kept.pop())
        return outcome


class FollowsRedirects(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        try:
            answer = await self.post(message)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        if answer.status == 302:
            with contextlib.suppress(NotSent, NoAnswer):
                await self._client.request("GET", answer.headers["location"])
            return Rejected(RejectionKind.MISCONFIGURED)
        return Accepted() if answer.is_success and answer.json() else Unknown()


class MixesMessages(Mutant):
    async def send(self, message: OutboundMessage) -> Outcome:
        self.message = message
        await asyncio.sleep(0.01)
        return await super().send(self.message)


class CutsTheText(Mutant):
    def body(self, message: OutboundMessage) -> dict[str, object]:
        return super().body(message) | {"text": message.text[:160]}

    async def send(self, message: OutboundMessage) -> Outcome:
        answer = await self.post(message)
        return Accepted() if answer.is_success else Unknown()


class KnowsAsciiOnly(CutsTheText):
    def body(self, message: OutboundMessage) -> dict[str, object]:
        return super().body(message) | {"text": message.text.encode("ascii", "replace").decode()}


class SendsToOneNumber(CutsTheText):
    def body(self, message: OutboundMessage) -> dict[str, object]:
        return super().body(message) | {"text": message.text, "to": "+447911123987"}


# Claims what it does not keep


class IsNotIdempotent(CutsTheText):
    def body(self, message: OutboundMessage) -> dict[str, object]:
        return super().body(message) | {"reference": f"msg_{uuid.uuid4().hex}"}


class TellsNoEnd(CutsTheText):
    def body(self, message: OutboundMessage) -> dict[str, object]:
        return {key: value for key, value in super().body(message).items() if key != "valid_for"}


class TellsAlwaysTheSameEnd(CutsTheText):
    def body(self, message: OutboundMessage) -> dict[str, object]:
        return super().body(message) | {"valid_for": 300}


class TellsAnEndTooLate(CutsTheText):
    def body(self, message: OutboundMessage) -> dict[str, object]:
        return super().body(message) | {"valid_for": math.ceil(message.life_s) + 1}


class ClaimsReceiptsWithoutAny(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        return await super(SampleSender, self).parse_receipt(request)


class PromisesToCancel(Mutant):
    async def cancel(self, message: SentMessage) -> bool:
        return True


class CancelsInTheDark(Mutant):
    capabilities = able(can_cancel=True)

    async def cancel(self, message: SentMessage) -> bool:
        with contextlib.suppress(NotSent, NoAnswer):
            await self._client.request("DELETE", f"{self._base}/messages/{message.provider_id}")
        return True


class PollsWithWords(Mutant):
    capabilities = able(polls_every_s=5)

    async def poll(self, messages: Sequence[SentMessage]) -> list[Receipt]:
        return [
            Receipt(status="delivered", message_id=one.message_id)  # type: ignore[arg-type]  # the lie itself
            for one in messages
        ]


class PollsAtRandom(Mutant):
    capabilities = able(polls_every_s=5)

    async def poll(self, messages: object) -> list[Receipt]:
        return [Receipt(status=ReceiptStatus.DELIVERED, provider_id="g-1")]


class WaitsForReceiptsItHasNot(Mutant):
    capabilities = able(has_receipts=False)
