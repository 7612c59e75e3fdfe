"""The pool of phones as a sender sees it: offers a message to one of them, and tells the message what became of it.

Who gets it is decided in one step of the store. What comes of an offer is told as receipts and then marked as told, in
this order: between the two a crash makes it told once more, which is harmless, and never forgotten. Number and text are
sealed before they leave this file; nothing else about a message may be handed on in clear.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from otpsvc.crypto import Keyring, UnsealError
from otpsvc.devices.model import Offer, Tenant, Told
from otpsvc.devices.operators import operator_word
from otpsvc.devices.ports import DeviceOffers, PoolObserver
from otpsvc.errors import ApiError
from otpsvc.messages.model import Content
from otpsvc.phone import operator_of
from otpsvc.senders.contract import (
    Accepted,
    OutboundMessage,
    Outcome,
    Receipt,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    SentMessage,
    Unknown,
)

# The message's own sealing counts from 0; another count is another key.
_SEAL_COUNT = 1_000_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 5.0
_NOBODY = Tenant("client_000000000000", "live")

TakeReceipts = Callable[[str, Sequence[Receipt]], Awaitable[None]]

_decode_content = msgspec.json.Decoder(tuple[str, str]).decode


class Pool:
    """All clients' phones, each client's for itself (senders.ports.PhonePool).

    `receipts` takes what messages are told, and raises ApiError where it could not be kept. `observer` counts.
    """

    def __init__(
        self,
        *,
        offers: DeviceOffers,
        receipts: TakeReceipts,
        keyring: Keyring,
        observer: PoolObserver,
    ) -> None:
        self._offers = offers
        self._receipts = receipts
        self._keyring = keyring
        self._observer = observer

    async def offer(
        self, sender: str, message: OutboundMessage, *, pull_within_s: float, report_within_s: float, wait_s: float
    ) -> Outcome:
        """Put a message into one phone's inbox; idempotent by the message id. Never raises ApiError."""
        tenant = Tenant(message.client_id, message.mode)
        try:
            offer = await self._offers.offer(
                message_id=message.message_id,
                tenant=tenant,
                sender=sender,
                recipient=self._keyring.index("number", message.to).hex(),
                operator=operator_word(operator_of(message.to)),
                sealed=sealed_content(self._keyring, tenant, message.message_id, Content(message.to, message.text)),
                expires_at_ms=int(message.expires_at * 1000),
                pull_within_ms=_ms(pull_within_s),
                report_within_ms=_ms(report_within_s),
                give_up_ms=_ms(wait_s),
                pinned=message.device_id,
            )
        except ApiError:
            return Unknown("the store did not answer")
        self._observer.offered(sender, offer.outcome)
        return _outcome(offer, wait_s)

    async def cancel(self, message: SentMessage) -> bool:
        """Take a message back for good; True if no phone had pulled it, False also where nobody can tell."""
        if not message.client_id:
            return False
        try:
            return await self._offers.withdraw(Tenant(message.client_id, message.mode), message.message_id)
        except ApiError:
            return False

    async def is_ready(self) -> bool:
        """Say whether the store answers."""
        try:
            await self._offers.reach(_NOBODY)
        except ApiError:
            return False
        return True

    async def settle(self, told: Told, message_id: str, *, happened_at: float | None = None) -> None:
        """Take to the message what a report or a look came to, if it is to be told, and mark it as told.

        `happened_at`: seconds since 1970 by the phone's clock. Raises ApiError SERVICE_UNAVAILABLE: it stays owed.
        """
        if told.outcome == "moved":
            self._observer.taken_over(told.sender, told.why, may_duplicate=told.may_duplicate)
        if not told.status:
            return
        receipt = Receipt(
            status=ReceiptStatus(told.status),
            message_id=message_id,
            happened_at=happened_at,
            kind=RejectionKind(told.kind) if told.kind else None,
        )
        await self._receipts(told.sender, [receipt])
        await self._offers.done(told.client_id, message_id, told.status)


def sealed_content(keyring: Keyring, tenant: Tenant, message_id: str, content: Content) -> bytes:
    """Seal number and text for the phone that will pull them; the same content gives the same bytes."""
    # A list, whose form no later field of Content changes: one key must never seal two plain texts.
    plain = msgspec.json.encode([content.to, content.text])
    return keyring.seal(plain, record_id=message_id, count=_SEAL_COUNT, bound_to=(*tenant, message_id, "pool"))


def opened_content(keyring: Keyring, tenant: Tenant, message_id: str, sealed: bytes) -> Content:
    """Open what `sealed_content` made; raises UnsealError."""
    plain = keyring.unseal(sealed, record_id=message_id, count=_SEAL_COUNT, bound_to=(*tenant, message_id, "pool"))
    try:
        to, text = _decode_content(plain)
    except msgspec.MsgspecError:
        raise UnsealError("sealed text is no message to a phone") from None
    return Content(to, text)


def _outcome(offer: Offer, wait_s: float) -> Outcome:
    """Say what an offer means for the message."""
    match offer.outcome:
        case "offered":
            return Accepted()
        case "foreign":
            return Rejected(RejectionKind.DEVICE_OFFLINE, "no such phone any more")
        case "unwanted":
            # The next claim ends it as what it is: verified, cancelled, or expired.
            return RetryLater(_FIRST_PAUSE_S, "the code has ended")
        case "none" | "empty" | "budget" | "offline":
            kind = RejectionKind.DEVICE_OFFLINE if offer.outcome == "offline" else RejectionKind.NO_DEVICE
            age_s = offer.age_ms / 1000
            left_s = wait_s - age_s
            if left_s <= 0:
                return Rejected(kind, _WHY[offer.outcome])
            # As long again as it has waited: a phone is back soon, or not so soon.
            return RetryLater(min(max(age_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S, left_s), _WHY[offer.outcome])
    return Unknown("the pool gave an answer that nobody knows")


_WHY = {
    "empty": "the client has no phone",
    "none": "no phone is connected",
    "budget": "every connected phone is over its budget or left alone now",
    "offline": "the phone is not connected",
}


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
