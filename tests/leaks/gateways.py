"""Gateways as indiscreet as they come: they repeat number and text wherever they answer, and name messages after them.

They run in a thread of the test's own process, which no search looks into. What each of them does with a message is
chosen by the last digit of the number: 0 to 5 takes it.
"""

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from otpsvc.clock import SystemClock
from otpsvc.testing import GatewayDouble, GatewayRequest, Reply
from tests.gateways import notificore, smsgate, vonage, webhook

NAMES_AFTER_NUMBER, REFUSES, UNMAPPED, TAKES_AND_FAILS = 6, 7, 8, 9
# Which gateways the numbers of a prefix go through, in their order.
ROUTES = {
    "+33612": ("local", "vonage"),
    "+33613": ("vonage", "smsgate"),
    "+33614": ("smsgate", "local"),
    "+33615": ("owner",),
}
SECRETS = (webhook.SECRET, vonage.API_SECRET, vonage.SIGNATURE_SECRET, smsgate.PASSWORD, notificore.API_KEY)


class Held(NamedTuple):
    """One message that a gateway took: our id, the number (E.164) and the text."""

    sender: str
    message_id: str
    to: str
    text: str


class IndiscreetWebhook(webhook.WebhookDouble):
    """A receiver that answers with what it was given."""

    async def respond(self, request: GatewayRequest) -> Reply:
        body = request.json()
        told = {"message": f"{body['text']} to {body['to']}", "to": body["to"]}
        habit = int(body["to"][-1])
        if habit == REFUSES:
            return Reply(400, {"error": "unsupported", **told})
        if habit == UNMAPPED:
            return Reply(400, {"error": f"cannot send {body['text']} to {body['to']}", **told})
        reply = await super().respond(request)
        if habit == NAMES_AFTER_NUMBER and reply.status == 200:
            return Reply(200, {"message_id": f"{body['to']}-1", **told})
        if habit == TAKES_AND_FAILS:
            return Reply(500, f"<h1>{body['text']}</h1>{body['to']}".encode(), {"content-type": "text/html"})
        return reply


class IndiscreetVonage(vonage.VonageSmsGateway):
    """A gateway with codes that no table knows."""

    def _fault(self, form: dict[str, str]) -> str | None:
        return {REFUSES: "6", UNMAPPED: "97"}.get(int(form["to"][-1])) or super()._fault(form)


class IndiscreetSmsGate(smsgate.SmsGateDouble):
    """A server whose refusals quote."""

    def _take(self, request: GatewayRequest) -> Reply:
        body = request.json()
        number = body["phoneNumbers"][0]
        if int(number[-1]) in {REFUSES, UNMAPPED}:
            raise smsgate.Refused(400, f"no {body['textMessage']['text']} to {number}")
        return super()._take(request)


class Gateways:
    """All of them, running."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.local = IndiscreetWebhook(is_deduplicating=False)
        self.vonage = IndiscreetVonage(clock)
        self.smsgate = IndiscreetSmsGate(clock)
        self.owner = notificore.NotificoreTwoFactorGateway()
        self._numbers = itertools.count(1)

    @property
    def doubles(self) -> tuple[GatewayDouble, ...]:
        return self.local, self.vonage, self.smsgate, self.owner

    def held(self) -> list[Held]:
        """Every message that one of them took."""
        found = [Held("local", str(body["id"]), str(body["to"]), str(body["text"])) for body in list(self.local.taken)]
        fields = [taken.fields for taken in list(self.vonage.taken)]
        found += [Held("vonage", each["client-ref"], f"+{each['to']}", each["text"]) for each in fields]
        found += [Held("smsgate", held.id, held.to, held.text) for held in list(self.smsgate.held)]
        return found

    def sessions(self) -> list[tuple[str, str]]:
        """The numbers (E.164) that were sent a code of a gateway's own, and those codes."""
        return [(f"+{one.request['recipient']}", one.code) for one in list(self.owner.sessions.values())]

    def tables(self) -> str:
        """Write the settings of their senders."""
        tables: dict[str, dict[str, Any]] = {
            "local": {
                "type": "webhook", "url": f"{self.local.url}/send", "secret": webhook.SECRET, "deduplicates": False,
                "receipts": True, "receipt_within_s": 3, "timeout_s": 1,
            },
            "vonage": {
                "type": "vonage-sms", "api_key": vonage.API_KEY, "api_secret": vonage.API_SECRET, "origin": "Acme",
                "signature_secret": vonage.SIGNATURE_SECRET, "base_url": self.vonage.url,
            },
            "smsgate": {
                "type": "smsgate", "url": self.smsgate.base, "username": smsgate.USER, "password": smsgate.PASSWORD,
                "device_id": smsgate.PHONE, "signing_key": smsgate.KEY,
            },
            "owner": {
                "type": "notificore-2fa", "url": self.owner.base, "api_key": notificore.API_KEY, "sender": "Acme",
                "template_id": 4711,
            },
        }  # fmt: skip
        lines = []
        for name, table in tables.items():
            lines.append(f"[senders.{name}]\nallow_private = true\nbreaker_failures = 1000")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def running_gateways() -> Iterator[Gateways]:
    """Let all of them listen for the body of a `with`, in a thread."""
    gateways = Gateways()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    stack = contextlib.AsyncExitStack()

    async def listen() -> None:
        for double in gateways.doubles:
            await stack.enter_async_context(double)

    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(listen(), loop).result(30)
        yield gateways
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
