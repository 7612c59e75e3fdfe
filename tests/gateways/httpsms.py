"""A double of httpSMS: the server, one phone, and the webhook whose token says nothing about the body.

Kept faithfully: the same request twice is two messages; a phone that is away lets a message expire, and the server may
schedule it once more and send it late; a webhook is tried twice and then forgotten, with the text in it.
"""

import base64
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from otpsvc.clock import Clock
from otpsvc.senders.contract import ReceiptRequest
from otpsvc.testing.gateways import GatewayDouble, GatewayRequest, Reply

API_KEY = "uk_0123456789abcdef"
PHONE = "+33700000001"
SIGNING_KEY = "a signing key that is long enough for all algorithms of a token of this kind"
ENCRYPTION_KEY = "shared with the app"
PUBLIC_URL = "https://otp.example"
RECEIPT_URL = f"{PUBLIC_URL}/receipts/phones"
ISSUER = "api.httpsms.com"
MOST_TRIES = 2


def opened(content: str) -> str:
    """Decrypt a text as the app does, block by block: CFB is a block cipher's own output over the block before."""
    sealed = base64.b64decode(content, validate=True)
    cipher = Cipher(algorithms.AES(hashlib.sha256(ENCRYPTION_KEY.encode()).digest()), modes.ECB())  # noqa: S305 - one block at a time, to build CFB from
    text = b""
    for at in range(16, len(sealed), 16):
        block = cipher.encryptor().update(sealed[at - 16 : at])
        text += bytes(a ^ b for a, b in zip(block, sealed[at : at + 16], strict=False))
    return text.decode()


class HttpSmsDouble(GatewayDouble):
    """The server. `messages` are those it took, in order, as it would show them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.messages: list[dict[str, Any]] = []
        self.n_sent = 0
        self.refuses_with: Reply | None = None
        self.turns_away_with: int | None = None
        self.answers_with = 200
        self.quota = 1000
        self.expiry_s: int | None = 90
        self.most_attempts = 1
        self.beat_at: float | None = clock.time()
        self.skew_s = 0.0

    def now(self, at: float | None = None) -> str:
        moment = datetime.fromtimestamp((self.clock.time() if at is None else at) + self.skew_s, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")

    async def respond(self, request: GatewayRequest) -> Reply:
        date = datetime.fromtimestamp(self.clock.time() + self.skew_s, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return self._respond(request)._replace(headers={"date": date})

    def _respond(self, request: GatewayRequest) -> Reply:
        if self.turns_away_with is not None:
            return _error(self.turns_away_with, "not now")
        if request.headers.get("x-api-key") != API_KEY:
            return _error(401, "You are not authorized to carry out this request.")
        match request.method, request.path.strip("/").split("/"):
            case "POST", ["v1", "messages", "send"]:
                return self._take(request.json())
            case "GET", ["v1", "messages", message_id]:
                found = [message for message in self.messages if message["id"] == message_id]
                return _success(found[0]) if found else _error(404, "cannot find message")
            case "GET", ["v1", "phones"]:
                phone = {"id": "p", "phone_number": PHONE, "max_send_attempts": self.most_attempts}
                return _success([phone | {"message_expiration_seconds": self.expiry_s}])
            case "GET", ["v1", "heartbeats"]:
                is_known = request.query.get("owner") == PHONE and self.beat_at is not None
                return _success([{"owner": PHONE, "timestamp": self.now(self.beat_at)}] if is_known else [])
        return _error(404, "Not Found")

    def _take(self, body: dict[str, Any]) -> Reply:
        if self.refuses_with is not None:
            refusal, self.refuses_with = self.refuses_with, None
            return refusal
        if self.quota == 0:
            return _error(402, "You have reached your limit")
        wrong = {}
        if body.get("from") != PHONE:
            wrong["from"] = ["no phone found with this number"]
        if not body.get("to", "").startswith("+"):
            wrong["to"] = ["The to field must be a valid E.164 phone number"]
        if not 1 <= len(body.get("content", "")) <= 2048:
            wrong["content"] = ["The content field must be between 1 and 2048 characters"]
        if len(body.get("request_id", "")) > 255:
            wrong["request_id"] = ["The request_id field must be at most 255 characters"]
        if wrong:
            return _error(422, "validation errors while sending message", wrong)
        self.quota -= 1
        message = {
            "id": str(uuid.uuid4()),
            "request_id": body.get("request_id"),
            "owner": body["from"],
            "contact": body["to"],
            "content": body["content"],
            "encrypted": body.get("encrypted", False),
            "type": "mobile-terminated",
            "status": "pending",
            "send_attempt_count": 0,
            "max_send_attempts": self.most_attempts,
            "created_at": self.now(),
            "failure_reason": None,
        }
        self.messages.append(message)
        return _success(message, self.answers_with)

    # -- the phone

    def schedule(self, message: dict[str, Any]) -> None:
        """Put a message, new or expired, in line for the phone."""
        message["status"] = "scheduled"

    def send(self, message: dict[str, Any]) -> None:
        message["send_attempt_count"] += 1
        message |= {"status": "sent", "sent_at": self.now()}
        self.n_sent += 1

    def expire(self, message: dict[str, Any]) -> None:
        message["send_attempt_count"] += 1
        message |= {"status": "expired", "expired_at": self.now()}

    def fail(self, message: dict[str, Any], reason: str) -> None:
        message |= {"status": "failed", "failed_at": self.now(), "failure_reason": reason}

    def deliver(self, message: dict[str, Any]) -> None:
        message |= {"status": "delivered", "delivered_at": self.now()}

    # -- receipts

    def event(self, message: dict[str, Any], kind: str, **changed: object) -> bytes:
        """Make the body of a webhook: a CloudEvent, the text in it."""
        id_field = "message_id" if kind == "message.send.expired" else "id"
        data = {
            id_field: message["id"],
            "user_id": "user-1",
            "request_id": message["request_id"],
            "owner": message["owner"],
            "contact": message["contact"],
            "content": message["content"],
            "timestamp": self.now(),
            "sim": "SIM1",
        }
        return msgspec.json.encode(
            {
                "specversion": "1.0",
                "id": str(uuid.uuid4()),
                "source": "/v1/messages",
                "type": kind,
                "datacontenttype": "application/json",
                "time": self.now(),
                "data": data | changed,
            }
        )

    def token(self, *, key: str = SIGNING_KEY, algorithm: str = "HS256", skew_s: float = 0.0, **changed: object) -> str:
        now = int(self.clock.time() + skew_s)
        claims: dict[str, object] = {
            "aud": [RECEIPT_URL],
            "iss": ISSUER,
            "sub": "user-1",
            "iat": now,
            "nbf": now - 600,
            "exp": now + 600,
        }
        claims = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(claims, "" if algorithm == "none" else key, algorithm=algorithm)

    def posted(self, body: bytes, token: str | None = None) -> ReceiptRequest:
        headers = {"content-type": "application/json", "authorization": f"Bearer {token or self.token()}"}
        return ReceiptRequest(method="POST", url=RECEIPT_URL, headers=headers, body=body)

    async def bring(self, body: bytes, take: Callable[[ReceiptRequest], Awaitable[bool]]) -> bool:
        """Bring an event at most twice; say whether it was ever taken."""
        for _ in range(MOST_TRIES):
            if await take(self.posted(body)):
                return True
        return False


def _success(data: object, status: int = 200) -> Reply:
    return Reply(status, {"status": "success", "message": "done", "data": data})


def _error(status: int, words: str, data: object = None) -> Reply:
    return Reply(status, {"status": "error", "message": words, "data": data})
