"""Double of ZimSend: a queue before a phone, answers by its guide or by its specification, webhooks without a time."""

import hashlib
import hmac
import re
import secrets
from typing import Any

import msgspec

from otpsvc.testing import GatewayDouble, GatewayRequest, Reply

API_KEY, CLIENT_ID, DEVICE_ID = "zs_live_0123456789abcdef", "client_123456", "device_abc123"
WEBHOOK_SECRET = "whsec_zimsend_0123456789"


class ZimSendGateway(GatewayDouble):
    """`by_specification` gives its other shapes, `priorities` are those it takes; `refusals` are (status, code)."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, dict[str, Any]] = {}
        self.by_specification = False
        self.is_phone_online = True
        self.priorities: tuple[object, ...] = (1, 2, 3, 4, 5)
        self.refusals: list[tuple[int, str]] = []

    @property
    def base(self) -> str:
        """What the setting `url` is to be."""
        return f"{self.url}/v1"

    async def respond(self, request: GatewayRequest) -> Reply:
        """Serve the calls that the sender makes."""
        path = request.path.removeprefix("/v1")
        if "x-api-key" not in request.headers or "x-client-id" not in request.headers:
            return _refused(400, "MISSING_AUTH_HEADERS")
        if request.headers["x-api-key"] != API_KEY:
            return _refused(401, "INVALID_API_KEY")
        if request.headers["x-client-id"] != CLIENT_ID:
            return _refused(401, "INVALID_CLIENT_ID")
        if request.headers.get("x-device-id", DEVICE_ID) != DEVICE_ID:
            return _refused(404, "INVALID_DEVICE_ID")
        if path == "/auth/test":
            state = "online" if self.is_phone_online else "offline"
            return Reply(200, {"success": True, "message": "ok", "client_id": CLIENT_ID, "device_status": state})
        if path == "/sms/send":
            return self._send(request)
        if request.method == "GET" and (sms := self.taken.get(path.removeprefix("/sms/status/"))):
            return Reply(200, {"success": True, **sms})
        if request.method == "DELETE" and (sms := self.taken.get(path.removeprefix("/sms/"))):
            if sms["status"] != "queued":
                return _refused(400, "CANNOT_CANCEL_MESSAGE")
            sms["status"] = "cancelled"
            return Reply(200, {"success": True, "message_id": sms["message_id"], "status": "cancelled"})
        return _refused(404, "MESSAGE_NOT_FOUND")

    def signed(self, body: bytes, *, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
        """Return the headers that prove a body."""
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return {"x-webhook-signature": signature, "user-agent": "ZimSend-Webhook/1.0"}

    def event(self, message_id: str, name: str = "sms.delivered", **more: Any) -> bytes:
        """Return the body of a webhook about a message."""
        sms, word = self.taken[message_id], name.partition(".")[2]
        data = {key: sms[key] for key in ("message_id", "to", "message", "metadata")} | {"status": word, **more}
        return msgspec.json.encode(
            {
                "event": name,
                "event_id": f"evt_{word}_{message_id[-6:]}",
                "timestamp": "2027-01-15T08:00:06Z",
                "data": {**data, f"{word}_at": "2027-01-15T09:00:05+01:00"},
            }
        )

    def _send(self, request: GatewayRequest) -> Reply:
        body = request.json()
        if self.refusals:
            return _refused(*self.refusals.pop(0))
        if not re.fullmatch(r"\+[1-9][0-9]{7,14}", body.get("to", "")):
            return _refused(400, "INVALID_PHONE_NUMBER")
        if not 0 < len(body.get("message", "")) <= 1600:
            return _refused(400, "MESSAGE_TOO_LONG")
        if body.get("priority", self.priorities[0]) not in self.priorities:
            return _refused(400, "INVALID_PRIORITY")
        if "x-device-id" in request.headers and not self.is_phone_online:
            return _refused(503, "DEVICE_OFFLINE")
        message_id = f"msg_{secrets.token_hex(6)}"
        self.taken[message_id] = {
            "message_id": message_id,
            "status": "queued",
            "to": body["to"],
            "message": body["message"],
            "metadata": body.get("metadata"),
        }
        said = {"message_id": message_id, "status": "queued", "queued_at": "2027-01-15T08:00:00Z"}
        if self.by_specification:
            return Reply(202, {**said, "priority": body.get("priority", 3), "device_id": DEVICE_ID})
        return Reply(200, {"success": True, "to": body["to"], "estimated_delivery": "2027-01-15T08:00:03Z", **said})


def _refused(status: int, code: str) -> Reply:
    return Reply(status, {"success": False, "error": {"code": code, "message": "what went wrong"}})
