"""What every sender that asks about single messages owes a gateway that turns it away."""

from typing import Any, Protocol

from otpsvc.senders.contract import Channel, Sender, SentMessage

UNWELCOME = (401, 403, 429, 503)


class Door(Protocol):
    """A gateway's double that can turn every request away."""

    turns_away_with: int | None
    requests: list[Any]


async def assert_a_poll_stops(sender: Sender[Any], double: Door, status: int) -> None:
    """Forty messages, and hardly more questions than are under way at once: the answer is true of all of them."""
    double.turns_away_with = status
    messages = [
        SentMessage(message_id=f"msg_{n:026d}", provider_id=f"id-{n}", channel=Channel.SMS, sent_at=0.0)
        for n in range(40)
    ]
    assert await sender.poll(messages) == []
    assert len(double.requests) <= 4
