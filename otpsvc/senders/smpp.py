"""The sender `smpp`: hands messages to an operator's SMSC over a link that stays up, and takes receipts from it.

It says Unknown whenever a part of a message may have been taken and no answer says so, and repeats nothing. A receipt
is acknowledged only after the house has kept it; until then the SMSC has to bring it again.
"""

import asyncio
import logging
import secrets
import ssl
import time
from collections.abc import Callable, Sequence

import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.faults import described
from otpsvc.senders import smpp_wire as wire
from otpsvc.senders.addresses import NotSent, SystemResolver
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    Health,
    OutboundMessage,
    Outcome,
    Receipt,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    SenderContext,
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import NoAnswer, outcome_of
from otpsvc.senders.smpp_ids import MessageIds
from otpsvc.senders.smpp_link import Link
from otpsvc.senders.smpp_pace import Pace
from otpsvc.senders.smpp_parts import CarriedMessages
from otpsvc.senders.smpp_receipts import CODES, is_receipt, read_receipt
from otpsvc.senders.smpp_session import Session
from otpsvc.senders.smpp_settings import SmppSettings, check, shown_status, source_address
from otpsvc.senders.smpp_text import Encoded, encoded, with_headers
from otpsvc.senders.smpp_wire import Address, Command, Frame, Segment, Submit

_BINDS = {
    "transceiver": (Command.BIND_TRANSCEIVER,),
    "transmitter+receiver": (Command.BIND_TRANSMITTER, Command.BIND_RECEIVER),
    "transmitter": (Command.BIND_TRANSMITTER,),
}
# Long enough for an SMSC that is there; the house starts without one that is not.
_FIRST_BIND_S = 2.0
_KEEP_S = 5.0
_LONGEST_NUMBER = 15

_log = logging.getLogger(__name__)


class SmppSender(Sender[SmppSettings]):
    """One account at one SMSC."""

    Settings = SmppSettings

    def __init__(self, name: str, settings: SmppSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        wire.require_library()
        check(name, settings)
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            honours_expiry=settings.validity != "none",
            has_receipts=settings.bind != "transmitter",
        )
        self._source = source_address(settings)
        self._error_kinds = {code.lstrip("0"): kind for code, kind in settings.error_kinds.items()}
        self._ids = MessageIds(settings.receipt_id_base)
        self._carried = CarriedMessages()
        self._reference = secrets.randbelow(256)
        self._resolver: SystemResolver | None = None
        self._links: list[Link] = []
        self._pace: Pace | None = None
        self._telling: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to bind, and give that a moment."""
        tls: ssl.SSLContext | None = None
        if self.settings.tls:
            try:
                tls = await asyncio.to_thread(ssl.create_default_context, cafile=self.settings.ca_file or None)
            except (OSError, ssl.SSLError):
                raise ConfigurationError(f"senders.{self.name}.ca_file cannot be read as certificates") from None
        resolver = self._resolver = SystemResolver()
        self._pace = Pace(self.settings.window, asyncio.get_running_loop().time)
        self._links = [
            Link(self.name, command, self.settings, tls=tls, resolver=resolver, receive=self._receive)
            for command in _BINDS[self.settings.bind]
        ]
        for link in self._links:
            link.start()
        await asyncio.gather(*(link.settled(_FIRST_BIND_S) for link in self._links))

    async def close(self) -> None:
        """Unbind, in bounded time."""
        links, self._links = self._links, []
        await asyncio.gather(*(link.stop() for link in links))
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None
        telling = list(self._telling)
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)

    async def send(self, message: OutboundMessage) -> Outcome:
        """Submit the message, part by part if it is long; never waits for a link or for a place in the window."""
        number = message.to.removeprefix("+")
        if not (number.isascii() and number.isdigit() and len(number) <= _LONGEST_NUMBER):
            return Rejected(RejectionKind.INVALID_NUMBER, "not a number")
        try:
            text = encoded(message.text)
        except ValueError:
            return Rejected(RejectionKind.TEXT_REFUSED, "no SMS can carry this text")
        pace = self._pace
        if not self._links or pace is None:
            return RetryLater(1.0, "sender not open")
        session = self._links[0].live_session
        if session is None:
            return self._links[0].answer()
        full = pace.enter()
        if full is not None:
            return full
        try:
            return await self._submit(session, message, text, pace)
        finally:
            pace.leave()

    async def health(self) -> Health:
        """Tell the state of the link, or of the one that is down."""
        if not self._links:
            return Health(is_ready=False, detail="not open")
        down = [link for link in self._links if link.live_session is None]
        return Health(is_ready=not down, detail=(down or self._links)[0].state)

    async def _submit(self, session: Session, message: OutboundMessage, text: Encoded, pace: Pace) -> Outcome:
        """Submit one part after the other, so that a refusal of the first is one of the whole."""
        submits = self._submits_of(message, text)
        carried = self._carried.begin(message.message_id, len(submits))
        on_late = self._told_late(message.message_id) if len(submits) == 1 else None
        now = asyncio.get_running_loop().time
        deadline = now() + self.settings.timeout_s
        try:
            for submit in submits:
                answer = await self._asked(session, submit, deadline - now(), on_late)
                outcome = self._outcome(answer, pace) if isinstance(answer, Frame) else answer
                if outcome is None and isinstance(answer, Frame):
                    self._carried.taken(carried, self._id_of(answer))
                elif carried.n_taken:
                    return Unknown(f"only {carried.n_taken} of {carried.n_parts} parts were taken for sure")
                else:
                    return outcome or Unknown()
        finally:
            self._carried.end(carried)
        if carried.is_delivered:
            self._tell_later(Receipt(status=ReceiptStatus.DELIVERED, message_id=message.message_id))
        return Accepted(carried.provider_id, parts=len(text.parts))

    def _submits_of(self, message: OutboundMessage, text: Encoded) -> Sequence[Submit]:
        if len(text.parts) == 1:
            return [self._submit_of(message, text.data_coding, text.whole)]
        if self.settings.long_messages == "payload":
            return [self._submit_of(message, text.data_coding, text.whole)._replace(is_payload=True)]
        self._reference = (self._reference + 1) % 256
        if self.settings.long_messages == "sar":
            count = len(text.parts)
            return [
                self._submit_of(message, text.data_coding, part)._replace(
                    segment=Segment(self._reference, count, place)
                )
                for place, part in enumerate(text.parts, start=1)
            ]
        bodies = with_headers(text.parts, self._reference)
        return [self._submit_of(message, text.data_coding, body)._replace(has_header=True) for body in bodies]

    def _submit_of(self, message: OutboundMessage, data_coding: int, body: bytes) -> Submit:
        settings = self.settings
        return Submit(
            source=self._source,
            to=Address(message.to.removeprefix("+"), settings.dest_ton, settings.dest_npi),
            body=body,
            data_coding=data_coding,
            has_header=False,
            is_payload=False,
            validity_period=_validity(message, settings.validity),
            registered_delivery=1 if self.capabilities.has_receipts else 0,
            service_type=settings.service_type,
        )

    async def _asked(
        self, session: Session, submit: Submit, left_s: float, on_late: Callable[[Frame], None] | None
    ) -> Frame | Outcome:
        if left_s <= 0:
            return Unknown("no time left")
        try:
            answer = await session.ask(
                lambda number: wire.submit_frame(submit, number), timeout_s=left_s, on_late=on_late
            )
        except NotSent as error:
            return outcome_of(error)
        except NoAnswer as error:
            return Unknown(error.reason)
        if answer.status == wire.NOT_BOUND:
            session.end("not bound any more")
        return answer

    def _outcome(self, answer: Frame, pace: Pace) -> Outcome | None:
        """Say what an answer means; None if the message was taken."""
        if wire.is_taken(answer):
            pace.went_well()
            return None
        if answer.status == wire.OK:
            return Unknown("answer not understood")
        outcome = _meaning(answer)
        if answer.status in {wire.THROTTLED, wire.QUEUE_FULL} and isinstance(outcome, RetryLater):
            return RetryLater(pace.throttled(outcome.after_s), outcome.detail)
        return outcome

    def _id_of(self, answer: Frame) -> str | None:
        return self._ids.submitted(wire.submitted_id(answer))

    def _told_late(self, message_id: str) -> Callable[[Frame], None]:
        """Make what tells the house how a message ended of which it had to hear Unknown."""

        def tell(answer: Frame) -> None:
            if wire.is_taken(answer):
                carried = self._carried.begin(message_id, 1)
                self._carried.taken(carried, self._id_of(answer))
                self._carried.end(carried)
                status, kind, provider_id = ReceiptStatus.ACCEPTED, None, carried.provider_id
                is_unmapped = False
            elif answer.status == wire.OK:
                return
            else:
                outcome = _meaning(answer)
                kind = outcome.kind if isinstance(outcome, Rejected) else RejectionKind.UNAVAILABLE
                is_unmapped = isinstance(outcome, Rejected) and outcome.is_unmapped
                status, provider_id = ReceiptStatus.FAILED, None
            detail = f"answered late with status {shown_status(answer.status)}"
            self._tell_later(
                Receipt(
                    status=status,
                    message_id=message_id,
                    provider_id=provider_id,
                    kind=kind,
                    detail=detail,
                    is_unmapped=is_unmapped,
                )
            )

        return tell

    async def _receive(self, frame: Frame) -> int:
        """Take a `deliver_sm` and return the status to answer with.

        Always one: an SMSC that waits for an answer brings no other receipt, and in the end cuts the link.
        """
        try:
            return await self._received(frame)
        except Exception as error:  # noqa: BLE001 - a fault of ours: the SMSC keeps the receipt until it is mended
            _log.error("sender %s: a receipt could not be read: %s", self.name, described(error))
            return wire.TEMPORARY

    async def _received(self, frame: Frame) -> int:
        try:
            delivery = wire.read_delivery(frame)
        except wire.Malformed:
            return wire.PERMANENT
        if not is_receipt(delivery):
            # What a person wrote: nobody here reads it, and bringing it again would not help.
            return wire.OK
        told = read_receipt(
            delivery, self._ids, error_kinds=self._error_kinds, utc_offset_h=self.settings.receipt_utc_offset_h
        )
        if told is None:
            return wire.OK
        return wire.OK if await self._tell(self._carried.receipts(told)) else wire.TEMPORARY

    async def _tell(self, receipts: Sequence[Receipt]) -> bool:
        """Give receipts to the house; False if they were not kept."""
        if not receipts:
            return True
        take = self.context.take_receipts
        if take is None:
            return False
        try:
            async with asyncio.timeout(_KEEP_S):
                await take(self.name, receipts)
        except Exception as error:  # noqa: BLE001 - whatever it was, they were not kept, and the SMSC has them still
            _log.warning("sender %s: %d receipts were not kept: %s", self.name, len(receipts), described(error))
            return False
        return True

    def _tell_later(self, said: Receipt) -> None:
        task = asyncio.create_task(self._tell_once(said))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_once(self, said: Receipt) -> None:
        await self._tell([said])


def _meaning(answer: Frame) -> Outcome:
    code = shown_status(answer.status)
    outcome = GatewayMap.load(CODES).outcome(code, detail=f"status {code}")
    # A map shows no code of eight digits, which might be anything; this one is a number that we wrote ourselves.
    is_unmapped = isinstance(outcome, Rejected) and outcome.is_unmapped
    return msgspec.structs.replace(outcome, detail=f"unmapped status {code}") if is_unmapped else outcome


def _validity(message: OutboundMessage, form: str) -> str:
    """Write the end of a message's life as the protocol has it: two digits for each unit, from now or as a date."""
    if form == "none":
        return ""
    if form == "absolute":
        return time.strftime("%y%m%d%H%M%S000+", time.gmtime(message.expires_at))
    left_s = max(1, min(int(message.life_s), 99 * 86_400))
    days, rest = divmod(left_s, 86_400)
    return f"0000{days:02}{rest // 3600:02}{rest // 60 % 60:02}{rest % 60:02}000R"
