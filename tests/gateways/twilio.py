"""Double of Twilio's Messages resource: form in, JSON out, errors by number, callbacks signed over address and form.

Kept to: 201 with a SID and a count of parts as text, basic auth with the account or with an API key, exactly one of
sender and messaging service, validity in bounds, no callback for the first state, callbacks that can be repeated.
"""

import base64
import hmac
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import uuid4

from otpsvc.senders.contract import ReceiptRequest
from otpsvc.testing.gateways import GatewayDouble, GatewayRequest, Reply

ACCOUNT_SID, AUTH_TOKEN = "AC" + "0a" * 16, "auth-token-of-the-account"
KEY_SID, KEY_SECRET = "SK" + "1b" * 16, "secret-of-the-api-key"
SERVICE_SID = "MG" + "2c" * 16
PUBLIC_URL = "https://codes.example"


class TwilioGateway(GatewayDouble):
    """`POST` and `GET` of messages. `refusals` holds error codes, or whole replies, for the next calls."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, dict[str, str]] = {}
        self.states: dict[str, tuple[str, int | None]] = {}
        self.refusals: list[int | Reply] = []

    @property
    def texts(self) -> list[str]:
        return [form["Body"] for form in self.taken.values()]

    async def respond(self, request: GatewayRequest) -> Reply:
        if self.refusals:
            refusal = self.refusals.pop(0)
            return refusal if isinstance(refusal, Reply) else error(refusal)
        base = f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages"
        if not _is_allowed(request.headers.get("authorization", "")):
            return error(20003, 401)
        if (request.method, request.path) == ("GET", f"{base}.json"):
            texts = [] if "DateSent" in request.query else [self.resource(sid) for sid in self.taken]
            return Reply(200, {"messages": texts, "page_size": 1})
        if request.method == "GET":
            sid = request.path.removeprefix(f"{base}/").removesuffix(".json")
            return Reply(200, self.resource(sid)) if sid in self.taken else error(20404, 404)
        if (request.method, request.path) != ("POST", f"{base}.json"):
            return error(20404, 404)
        form = request.form()
        if (code := _fault(form)) is not None:
            return error(code)
        sid = f"SM{uuid4().hex}"
        self.taken[sid] = form
        self.states[sid] = ("accepted" if "MessagingServiceSid" in form else "queued", None)
        return Reply(201, self.resource(sid))

    def resource(self, sid: str) -> dict[str, Any]:
        """A message as they show it, its text and number included."""
        form, (status, code) = self.taken[sid], self.states[sid]
        return {
            "sid": sid,
            "account_sid": ACCOUNT_SID,
            "api_version": "2010-04-01",
            "body": form["Body"],
            "to": form["To"],
            "from": form.get("From"),
            "messaging_service_sid": form.get("MessagingServiceSid"),
            "status": status,
            "error_code": code,
            "error_message": f"about {form['To']}" if code else None,
            "num_segments": str(1 + (len(form["Body"]) - 1) // 160),
            "date_updated": "Fri, 15 Jan 2027 08:00:00 +0000",
        }

    def callback(
        self,
        sid: str,
        status: str = "delivered",
        *,
        url: str | None = None,
        code: int | None = None,
        secret: str | None = AUTH_TOKEN,
        account: str = ACCOUNT_SID,
        **more: str,
    ) -> ReceiptRequest:
        """A callback to the address that the message named, signed unless `secret` is None."""
        url = self.taken[sid]["StatusCallback"] if url is None else url
        form = {
            "SmsSid": sid,
            "SmsStatus": status,
            "MessageStatus": status,
            "To": "+33612345678",
            "MessageSid": sid,
            "AccountSid": account,
            "From": "+15005550006",
            "ApiVersion": "2010-04-01",
            **({"ErrorCode": str(code)} if code is not None else {}),
            **more,
        }
        return signed(url, urlencode(form).encode(), secret)


def signed(url: str, body: bytes, secret: str | None = AUTH_TOKEN) -> ReceiptRequest:
    """A form with the signature that their guide describes."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    if secret is not None:
        text = url
        for name, value in sorted(parse_qsl(body.decode("latin-1"), keep_blank_values=True)):
            text += name + value
        digest = hmac.digest(secret.encode(), text.encode(), "sha1")
        headers["x-twilio-signature"] = base64.b64encode(digest).decode()
    return ReceiptRequest(method="POST", url=url, headers=headers, body=body)


def error(code: int, status: int = 400) -> Reply:
    return Reply(
        status,
        {
            "code": code,
            "message": "The number +33612345678 did not like 583920",
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status,
        },
    )


def _is_allowed(header: str) -> bool:
    pairs = ((ACCOUNT_SID, AUTH_TOKEN), (KEY_SID, KEY_SECRET))
    return header in {"Basic " + base64.b64encode(":".join(pair).encode()).decode() for pair in pairs}


def _fault(form: dict[str, str]) -> int | None:
    if ("From" in form) == ("MessagingServiceSid" in form):
        return 21603
    if not form.get("To", "").startswith("+"):
        return 21211
    if not form.get("Body"):
        return 21602
    if len(form["Body"]) > 1600:
        return 21617
    return None if 1 <= int(form.get("ValidityPeriod", "1")) <= 14_400 else 21624
