"""Doubles of Vonage: the SMS API and the Messages API, with their proofs written down a second time.

Kept to: 200 for nearly every answer of the SMS API, one entry per part, key and secret in a header or in the form,
signed calls and what is wrong with them, receipts in three forms; on the Messages API tokens that end, problems that
are named by the end of a URL, webhooks signed for exactly one body.
"""

import base64
import functools
import hashlib
import hmac
import itertools
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from otpsvc.clock import Clock
from otpsvc.senders.contract import ReceiptRequest
from otpsvc.testing.gateways import GatewayDouble, GatewayRequest, Reply

API_KEY, API_SECRET = "abcd1234", "s3cr3t-of-the-account"
SIGNATURE_SECRET = "signature-secret-of-the-account-0123456789"
APPLICATION_ID = "aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab"
PUBLIC_URL = "https://codes.example"
WRONG_CLOCK_S = 300


@functools.cache
def private_key() -> str:
    """An application's key as PEM text; made once, because that takes a while."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()).decode()


@functools.cache
def public_key() -> Any:
    return serialization.load_pem_private_key(private_key().encode(), None).public_key()


def public_pem() -> str:
    """The other half of the key, which cannot sign."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def sig_of(fields: dict[str, str], method: str, secret: str = SIGNATURE_SECRET) -> str:
    """What the vendor's own libraries compute, HMACs in capitals as some of them write it."""
    joined = ""
    for name, value in sorted(fields.items()):
        joined += "&" + name + "=" + value.translate({ord("&"): "_", ord("="): "_"})
    if method == "md5hash":
        return hashlib.md5((joined + secret).encode()).hexdigest()  # noqa: S324 - their protocol
    return hmac.digest(secret.encode(), joined.encode(), method).hex().upper()


@dataclass
class Taken:
    """A message that was taken, with the ids of its parts."""

    fields: dict[str, Any]
    ids: list[str] = field(default_factory=list)


class VonageSmsGateway(GatewayDouble):
    """`POST /sms/json`. `refusals` holds the statuses of the next calls' parts: `["0", "1"]` takes one of two."""

    def __init__(self, clock: Clock, *, method: str = "sha256") -> None:
        super().__init__()
        self.clock = clock
        self.method = method
        self.taken: list[Taken] = []
        self.refusals: list[list[str]] = []
        self.set_replies: list[Reply] = []
        self._ids = itertools.count(1)

    @property
    def texts(self) -> list[str]:
        return [taken.fields["text"] for taken in self.taken]

    async def respond(self, request: GatewayRequest) -> Reply:
        if (request.method, request.path) == ("GET", "/account/get-balance"):
            return _balance() if request.headers.get("authorization") == _basic() else _no_account()
        if (request.method, request.path) != ("POST", "/sms/json"):
            return Reply(404, b"not found")
        if self.set_replies:
            return self.set_replies.pop(0)
        form = request.form()
        fault = self._proof_fault(request, form) or self._fault(form)
        if fault:
            return _parts([{"status": fault, "error-text": f"wrong, says the gateway to {form.get('to')}"}])
        n_parts = _n_parts(form["text"], form["type"])
        statuses = self.refusals.pop(0) if self.refusals else ["0"] * n_parts
        taken = Taken(form)
        parts = [self._part(form, status, taken) for status in statuses]
        if taken.ids:
            self.taken.append(taken)
        return _parts(parts)

    def _part(self, form: dict[str, str], status: str, taken: Taken) -> dict[str, str]:
        if status != "0":
            return {"status": status, "error-text": f"no: {form['text']}"}
        taken.ids.append(f"{next(self._ids):016X}")
        return {
            "to": form["to"],
            "message-id": taken.ids[-1],
            "status": "0",
            "remaining-balance": "3.14159265",
            "message-price": "0.03330000",
            "network": "20801",
            "client-ref": form.get("client-ref", ""),
        }

    def _proof_fault(self, request: GatewayRequest, form: dict[str, str]) -> str | None:
        header = request.headers.get("authorization")
        if "sig" not in form:
            in_form = (form.get("api_key"), form.get("api_secret")) == (API_KEY, API_SECRET)
            return None if in_form or header == _basic() else "4"
        if header is not None or "api_secret" in form:
            return "32"
        rest = {name: value for name, value in form.items() if name != "sig"}
        is_right = form["sig"].upper() == sig_of(rest, self.method).upper() and form.get("api_key") == API_KEY
        is_timely = abs(int(form.get("timestamp", "0")) - self.clock.time()) <= WRONG_CLOCK_S
        return None if is_right and is_timely else "14"

    def _fault(self, form: dict[str, str]) -> str | None:
        if not {"from", "to", "text"} <= form.keys():
            return "2"
        is_number = form["to"].isdigit() and 7 <= len(form["to"]) <= 15
        is_ttl = 20_000 <= int(form.get("ttl", "20000")) <= 604_800_000
        if (
            not is_number
            or not is_ttl
            or form["type"] not in {"text", "unicode"}
            or len(form.get("client-ref", "")) > 100
        ):
            return "3"
        return "23" if len(form.get("callback", "")) > 100 else None

    def receipt(
        self,
        provider_id: str,
        status: str = "delivered",
        *,
        style: str = "json",
        err_code: str = "0",
        client_ref: str | None = None,
        secret: str | None = SIGNATURE_SECRET,
        token: str | None = None,
        at: float | None = None,
        api_key: str = API_KEY,
        **more: str,
    ) -> ReceiptRequest:
        """A receipt as they bring it: `style` is json, form or query; signed unless `secret` is None."""
        fields = {
            "msisdn": "33612345678",
            "to": "Acme",
            "network-code": "20801",
            "messageId": provider_id,
            "price": "0.03330000",
            "status": status,
            "scts": "2701150800",
            "err-code": err_code,
            "api-key": api_key,
            "message-timestamp": "2027-01-15 08:00:00",
            **({"client-ref": client_ref} if client_ref is not None else {}),
            **more,
        }
        if secret is not None:
            fields |= {"timestamp": str(int(self.clock.time() if at is None else at)), "nonce": uuid4().hex}
            fields["sig"] = sig_of(fields, self.method, secret)
        url = f"{PUBLIC_URL}/receipts/vonage" + (f"/{token}" if token else "")
        if style == "query":
            return ReceiptRequest(method="GET", url=f"{url}?{urlencode(fields)}", headers={}, body=b"")
        body, kind = (json.dumps(fields), "json") if style == "json" else (urlencode(fields), "x-www-form-urlencoded")
        return ReceiptRequest(
            method="POST", url=url, headers={"content-type": f"application/{kind}"}, body=body.encode()
        )


class VonageMessagesGateway(GatewayDouble):
    """`POST /v1/messages`. `refusals` holds what the next calls are refused with: a status and a problem."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.taken: list[dict[str, Any]] = []
        self.refusals: list[Reply] = []
        self.date: str | None = None

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.taken]

    async def respond(self, request: GatewayRequest) -> Reply:
        if (request.method, request.path) != ("POST", "/v1/messages"):
            return problem(404, "not-found")
        if (slug := self._proof_fault(request.headers.get("authorization", ""))) is not None:
            return Reply(401, problem(401, slug).body, {"date": self.date} if self.date else {})
        if self.refusals:
            return self.refusals.pop(0)
        body = request.json()
        if (reply := _message_fault(body)) is not None:
            return reply
        self.taken.append(body)
        return Reply(202, {"message_uuid": str(uuid4())})

    def _proof_fault(self, header: str) -> str | None:
        scheme, _, token = header.partition(" ")
        if scheme == "Basic":
            return None if header == _basic() else "unauthorized"
        try:
            options = {"verify_exp": False, "verify_iat": False, "require": ["iat", "exp", "jti"]}
            claims = jwt.decode(token, public_key(), algorithms=["RS256"], options=options)  # type: ignore[arg-type]  # the library's own keys
        except jwt.PyJWTError:
            return "unauthorized"
        if claims["application_id"] != APPLICATION_ID or claims["iat"] > self.clock.time() + 60:
            return "unauthorized"
        return "jwt-expired" if claims["exp"] <= self.clock.time() else None

    def webhook(
        self,
        message_uuid: str,
        status: str = "delivered",
        *,
        code: str | None = None,
        client_ref: str | None = None,
        at: float | None = None,
        secret: str | None = SIGNATURE_SECRET,
        api_key: str = API_KEY,
        algorithm: str = "HS256",
        token: str | None = None,
        body: bytes | None = None,
        signed_body: bytes | None = None,
        **more: object,
    ) -> ReceiptRequest:
        """A status as they bring it, signed for `signed_body` (the body itself unless another is given)."""
        told: dict[str, object] = {
            "message_uuid": message_uuid,
            "to": "33612345678",
            "from": "Acme",
            "timestamp": "2027-01-15T08:00:00.000Z",
            "status": status,
            "channel": "sms",
            "usage": {"currency": "EUR", "price": "0.0333"},
            "destination": {"network_code": "20801"},
            "sms": {"count_total": "1"},
            **({"client_ref": client_ref} if client_ref is not None else {}),
            **more,
        }
        if code is not None:
            told["error"] = {
                "type": f"https://developer.vonage.com/api-errors/messages#{code}",
                "title": code,
                "detail": "about 33612345678",
                "instance": uuid4().hex,
            }
        body = json.dumps(told).encode() if body is None else body
        headers = {"content-type": "application/json"}
        if secret is not None:
            claims = {
                "iat": int(self.clock.time() if at is None else at),
                "jti": uuid4().hex,
                "iss": "Vonage",
                "payload_hash": hashlib.sha256(signed_body or body).hexdigest(),
                "api_key": api_key,
                "application_id": APPLICATION_ID,
            }
            key = "" if algorithm == "none" else secret
            headers["authorization"] = f"Bearer {jwt.encode(claims, key, algorithm=algorithm)}"
        url = f"{PUBLIC_URL}/receipts/vonage" + (f"/{token}" if token else "")
        return ReceiptRequest(method="POST", url=url, headers=headers, body=body)


def problem(status: int, code: str | None, *, retry_after: str | None = None, wrong: tuple[str, ...] = ()) -> Reply:
    """A problem document; a `code` of None leaves the type out, `wrong` names fields."""
    body: dict[str, object] = {"title": "No", "detail": "not to 33612345678", "instance": uuid4().hex}
    if wrong:
        body["invalid_parameters"] = [{"name": name, "reason": "33612345678 is wrong"} for name in wrong]
    if code is not None:
        body["type"] = f"https://developer.vonage.com/api-errors#{code}"
    headers = {"content-type": "application/problem+json", **({"retry-after": retry_after} if retry_after else {})}
    return Reply(status, json.dumps(body).encode(), headers)


def _message_fault(body: dict[str, Any]) -> Reply | None:
    is_number = str(body.get("to", "")).isdigit() and 7 <= len(body["to"]) <= 15
    if not is_number or body.get("message_type") != "text" or not body.get("from"):
        return problem(422, "invalid-params")
    if body.get("channel") == "sms" and not 20 <= body.get("ttl", 20) <= 604_800:
        return problem(422, "1130")
    if body.get("channel") == "whatsapp" and {"ttl", "sms"} & body.keys():
        return problem(422, "invalid-params")
    return problem(422, "1090") if len(body.get("text", "")) > 1000 else None


def _basic() -> str:
    return "Basic " + base64.b64encode(f"{API_KEY}:{API_SECRET}".encode()).decode()


def _balance() -> Reply:
    return Reply(200, {"value": 3.14159, "autoReload": False})


def _no_account() -> Reply:
    return Reply(401, {"error-code": "401", "error-code-label": "authentication failed"})


def _parts(parts: list[dict[str, str]]) -> Reply:
    return Reply(200, {"message-count": str(len(parts)), "messages": parts})


def _n_parts(text: str, kind: str) -> int:
    one, each = (160, 153) if kind == "text" else (70, 67)
    length = len(text) if kind == "text" else len(text.encode("utf-16-le")) // 2
    return 1 if length <= one else -(-length // each)
