"""A double of textbee: the server, one phone behind a push, and its webhooks.

Kept faithfully: nothing is known again, so the same call is two messages; errors come in three shapes; without its
queue the server shows what the push said, and no id; a batch is `completed` although the phone never saw it; what
the push holds arrives up to 72 hours later; a signature has no time, so an old receipt can be shown for ever.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import msgspec

from otpsvc.clock import Clock
from otpsvc.senders.contract import ReceiptRequest
from otpsvc.testing.gateways import GatewayDouble, GatewayRequest, Reply

API_KEY = "tb_0123456789abcdef"
DEVICE = "64f0c0ffee0000000000beef"
SECRET = "a webhook secret of twenty"
RECEIPT_URL = "https://otp.example/receipts/phones"
PREFIX = "/api/v1"
PUSH_HOLDS_S = 72 * 3600
MOST_TRIES, MOST_TRIES_AFTER_4XX = 10, 3
PAUSED_AFTER = 50


class TextBeeDouble(GatewayDouble):
    """The server. `messages` are those it took, in order, as it would show them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.messages: list[dict[str, Any]] = []
        self.refuses_with: Reply | None = None
        self.turns_away_with: int | None = None
        self.has_queue = True
        self.is_old = False
        self.is_enabled = True
        self.is_reachable = True
        self.beat_at = clock.time()
        self.skew_s = 0.0
        self.n_brought = 0
        self.n_failed = 0
        self._numbers = count(1)

    @property
    def base(self) -> str:
        return self.url + PREFIX

    @property
    def is_paused(self) -> bool:
        """Whether the webhook was switched off because too much of what it brought was not taken."""
        return self.n_failed >= PAUSED_AFTER and self.n_failed * 2 >= self.n_brought

    def now(self, at: float | None = None) -> str:
        moment = datetime.fromtimestamp((self.clock.time() if at is None else at) + self.skew_s, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    async def respond(self, request: GatewayRequest) -> Reply:
        date = datetime.fromtimestamp(self.clock.time() + self.skew_s, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return self._respond(request)._replace(headers={"date": date})

    def _respond(self, request: GatewayRequest) -> Reply:
        if self.turns_away_with is not None:
            return Reply(self.turns_away_with, {"message": "not now"})
        if request.headers.get("x-api-key") != API_KEY:
            return Reply(401, {"error": "Unauthorized", "code": "AUTH_INVALID"})
        match request.method, request.path.removeprefix(PREFIX).strip("/").split("/"):
            case ("POST", ["gateway", "send-sms"]) if not self.is_old:
                return self._take(request.json(), request.json().get("deviceId", DEVICE), 200)
            case "POST", ["gateway", "devices", device, "send-sms"]:
                return self._take(request.json(), device, 201)
            case "GET", ["gateway", "devices", device] if device == DEVICE:
                return Reply(200, {"data": {"enabled": self.is_enabled, "lastHeartbeat": self.now(self.beat_at)}})
            case "GET", ["gateway", "devices", device, "sms-batch", batch] if device == DEVICE:
                found = [message for message in self.messages if message["smsBatchId"] == batch]
                if not found:
                    return Reply(404, {"error": "SMS batch not found"})
                return Reply(200, {"data": {"batch": {"_id": batch, "status": "completed"}, "messages": found}})
        return Reply(404, {"message": f"Cannot {request.method} {request.path}", "error": "Not Found"})

    def _take(self, body: dict[str, Any], device: str, status: int) -> Reply:
        if self.refuses_with is not None:
            refusal, self.refuses_with = self.refuses_with, None
            return refusal
        if device != DEVICE or not self.is_enabled:
            return Reply(400, {"success": False, "error": "Device does not exist or is not enabled"})
        if not body.get("message"):
            return Reply(400, {"success": False, "error": "Message cannot be blank"})
        if not body.get("recipients"):
            return Reply(400, {"success": False, "error": "Invalid recipients"})
        number = next(self._numbers)
        message = {
            "_id": f"sms{number:021d}",
            "smsBatchId": f"batch{number:019d}",
            "message": body["message"],
            "recipient": body["recipients"][0],
            "simSubscriptionId": body.get("simSubscriptionId"),
            "status": "pending",
            "requestedAt": self.now(),
        }
        self.messages.append(message)
        if not self.has_queue:
            pushed = {"responses": [{"success": True, "messageId": "projects/x"}], "successCount": 1, "failureCount": 0}
            return Reply(status, {"data": pushed})
        taken = {"success": True, "message": "SMS added to queue", "smsBatchId": message["smsBatchId"]}
        return Reply(status, {"data": taken | {"recipientCount": 1}})

    # -- the phone

    def push(self, message: dict[str, Any]) -> None:
        """Bring the message to the phone if it is there and the push still holds it."""
        asked_at = datetime.fromisoformat(message["requestedAt"]).timestamp()
        if self.is_reachable and self.clock.time() - asked_at <= PUSH_HOLDS_S:
            self.move(message, "dispatched")

    def move(self, message: dict[str, Any], status: str, **told: object) -> None:
        message |= {"status": status, f"{status}At": self.now(), **told}

    # -- receipts

    def event(self, message: dict[str, Any], kind: str, **changed: object) -> bytes:
        """Make the body of a webhook, the text in it; its key stays the same however often it is brought."""
        told = {
            "smsId": message["_id"],
            "smsBatchId": message["smsBatchId"],
            "message": message["message"],
            "recipient": message["recipient"],
            "deviceId": DEVICE,
            "webhookSubscriptionId": "subscription-1",
            "webhookEvent": kind,
            "idempotencyKey": f"8c9e6679-7425-40de-944b-{next(self._numbers):012d}",
            "status": kind.removeprefix("MESSAGE_"),
        }
        return msgspec.json.encode(told | changed)

    def posted(self, body: bytes, secret: str = SECRET) -> ReceiptRequest:
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"content-type": "application/json", "x-signature": signature}
        return ReceiptRequest(method="POST", url=RECEIPT_URL, headers=headers, body=body)

    async def bring(self, body: bytes, take: Callable[[ReceiptRequest], Awaitable[int]]) -> bool:
        """Bring an event until it is answered with 2xx; a 4xx is dropped sooner, and a paused webhook brings none."""
        if self.is_paused:
            return False
        self.n_brought += 1
        for number in range(1, MOST_TRIES + 1):
            status = await take(self.posted(body))
            if 200 <= status < 300:
                return True
            if 400 <= status < 500 and number >= MOST_TRIES_AFTER_4XX:
                break
        self.n_failed += 1
        return False
