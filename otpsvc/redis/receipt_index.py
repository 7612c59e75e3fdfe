"""Which message a gateway's id names, receipts that came before that was known, and what gateways are asked about.

Decided in the scripts. Gateways' ids appear in names as hashes. What is parked about an id that is not known yet must
have no word of the gateway's own in it: no `detail`, and none of its ids either, which may be made of the code.
"""

import hashlib
import logging
from collections.abc import Sequence
from typing import TypeGuard

import msgspec

from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys
from otpsvc.senders.contract import Receipt, SentMessage

MOST_POLLS = 10_000
MOST_PARKED = 10_000  # ids; an account that others use too brings the receipts of all their messages
MOST_POLLS_AT_ONCE = 1000
LONGEST_POLL_PAUSE_S = 600.0
POLLED_PAST_END_S = 600.0  # a gateway that knows no end by then will hardly learn of one
_MAX_ID_LENGTH = 255

_log = logging.getLogger(__name__)


class _Noted(SentMessage, frozen=True, kw_only=True):
    """What is kept of a message under the gateway's id of it."""

    expires_at_ms: int


_decode_noted = msgspec.json.Decoder(_Noted).decode
_decode_receipt = msgspec.json.Decoder(Receipt).decode


class RedisReceiptIndex:
    """The part of `messages.ports.ReceiptBook` that knows gateways' ids."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def expect(
        self, sent: SentMessage, *, sender: str, expires_at_ms: int, poll_in_s: float | None
    ) -> Sequence[Receipt]:
        """Run `receipt_expect`. A message without an id that a receipt could name is not noted: () is returned."""
        if not _is_usable(sent.provider_id):
            return ()
        digest = _digest(sent.provider_id)
        status, parked = await self._client.run(
            "receipt_expect",
            {
                "sent": self._keys.sent(sender, digest),
                "parked": self._keys.parked(sender, digest),
                "polls": self._keys.polls(sender),
            },
            {
                "id": digest,
                "message_id": sent.message_id,
                "facts": msgspec.json.encode(_Noted(**msgspec.structs.asdict(sent), expires_at_ms=expires_at_ms)),
                "expires_at": expires_at_ms,
                "poll_in_ms": -1 if poll_in_s is None else _pause_ms(poll_in_s),
                "most_polls": MOST_POLLS,
            },
        )
        if status == "crowded":
            _log.info("sender %s is asked about too many messages: %s is left out", sender, sent.message_id)
        return [msgspec.structs.replace(_decode_receipt(receipt), provider_id=sent.provider_id) for receipt in parked]

    async def find_or_park(self, sender: str, receipt: Receipt) -> str | None:
        """Run `receipt_find_or_park`. A receipt without an id that could have been noted is not parked either."""
        if not _is_usable(receipt.provider_id):
            return None
        digest = _digest(receipt.provider_id)
        status, values = await self._client.run(
            "receipt_find_or_park",
            {
                "sent": self._keys.sent(sender, digest),
                "parked": self._keys.parked(sender, digest),
                "parking": self._keys.parking(sender),
            },
            {
                "id": digest,
                "receipt": msgspec.json.encode(_without_words(receipt)),
                "most_ids": MOST_PARKED,
                "parked_base": self._keys.parked(sender, ""),
            },
        )
        return _decode_noted(values[0]).message_id if status == "found" else None

    async def due_polls(self, sender: str, *, limit: int, again_in_s: float) -> Sequence[SentMessage]:
        """Run `polls_claim` for at most 1000 messages.

        Those whose code ended ten minutes ago are let go. No pause between two polls is longer than ten minutes.
        """
        _, claimed = await self._client.run(
            "polls_claim",
            {"polls": self._keys.polls(sender)},
            {
                "limit": min(limit, MOST_POLLS_AT_ONCE),
                "again_in_ms": _pause_ms(again_in_s),
                "longest_ms": _pause_ms(LONGEST_POLL_PAUSE_S),
                "past_end_ms": int(POLLED_PAST_END_S * 1000),
                "sent_base": self._keys.sent(sender, ""),
            },
            # What a lost answer held is due again soon; asking twice would hold as many again.
            is_repeatable=False,
        )
        return [_sent(noted) for noted in map(_decode_noted, claimed)]

    async def end_polls(self, sender: str, messages: Sequence[SentMessage]) -> None:
        """Run `polls_end`, as often as it takes."""
        pairs = [
            f"{_digest(message.provider_id)} {message.message_id}"
            for message in messages
            if _is_usable(message.provider_id)
        ]
        for start in range(0, len(pairs), MOST_POLLS_AT_ONCE):
            await self._client.run(
                "polls_end",
                {"polls": self._keys.polls(sender)},
                {
                    "ended": " ".join(pairs[start : start + MOST_POLLS_AT_ONCE]),
                    "sent_base": self._keys.sent(sender, ""),
                },
            )


def _is_usable(provider_id: str | None) -> TypeGuard[str]:
    """Say whether this can be a gateway's id: the same that a handover would believe."""
    return provider_id is not None and 0 < len(provider_id) <= _MAX_ID_LENGTH and provider_id.isprintable()


def _digest(provider_id: str) -> str:
    return hashlib.blake2b(provider_id.encode(), digest_size=16).hexdigest()


def _pause_ms(seconds: float) -> int:
    return int(min(max(seconds, 0.0), LONGEST_POLL_PAUSE_S) * 1000)


def _without_words(receipt: Receipt) -> Receipt:
    """Leave what our own words can say. Whoever is looked up by the gateway's id has named no message of ours."""
    return msgspec.structs.replace(receipt, message_id=None, provider_id=None, receipt_id=None, detail="")


def _sent(noted: _Noted) -> SentMessage:
    return SentMessage(
        message_id=noted.message_id, provider_id=noted.provider_id, channel=noted.channel, sent_at=noted.sent_at
    )
