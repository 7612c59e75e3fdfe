"""Double of UniMsg: tokens for client credentials that end, scopes, its envelope of errors, webhooks with a time."""

import hashlib
import hmac
import re
import secrets
from typing import Any

import msgspec

from otpsvc.testing import GatewayDouble, GatewayRequest, Reply

CLIENT_ID, CLIENT_SECRET = "demo_client", "sk_test_0123456789abcdef"
WEBHOOK_SECRET = "whsec_0123456789abcdef"


class UniMsgGateway(GatewayDouble):
    """`refusals` are (status, code, headers) for coming sends; `scopes` bounds what a new token is granted."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, dict[str, Any]] = {}
        self.n_tokens = 0
        self.ended: set[str] = set()
        self.revoked: set[str] = set()
        self.refuses_questions = False
        self.scopes = {"sms:send", "sms:read", "email:send"}
        self.granted: dict[str, set[str]] = {}
        self.life_s: object = 3600
        self.revocation = Reply(401, b"")  # what is in front of them says no without their words
        self.refusals: list[tuple[int, str, dict[str, str]]] = []
        self.token_refusals: list[Reply] = []

    @property
    def token(self) -> str:
        """The last token that was given out."""
        return f"token-{self.n_tokens}-of-unimsg"

    def end_token(self) -> None:
        """Let the last token be too old."""
        self.ended.add(self.token)

    async def respond(self, request: GatewayRequest) -> Reply:
        """Serve the calls that the sender makes."""
        if request.path == "/oauth/token":
            return self._grant(request.form())
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token:
            return _refused(401, "UNAUTHORIZED")
        if token in self.revoked:
            return self.revocation
        if token in self.ended:
            return _refused(401, "TOKEN_EXPIRED")
        if token != self.token:
            return _refused(401, "INVALID_TOKEN")
        if request.path == "/v1/sms/send":
            may_send = "sms:send" in self.granted.get(token, set())
            return self._send(request.json()) if may_send else _refused(403, "INSUFFICIENT_SCOPE")
        if self.refuses_questions:
            return _refused(403, "INSUFFICIENT_SCOPE")
        sms = self.taken.get(request.path.removeprefix("/v1/sms/"))
        return Reply(200, {"success": True, "data": sms}) if sms else _refused(404, "MESSAGE_NOT_FOUND")

    def webhook(self, event: dict[str, Any], sent_at: float, *, secret: str = WEBHOOK_SECRET) -> tuple[Any, bytes]:
        """Return headers and body of a webhook."""
        body = msgspec.json.encode(event)
        return self.signed(body, sent_at, secret=secret), body

    def signed(self, body: bytes, sent_at: float, *, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
        """Return the headers that prove a body."""
        timestamp = str(int(sent_at))
        signature = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"x-unimsg-signature": signature, "x-unimsg-timestamp": timestamp, "content-type": "application/json"}

    def event(self, message_id: str, name: str = "message.delivered", **more: Any) -> dict[str, Any]:
        """Return the envelope of an event about a message."""
        data = {"message_id": message_id, "channel": "sms", "to": "+33612345600", "status": name.partition(".")[2]}
        return {
            "id": f"evt_{name.partition('.')[2]}_{message_id[-6:]}",
            "event": name,
            "created_at": "2027-01-15T08:00:05+00:00",
            "data": {**data, **more},
        }

    def _grant(self, form: dict[str, str]) -> Reply:
        if self.token_refusals:
            return self.token_refusals.pop(0)
        if form.get("grant_type") != "client_credentials":
            return Reply(400, {"error": "unsupported_grant_type", "error_description": "…"})
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return Reply(401, {"error": "invalid_client", "error_description": "Client authentication failed"})
        self.n_tokens += 1
        granted = self.granted[self.token] = self.scopes & set(form["scope"].split())
        said = {"access_token": self.token, "token_type": "Bearer", "expires_in": self.life_s}
        return Reply(200, {**said, "scope": " ".join(sorted(granted))})

    def _send(self, body: dict[str, Any]) -> Reply:
        if self.refusals:
            status, code, headers = self.refusals.pop(0)
            return _refused(status, code, headers)
        if not re.fullmatch(r"\+[1-9][0-9]{7,14}", body.get("to", "")):
            return _refused(422, "INVALID_PHONE")
        if not 0 < len(body.get("message", "")) <= 1600:
            return _refused(422, "MESSAGE_TOO_LONG")
        if not re.fullmatch(r"[A-Za-z0-9]{1,11}", body.get("sender", "X")):
            return _refused(422, "INVALID_SENDER")
        message_id = f"msg_sms_{secrets.token_hex(6)}"
        data = {"message_id": message_id, "to": body["to"], "status": "queued", "segments": 1, "credits_used": 1}
        self.taken[message_id] = {**data, "channel": "sms", "message": body["message"]}
        return Reply(200, {"success": True, "data": {**data, "created_at": "2027-01-15T08:00:00+00:00"}})


def _refused(status: int, code: str, headers: dict[str, str] | None = None) -> Reply:
    error = {"code": code, "message": "what went wrong", "details": {"field": "to", "reason": "a reason"}}
    return Reply(status, {"success": False, "error": error}, headers or {})
