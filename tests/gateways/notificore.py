"""Doubles of Notificore: the REST API 1.0, and the verifications of the API 2.0.

Kept to: one message per reference for ever, errors as numbers inside an answer that may well be a 200, both shapes of
answers, callbacks that prove nothing; tokens by log-in, codes made there, errors as texts.
"""

import re
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import msgspec

from otpsvc.testing import GatewayDouble, GatewayRequest, Reply

API_KEY = "live_0123456789abcdef"


@dataclass
class Sms:
    """One SMS that was taken."""

    id: int
    body: dict[str, Any]
    status: str = "sent"


class NotificoreGateway(GatewayDouble):
    """API 1.0. `error_status` is the HTTP status of refusals, `is_older` gives the older shape of answers."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Sms] = []
        self.error_status = 200
        self.is_older = False
        self.are_numbers_text = False
        self.refusals: list[int | str] = []

    @property
    def base(self) -> str:
        """What the setting `url` is to be."""
        return f"{self.url}/rest"

    def status_of(self, sms: Sms, status: str) -> dict[str, Any]:
        """The status object, as an answer to a poll and as a callback."""
        return {
            "error": 0,
            "errorDescription": "No errors",
            "id": str(sms.id),
            "msisdn": sms.body["msisdn"],
            "reference": sms.body["reference"],
            "time_in": "2027-01-15 08:00:00",
            "time_sent": "2027-01-15 08:00:01",
            "time_dr": "2027-01-15 08:00:05",
            "status": status,
            "price": 0.05,
            "currency": "EUR",
        }

    def callback(self, sms: Sms, status: str, *, is_form: bool = False) -> bytes:
        """The body of a callback."""
        said = self.status_of(sms, status)
        return urlencode(said).encode() if is_form else msgspec.json.encode(said)

    async def respond(self, request: GatewayRequest) -> Reply:
        """Serve the calls that the sender makes."""
        if request.headers.get("x-api-key") != API_KEY:
            return self._refused(1)
        if request.path == "/rest/sms/create" and request.method in {"POST", "PUT"}:
            return self._create(request.json())
        if request.path == "/rest/common/balance":
            return Reply(200, {"amount": "12.50", "currency": "EUR", "limit": 0})
        if request.method == "GET" and (found := re.fullmatch(r"/rest/sms/reference/(\w+)", request.path)):
            for sms in self.taken:
                if sms.body["reference"] == found[1]:
                    return Reply(200, self.status_of(sms, sms.status))
            return self._refused(20)
        return self._refused(4)

    def _create(self, body: dict[str, Any]) -> Reply:
        if self.refusals:
            return self._refused(self.refusals.pop(0))
        code = self._fault_of(body)
        if code:
            return self._refused(code)
        sms = Sms(700_000 + len(self.taken), body)
        self.taken.append(sms)
        error = "0" if self.are_numbers_text else 0
        said = {"error": error, "id": sms.id, "reference": body["reference"], "price": 0.05, "currency": "EUR"}
        return Reply(200, {"result": {**said, "errorDescription": "No errors"}} if self.is_older else said)

    def _fault_of(self, body: dict[str, Any]) -> int:
        reference = body.get("reference", "")
        if body.get("destination") != "phone" or not {"body", "msisdn", "reference", "originator"} <= body.keys():
            return 3
        rules = {
            21: re.fullmatch(r"[1-9][0-9]{7,14}", body["msisdn"]),
            27: re.fullmatch(r"[A-Za-z0-9]{1,32}", reference),
            23: reference not in {sms.body["reference"] for sms in self.taken},
            25: 0 < len(body["originator"]) <= 14,
            26: 0 < len(body["body"]) <= 1000,
            28: body.get("validity", 72) in range(1, 73),
            6: body.get("tariff", 0) in range(10),
        }
        return next((code for code, is_kept in rules.items() if not is_kept), 0)

    def _refused(self, code: int | str) -> Reply:
        error = str(code) if self.are_numbers_text else code
        said: dict[str, Any] = {"error": error, "errorDescription": "what went wrong"}
        return Reply(self.error_status, {"result": said} if self.is_older else said)


@dataclass
class Session:
    """One verification there."""

    request: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid4()))
    status: str = "pending"
    n_tries: int = 0
    code: str = ""


class NotificoreTwoFactorGateway(GatewayDouble):
    """API 2.0: log-in and verifications. `stale` are tokens it no longer takes; `refusals` are texts for new ones."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, Session] = {}
        self.n_log_ins = 0
        self.stale: set[str] = set()
        self.refusals: list[tuple[int, str]] = []

    @property
    def base(self) -> str:
        """What the setting `url` is to be."""
        return f"{self.url}/api"

    @property
    def token(self) -> str:
        """The last token that was given out."""
        return f"bearer-{self.n_log_ins}-of-notificore"

    async def respond(self, request: GatewayRequest) -> Reply:
        """Serve the calls that the sender makes."""
        path = request.path.removeprefix("/api")
        if path == "/auth/login":
            if request.json() != {"api_key": API_KEY}:
                return _said(401, "Unauthorized")
            self.n_log_ins += 1
            return Reply(200, {"bearer": self.token})
        if request.headers.get("authorization") != f"Bearer {self.token}" or self.token in self.stale:
            return _said(401, "Unauthenticated")
        if path == "/2fa/authentications/otp":
            return self._start(request.json())
        found = re.fullmatch(r"/2fa/authentications/(?:otp/)?([0-9a-f-]{36})(/verify|/cancel)?", path)
        session = self.sessions.get(found[1]) if found else None
        if found is None or session is None:
            return _said(404, "Authentication not found")
        if found[2] == "/verify":
            return self._verify(session, request.json()["access_code"])
        if found[2] == "/cancel":
            if session.status != "pending":
                return _said(400, "Authentication has already ended")
            session.status = "canceled"
        return Reply(200, _data(session))

    def _start(self, body: dict[str, Any]) -> Reply:
        if self.refusals:
            return _said(*self.refusals.pop(0))
        if not re.fullmatch(r"[0-9]{9,15}", body["recipient"]):
            return _said(400, "Invalid phone number format")
        in_range = 3 <= body["code_digits"] <= 9 and 30 <= body["code_lifetime"] <= 300 and body["code_max_tries"] > 0
        if not in_range or not 0 < body["template_id"] < 10**9 or body["channel"] not in {"sms", "viber"}:
            return Reply(422, {"message": "The given data was invalid."})
        session = Session(body, code=f"{secrets.randbelow(10 ** body['code_digits']):0{body['code_digits']}d}")
        self.sessions[session.id] = session
        return Reply(201, _data(session))

    def _verify(self, session: Session, guess: str) -> Reply:
        if session.status != "pending":
            return _said(400, "Authentication has already ended")
        if guess == session.code:
            session.status = "verified"
            return Reply(200, _data(session))
        session.n_tries += 1
        if session.n_tries >= session.request["code_max_tries"]:
            session.status = "failed"
        return _said(400, "Invalid access code")


def _data(session: Session) -> dict[str, Any]:
    return {"data": {"id": session.id, "recipient": session.request["recipient"], "status": session.status}}


def _said(status: int, message: str) -> Reply:
    return Reply(status, {"errors": [{"message": message}]})
