"""SMSGate: Android phones behind the app's cloud server, a private server, or the phone's own.

The phone is chosen here, by `device_id`: the server knows a message again by its id and its phone together, and left to
itself it picks a phone at random, so a repeat without the phone would be a second SMS. Receipts come from the phones,
each signed with the phone's own key.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from otpsvc.phone_encryption import encrypted
from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import Failure, fields, gateway_id, moment, our_id
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    Health,
    OutboundMessage,
    Outcome,
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.phone_answers import PhoneMap, first_of, object_in, stop_if_unwelcome, too_large
from otpsvc.senders.proofs import is_fresh
from otpsvc.senders.questions import ask_each, gateway_time
from otpsvc.senders.smsgate_access import Access
from otpsvc.senders.smsgate_settings import SmsGateSettings

PRIORITY = 100  # from here on the phone's own pauses, limits and working hours do not hold
SHORTEST_TTL_S = 5
ABSENT_AFTER_S = 20 * 60.0  # an idle phone reports every 15 minutes
_NO_PHONE_PAUSE_S = 15.0
# The events about messages of ours, and where each says its time.
_TIMES: Mapping[str, str] = {
    "sms:sent": "sentAt",
    "sms:delivered": "deliveredAt",
    "sms:failed": "failedAt",
    "sms:cancelled": "cancelledAt",
}


class SmsGateSender(Sender[SmsGateSettings]):
    """Hands messages to one phone, or to whichever the server picks."""

    Settings = SmsGateSettings

    def __init__(self, name: str, settings: SmsGateSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        url = check_url(settings.url, allow_private=settings.allow_private, key=f"senders.{name}.url")
        account = (settings.username, settings.password.reveal())
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)
        self._access = Access(self._client, url, account, settings.auth, context.clock)
        self._map = PhoneMap("smsgate")
        self._threads: ThreadPoolExecutor | None = None
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            honours_expiry=True,
            is_idempotent=settings.device_id is not None,
            can_cancel=True,
            has_receipts=True,
            has_presence=True,
            receipt_within_s=20.0,
            polls_every_s=10.0,
        )

    async def open(self) -> None:
        """Make the connections, and the threads that encrypt."""
        await self._client.open()
        if self.settings.passphrase and self._threads is None:
            self._threads = ThreadPoolExecutor(2, thread_name_prefix="smsgate")

    async def close(self) -> None:
        """Let go of both."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        await self._access.close()
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message to the phone once."""
        path = "/messages" if self.settings.device_id else "/messages?deviceActiveWithin=1"
        try:
            answer = await self._access.call("POST", path, await self._body(message))
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        if not isinstance(answer, GatewayAnswer):
            return answer
        found = fields(answer.json())
        if answer.is_success:
            provider_id = gateway_id(found.get("id"))
            return Accepted(provider_id) if provider_id is not None else Unknown("answer without an id")
        if answer.status == 409:
            # The same id on the same phone: an earlier call of ours arrived. Without a phone nobody can say that.
            name = self._name_of(message.message_id)
            return Accepted(name) if self.capabilities.is_idempotent else Unknown("status 409")
        outcome = self._map.refusal(answer, found.get("message"))
        if self.settings.device_id is None and outcome == Rejected(
            RejectionKind.MISCONFIGURED, "code record not found"
        ):
            return RetryLater(_NO_PHONE_PAUSE_S, "no phone was seen within the hour")
        return outcome

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Find the phones that may have signed, then read what it says; other events than ours say nothing."""
        keys = self.settings.keys
        if not keys:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED, "no signing key is set")
        if refusal := too_large(request):
            return refusal
        timestamp = request.headers.get("x-timestamp", "")
        signed = request.body + timestamp.encode("utf-8", "replace")
        devices = keys.signers(request.headers.get("x-signature"), signed)
        if not devices or not is_fresh(timestamp, self.context.clock.time()):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "signature or time is wrong")
        event = object_in(request.body)
        if event is None:
            return ReceiptRefusal(RefusalKind.MALFORMED, "not a JSON object")
        device = event.get("deviceId")
        if not isinstance(device, str) or device not in devices:
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "signed by another device")
        word, payload = event.get("event"), fields(event.get("payload"))
        provider_id = gateway_id(payload.get("messageId"))
        # A webhook can be the account's: another phone may have had the same message from another sender.
        is_ours = self.settings.device_id in (None, device)
        if not isinstance(word, str) or word not in _TIMES or provider_id is None or not is_ours:
            return Receipts(())
        happened_at = moment(payload.get(_TIMES[word]))
        receipt_id = gateway_id(event.get("id"))
        return Receipts((self._receipt(word, provider_id, payload.get("reason"), happened_at, receipt_id),))

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:
        """Ask the server how far each message is."""
        return await ask_each(messages, self._ask)

    async def cancel(self, message: SentMessage) -> bool:
        """Take the message back. A server only begins to, so it is rarely True; a phone's own server can promise it."""
        try:
            answer = await self._access.call("DELETE", self._path_of(message))
        except (NotSent, NoAnswer):
            return False
        if not isinstance(answer, GatewayAnswer) or not answer.is_success:
            return False
        return self._map.status(fields(answer.json()).get("state")) is ReceiptStatus.CANCELLED

    async def health(self) -> Health:
        """Say whether the phone was seen lately."""
        try:
            answer = await self._access.call("GET", "/devices")
            if isinstance(answer, GatewayAnswer) and answer.status == 404:
                answer = await self._access.call("GET", "/device")  # the phone's own server
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        if not isinstance(answer, GatewayAnswer):
            return Health(is_ready=False, detail=answer.detail)
        return self._presence(answer)

    def _presence(self, answer: GatewayAnswer) -> Health:
        found = answer.json()
        devices = [fields(device) for device in (found if isinstance(found, list) else [found])]
        wanted = self.settings.device_id
        seen = [moment(device.get("lastSeen")) for device in devices if wanted is None or wanted == device.get("id")]
        if not answer.is_success:
            return Health(is_ready=False, detail=f"status {answer.status}")
        if not seen:
            return Health(is_ready=False, detail="no such device")
        now = gateway_time(answer, self.context.clock.time())
        if any(seen_at is not None and now - seen_at <= ABSENT_AFTER_S for seen_at in seen):
            return Health(is_ready=True)
        return Health(is_ready=False, detail="not seen for 20 minutes")

    async def _body(self, message: OutboundMessage) -> dict[str, Any]:
        text, to = message.text, message.to
        if self.settings.passphrase:
            loop, passphrase = asyncio.get_running_loop(), self.settings.passphrase.reveal()
            text, to = await asyncio.gather(
                loop.run_in_executor(self._threads, encrypted, text, passphrase),
                loop.run_in_executor(self._threads, encrypted, to, passphrase),
            )
        body: dict[str, Any] = {
            "id": self._name_of(message.message_id),
            "textMessage": {"text": text},
            "phoneNumbers": [to],
            "withDeliveryReport": True,
            "priority": PRIORITY,
        }
        ttl_s = int(message.life_s)
        if ttl_s >= SHORTEST_TTL_S:
            body["ttl"] = ttl_s
        else:
            body["validUntil"] = datetime.fromtimestamp(message.expires_at, UTC).isoformat(timespec="milliseconds")
        optional = {
            "deviceId": self.settings.device_id,
            "simNumber": self.settings.sim_number,
            "isEncrypted": True if self.settings.passphrase else None,
        }
        return body | {name: value for name, value in optional.items() if value is not None}

    async def _ask(self, message: SentMessage) -> Receipt | None:
        answer = await self._access.call("GET", self._path_of(message))
        if not isinstance(answer, GatewayAnswer):
            raise NotSent("no token")
        stop_if_unwelcome(answer)
        found = fields(answer.json())
        state = found.get("state")
        if not answer.is_success or not isinstance(state, str):
            return None
        happened_at = moment(fields(found.get("states")).get(state))
        reason = first_of(found.get("recipients")).get("error")
        provider_id = message.provider_id or self._name_of(message.message_id)
        return self._receipt(state, provider_id, reason, happened_at, None)

    def _receipt(
        self, word: str, provider_id: str, reason: object, happened_at: float | None, receipt_id: str | None
    ) -> Receipt:
        status, failure = self._map.status(word), Failure()
        if status is ReceiptStatus.FAILED:
            failure = self._map.failure(reason)
            if failure.detail == "TTL expired":
                status = ReceiptStatus.EXPIRED
        return Receipt(
            status=status,
            message_id=self._message_id(provider_id),
            provider_id=provider_id,
            receipt_id=receipt_id,
            happened_at=happened_at,
            kind=failure.kind,
            detail=failure.detail,
            is_unmapped=failure.is_unmapped,
        )

    def _name_of(self, message_id: str) -> str:
        """Return the server's name for a message: senders may share a phone, each with its SIM, and need one each."""
        sim_number = self.settings.sim_number
        return message_id if sim_number is None else f"{message_id}-{sim_number}"

    def _message_id(self, name: str) -> str | None:
        message_id = our_id(name.partition("-")[0])
        return message_id if message_id is not None and name == self._name_of(message_id) else None

    def _path_of(self, message: SentMessage) -> str:
        return f"/messages/{quote(message.provider_id or self._name_of(message.message_id), safe='')}"
