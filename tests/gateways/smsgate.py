"""A double of SMSGate's server with its phones behind it.

Kept faithfully: a message is known by its id and its phone together; without a phone one is picked at random; answers
repeat the text; the newest message leaves first; text and number are hashed once a message left the queue; receipts
come from the phones, each under its own key, with a time that is fresh at every try.
"""

import base64
import hashlib
import hmac
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from otpsvc.clock import Clock
from otpsvc.senders.contract import ReceiptRequest
from otpsvc.testing.gateways import GatewayDouble, GatewayRequest, Reply

PREFIX = "/3rdparty/v1"
USER, PASSWORD = "AB12CD", "an-account-password"
PHONE, OTHER_PHONE = "phone-aaaaaaaaaaaaaaa", "phone-bbbbbbbbbbbbbbb"
KEY, OTHER_KEY = "k3y-of-a", "k3y-of-b"
PASSPHRASE = "correct horse"
RECEIPT_URL = "https://otp.example/receipts/phones"
MOST_TRIES = 15
_CONTENTS = ("textMessage", "dataMessage", "message")


def opened(text: str) -> str:
    """Decrypt a field as the app does."""
    _, algorithm, rounds, salt, sealed = text.split("$")
    assert algorithm == "aes-256-cbc/pbkdf2-sha1"
    vector = base64.b64decode(salt, validate=True)
    key = hashlib.pbkdf2_hmac("sha1", PASSPHRASE.encode(), vector, int(rounds.removeprefix("i=")), 32)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).decryptor()
    padded = decryptor.update(base64.b64decode(sealed, validate=True)) + decryptor.finalize()
    return padded[: -padded[-1]].decode()


class Refused(Exception):
    """Ends a request with this status and these words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.reply = Reply(status, {"message": words})


class Phone:
    """One phone: its key, whether it is there, when it was seen."""

    def __init__(self, device_id: str, key: str, seen_at: float) -> None:
        self.device_id = device_id
        self.key = key
        self.is_online = True
        self.seen_at = seen_at


class Held(msgspec.Struct):
    """A message in the server. What it says is decrypted only when a test looks, off the way of requests."""

    id: str
    device_id: str
    body: dict[str, Any]
    ends_at: float | None
    state: str = "Pending"
    states: dict[str, str] = {}
    error: str | None = None
    is_hashed: bool = False

    @property
    def to(self) -> str:
        return self._read(self.body["phoneNumbers"][0])

    @property
    def text(self) -> str:
        return self._read(self.body["textMessage"]["text"])

    def _read(self, field: str) -> str:
        return opened(field) if self.body.get("isEncrypted") else field


class SmsGateDouble(GatewayDouble):
    """The server. `held` are the messages it took, in order; `sent` those that left a phone, in that order."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.phones = {
            device_id: Phone(device_id, key, clock.time())
            for device_id, key in ((PHONE, KEY), (OTHER_PHONE, OTHER_KEY))
        }
        self.held: list[Held] = []
        self.sent: list[Held] = []
        self.hooks: list[dict[str, Any]] = []
        self.refuses_with: tuple[int, str] | None = None
        self.turns_away_with: int | None = None
        self.queue_limit = 1000
        self.has_tokens = True
        self.is_local = False
        self.token_ttl_s = 900
        self.access: dict[str, tuple[float, frozenset[str]]] = {}
        self.refresh: set[str] = set()
        self.skew_s = 0.0
        self._numbers = count(1)

    @property
    def base(self) -> str:
        return self.url + PREFIX

    def now(self) -> str:
        return datetime.fromtimestamp(self.clock.time() + self.skew_s, UTC).isoformat(timespec="milliseconds")

    async def respond(self, request: GatewayRequest) -> Reply:
        date = datetime.fromtimestamp(self.clock.time() + self.skew_s, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        try:
            reply = self._respond(request)
        except Refused as refused:
            reply = refused.reply
        return reply._replace(headers={**reply.headers, "date": date})

    def _respond(self, request: GatewayRequest) -> Reply:
        if self.turns_away_with is not None:
            raise Refused(self.turns_away_with, "not now")
        match request.method, request.path.removeprefix(PREFIX).strip("/").split("/"):
            case "POST", ["auth", "token"]:
                return self._log_in(request)
            case "POST", ["auth", "token", "refresh"]:
                return self._refresh(request)
            case "POST", ["messages"]:
                self._allow(request, "messages:send")
                return self._take(request)
            case "GET", ["messages", message_id]:
                self._allow(request, "messages:read")
                return Reply(200, self._state(self._find(message_id)))
            case "DELETE", ["messages", message_id]:
                self._allow(request, "messages:cancel")
                return self._cancel(self._find(message_id))
            case ("GET", ["devices"]) if not self.is_local:
                self._allow(request, "devices:list")
                return Reply(200, [self._device(phone) for phone in self.phones.values()])
            case ("GET", ["device"]) if self.is_local:
                self._allow(request, "devices:list")
                return Reply(200, self._device(self.phones[PHONE]))
            case "POST", ["webhooks"]:
                self._allow(request, "webhooks:write")
                self.hooks.append(request.json())
                return Reply(201, request.json())
        raise Refused(404, "Not Found")

    # -- who calls

    def _allow(self, request: GatewayRequest, scope: str) -> None:
        scheme, _, proof = request.headers.get("authorization", "").partition(" ")
        if scheme == "Basic" and base64.b64decode(proof).decode() == f"{USER}:{PASSWORD}":
            return
        ends_at, scopes = self.access.get(proof, (0.0, frozenset()))
        if scheme != "Bearer" or self.clock.time() >= ends_at:
            raise Refused(401, "Unauthorized")
        if scope not in scopes:
            raise Refused(403, "Forbidden")

    def _log_in(self, request: GatewayRequest) -> Reply:
        if not self.has_tokens:
            raise Refused(501, "Not Implemented")
        if request.headers.get("authorization", "").startswith("Bearer"):
            raise Refused(401, "Unauthorized")
        self._allow(request, "")
        wanted = request.json()
        return self._pair(min(wanted["ttl"], self.token_ttl_s), frozenset(wanted["scopes"]))

    def _refresh(self, request: GatewayRequest) -> Reply:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.refresh:
            raise Refused(401, "Unauthorized")
        self.refresh.remove(token)
        scopes = frozenset().union(*(scopes for _, scopes in self.access.values()))
        return self._pair(self.token_ttl_s, scopes)

    def _pair(self, ttl_s: float, scopes: frozenset[str]) -> Reply:
        number = next(self._numbers)
        access, refresh = f"access-{number}", f"refresh-{number}"
        self.access[access] = (self.clock.time() + ttl_s, scopes)
        self.refresh.add(refresh)
        ends_at = datetime.fromtimestamp(self.clock.time() + self.skew_s + ttl_s, UTC).isoformat()
        pair = {"id": f"t{number}", "token_type": "Bearer", "access_token": access, "refresh_token": refresh}
        return Reply(201, {**pair, "expires_at": ends_at})

    # -- messages

    def _take(self, request: GatewayRequest) -> Reply:
        if self.refuses_with is not None:
            refusal, self.refuses_with = self.refuses_with, None
            raise Refused(*refusal)
        body = request.json()
        self._check(body)
        device_id = body.get("deviceId")
        if device_id is None:
            hours = int(request.query.get("deviceActiveWithin", "0"))
            since = self.clock.time() - hours * 3600 if hours else 0.0
            active = sorted(device for device, phone in self.phones.items() if phone.seen_at >= since)
            if not active:
                raise Refused(400, "record not found")
            device_id = random.choice(active)
        if device_id not in self.phones:
            raise Refused(400, "record not found")
        pending = [message for message in self.held if (message.device_id, message.state) == (device_id, "Pending")]
        if len(pending) >= self.queue_limit:
            raise Refused(503, "queue limits exceeded")
        message_id = body.get("id") or f"made-{next(self._numbers)}"
        if any((message.id, message.device_id) == (message_id, device_id) for message in self.held):
            raise Refused(409, "duplicate id")
        ends_at = self.clock.time() + body["ttl"] if "ttl" in body else None
        if "validUntil" in body:
            ends_at = datetime.fromisoformat(body["validUntil"]).timestamp()
        held = Held(message_id, device_id, body, ends_at, states={"Pending": self.now()})
        self.held.append(held)
        return Reply(202, self._state(held), {"location": f"{PREFIX}/messages/{message_id}"})

    def _check(self, body: dict[str, Any]) -> None:
        numbers = body.get("phoneNumbers", [])
        is_sound = (
            len([name for name in _CONTENTS if name in body]) == 1
            and len(body.get("id", "")) <= 36
            and len(body.get("deviceId", "")) <= 21
            and 1 <= len(numbers) == len(set(numbers)) <= 100
            and 1 <= body.get("simNumber", 1) <= 3
            and -128 <= body.get("priority", 0) <= 127
            and not ("ttl" in body and "validUntil" in body)
            and body.get("ttl", 5) >= 5
        )
        if not is_sound:
            raise Refused(400, "Validation failed")
        if not body.get("isEncrypted") and not all(number.startswith("+") for number in numbers):
            raise Refused(400, "can't use phone in row 1: invalid phone number")

    def _find(self, message_id: str) -> Held:
        found = [message for message in self.held if message.id == message_id]
        if len(found) > 1:
            raise Refused(400, "multiple messages found")
        if not found:
            raise Refused(404, "message not found")
        return found[0]

    def _cancel(self, held: Held) -> Reply:
        if held.state != "Pending":
            raise Refused(400 if self.is_local else 409, "message is not pending")
        self._move(held, "Cancelled" if self.is_local else "Cancelling")
        return Reply(200, self._state(held))

    def _state(self, held: Held) -> dict[str, Any]:
        number = held.body["phoneNumbers"][0]
        if held.is_hashed:
            number = hashlib.sha256(number.encode()).hexdigest()[:16]
        recipient = {"phoneNumber": number, "state": held.state}
        shown: dict[str, Any] = {
            "id": held.id,
            "deviceId": held.device_id,
            "state": held.state,
            "isHashed": held.is_hashed,
            "isEncrypted": bool(held.body.get("isEncrypted")),
            "recipients": [recipient | ({"error": held.error} if held.error else {})],
            "states": dict(held.states),
        }
        return shown if held.is_hashed else shown | {"textMessage": held.body["textMessage"]}

    def _device(self, phone: Phone) -> dict[str, Any]:
        seen = datetime.fromtimestamp(phone.seen_at + self.skew_s, UTC).isoformat(timespec="milliseconds")
        return {"id": phone.device_id, "name": "a phone", "lastSeen": seen, "simCards": []}

    def _move(self, held: Held, state: str, error: str | None = None) -> None:
        held.state, held.error = state, error
        held.states = {**held.states, state: self.now()}
        # Within a minute the server forgets what was in it, unless it could not read it anyway.
        held.is_hashed = state != "Pending" and not held.body.get("isEncrypted")

    # -- phones

    def work(self, device_id: str = PHONE, *, most: int = 1000) -> None:
        """Let a phone send what waits for it: the newest first, and nothing whose life is over."""
        phone = self.phones[device_id]
        if not phone.is_online:
            return
        phone.seen_at = self.clock.time()
        waiting = [message for message in self.held if (message.device_id, message.state) == (device_id, "Pending")]
        for held in reversed(waiting[-most:]):
            self._move(held, "Processed")
            if held.ends_at is not None and self.clock.time() >= held.ends_at:
                self._move(held, "Failed", "TTL expired")
                continue
            self._move(held, "Sent")
            self.sent.append(held)

    def fail(self, held: Held, reason: str) -> None:
        self._move(held, "Failed", reason)

    def deliver(self, held: Held) -> None:
        self._move(held, "Delivered")

    # -- receipts

    def event(self, held: Held, kind: str, *, event_id: str | None = None, **payload: object) -> bytes:
        """Make the body that a phone posts about a message; a new event id each time unless one is given."""
        time = {"sms:sent": "sentAt", "sms:delivered": "deliveredAt", "sms:failed": "failedAt"}.get(kind, "cancelledAt")
        moment = datetime.fromtimestamp(self.clock.time(), UTC).isoformat(timespec="milliseconds")
        told = {"messageId": held.id, "recipient": held.to, "simNumber": 1, "phoneNumber": held.to, time: moment}
        return msgspec.json.encode(
            {
                "id": event_id or f"event-{next(self._numbers)}",
                "webhookId": "hook-1",
                "event": kind,
                "deviceId": held.device_id,
                "payload": told | payload,
            }
        )

    def posted(
        self, body: bytes, *, key: str | None = KEY, skew_s: float = 0.0, time: str | None = None
    ) -> ReceiptRequest:
        """Sign a body as a phone does at this moment; a phone without a key sends neither header."""
        timestamp = time if time is not None else str(int(self.clock.time() + skew_s))
        headers = {"content-type": "application/json", "user-agent": "me.capcom.smsgateway/1.68.0"}
        if key is not None:
            signature = hmac.new(key.encode(), body + timestamp.encode(), hashlib.sha256).hexdigest()
            headers |= {"x-timestamp": timestamp, "x-signature": signature}
        return ReceiptRequest(method="POST", url=RECEIPT_URL, headers=headers, body=body)

    async def bring(self, body: bytes, key: str, take: Callable[[ReceiptRequest], Awaitable[bool]]) -> int:
        """Bring an event until it is taken, with the time of each try; returns how many tries that took."""
        for number in range(1, MOST_TRIES + 1):
            if await take(self.posted(body, key=key)):
                return number
        return MOST_TRIES

    def hooks_for(self, kind: str, device_id: str) -> list[Mapping[str, Any]]:
        """Return the webhooks an event goes to. Only `deviceId` narrows one down; `device_id` is silently ignored."""
        return [hook for hook in self.hooks if hook["event"] == kind and hook.get("deviceId") in {None, device_id}]
