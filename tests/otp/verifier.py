"""A gateway that makes its own codes, as a sender in the tests, and OTPs whose message it took."""

import asyncio
from collections import Counter
from typing import Any

from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    CheckOutcome,
    NoSettings,
    OutboundMessage,
    Outcome,
    Sender,
    SentMessage,
)
from otpsvc.testing import sender_context
from tests.otp.house import House

THEIR_CODE, WRONG = "424242", ("131313", "141414", "151515", "161616")


class Verifier(Sender[NoSettings]):
    """A gateway that made THEIR_CODE; `answers` go before its own judgement, `asked` is what it was asked."""

    capabilities = Capabilities(channels=frozenset({Channel.SMS}), owns_code=True)

    def __init__(self) -> None:
        super().__init__("verifier", NoSettings(), sender_context())
        self.asked: list[str] = []
        self.answers: list[CheckOutcome | BaseException] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, message: OutboundMessage) -> Outcome:
        return Accepted("session 1")

    async def check(self, message: SentMessage, code: str) -> CheckOutcome:
        assert message.provider_id == "session 1"
        self.asked.append(code)
        await self.gate.wait()
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer
        return CheckOutcome.RIGHT if code == THEIR_CODE else CheckOutcome.WRONG


async def delegated(house: House, **policy: Any) -> tuple[str, str]:
    """Send a code through the gateway; return the OTP and our own code, which the person never saw."""
    sent, code = await house.send_with_code(house.caller(**policy))
    await carried(house)
    return sent.otp_id, code


async def carried(house: House, sender: str = "verifier") -> None:
    (claimed,) = (await house.queue.claim(limit=1, lease_s=30)).messages
    assert (claimed.code_length, claimed.max_attempts) == (6, 3)
    assert await house.queue.begin(claimed.message_id, claimed.token, sender=sender)
    assert await house.queue.record_sent(claimed.message_id, claimed.token, sender=sender, provider_id="session 1")


async def names(house: House) -> Counter[str]:
    entries = await house.raw.xrange(house.keys.partitions[0].events)
    return Counter(fields[b"event"].decode() for _, fields in entries)


async def until_asked(verifier: Verifier, times: int = 1) -> None:
    """Wait until so many questions were put to the gateway."""
    async with asyncio.timeout(20):
        while len(verifier.asked) < times:  # noqa: ASYNC110 - the question is what is waited for
            await asyncio.sleep(0.01)
