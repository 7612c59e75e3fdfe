"""Everything that can happen to a code on its way through gateways, and everything that these say about it later."""

import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from otpsvc.senders.contract import ReceiptRequest
from tests.gateways import smsgate
from tests.gateways.webhook import OTHER_SECRET, SECRET, signed
from tests.leaks.flows import Flows
from tests.leaks.gateways import NAMES_AFTER_NUMBER, REFUSES, TAKES_AND_FAILS, UNMAPPED, Held
from tests.leaks.stack import code_in
from tests.programs import wait_until


class GatewayFlows:
    """The callers of `flows`, with numbers that go through gateways."""

    def __init__(self, flows: Flows) -> None:
        self.flows = flows
        self.gateways = flows.stack.gateways

    def number(self, prefix: str, habit: int = 0) -> str:
        """Give a number that goes through the gateways of this prefix."""
        number = f"{prefix}{secrets.randbelow(10**5):05}{habit}"
        if number in self.flows.numbers:
            return self.number(prefix, habit)
        self.flows.numbers.add(number)
        return number

    def held(self, message_id: str, sender: str) -> Held:
        """Wait until this gateway has the message."""

        def found() -> list[Held]:
            return [one for one in self.gateways.held() if (one.message_id, one.sender) == (message_id, sender)]

        wait_until(lambda: bool(found()), f"{message_id} with {sender}")
        return found()[0]

    def bring(self, request: ReceiptRequest, path: str = "") -> int:
        """Bring a receipt; return the status of the answer."""
        url = urlsplit(request.url)
        target = path or url.path + (f"?{url.query}" if url.query else "")
        answer = self.flows.stranger.request(
            request.method, target, content=request.body, headers=dict(request.headers)
        )
        return answer.status_code

    def comes_to(self, message_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until the message has one of these statuses."""
        found: dict[str, Any] = {}

        def is_there() -> bool:
            found.update(self.flows.browser.get(f"/v1/messages/{message_id}").json())
            return found["status"] in statuses

        wait_until(is_there, f"{message_id} to be {statuses}: {found}")
        return found

    # -- the flows

    def through_a_webhook(self) -> None:
        """Genuine, forged, malformed, repeated receipts, each with all that the gateway knows."""
        flows = self.flows
        sent = flows.send(self.number("+33612"), metadata={"order": 7})
        held = self.held(sent["message_id"], "local")
        code = code_in(held.text)
        said = {"id": held.message_id, "text": held.text, "to": held.to, "code": code, "detail": f"{code} to {held.to}"}
        now = time.time()
        assert self.bring(signed({**said, "status": "delivered"}, OTHER_SECRET, now)) == 401
        assert self.bring(signed({**said, "status": "delivered"}, SECRET, now - 7200)) == 401
        assert self.bring(signed(f"{code} {held.to}".encode(), SECRET, now)) == 400
        assert self.bring(signed({**said, "status": [code], "id": held.to}, SECRET, now)) == 400
        assert self.bring(signed({**said, "status": held.text}, SECRET, now)) == 200
        assert self.bring(signed({**said, "status": "sent"}, SECRET, now)) == 200
        for status in ("delivered", "delivered", "failed"):
            told = signed({**said, "status": status, "error": held.text, "at": code}, SECRET, now)
            assert self.bring(told) == 200
        self.comes_to(held.message_id, "delivered")
        for path in (f"/receipts/{code}", f"/receipts/local/{code}", f"/receipts/{held.to}?text={code}"):
            self.bring(signed({**said, "status": "sent"}, SECRET, now), path)
        assert flows.verify(sent["otp_id"], code).json()["valid"] is True

    def parked(self) -> None:
        """Receipts about ids that nobody notes; an id that is a number is none that we take.

        An id is looked up in the history, so a PostgreSQL that was told to log every parameter has it in its own log.
        """
        sent = self.flows.send(self.number("+33612", NAMES_AFTER_NUMBER))
        held = self.held(sent["message_id"], "local")
        code = code_in(held.text)
        for name, answer in ((f"{held.to}-1", 400), (f"later-{secrets.token_hex(4)}", 200)):
            for status in ("sent", "failed"):
                said = {"message_id": name, "status": status, "text": held.text, "error": f"{code} {held.to}"}
                assert self.bring(signed(said, SECRET, time.time())) == answer

    def through_vonage(self) -> None:
        """Receipts as JSON, as a form and in the query, which logs of proxies like to keep; ours must not."""
        sent = self.flows.send(self.number("+33613"))
        held = self.held(sent["message_id"], "vonage")
        gateway = self.gateways.vonage
        (taken,) = [one for one in gateway.taken if one.fields["client-ref"] == held.message_id]
        more: dict[str, Any] = {"msisdn": held.to[1:], "text": held.text, "client-ref": held.message_id}
        for style in ("json", "form", "query"):
            forged = gateway.receipt(taken.ids[0], style=style, secret="0" * 40, **more)
            assert self.bring(forged) == 401
            cut = gateway.receipt("", style=style, **more)
            assert self.bring(cut) == 400
            assert self.bring(gateway.receipt(taken.ids[0], "accepted", style=style, **more)) == 200
        failed = gateway.receipt(taken.ids[0], "failed", err_code="77", **more)
        assert self.bring(failed) == 200
        self.comes_to(held.message_id, "failed")

    def through_smsgate(self) -> None:
        sent = self.flows.send(self.number("+33614"))
        self.held(sent["message_id"], "smsgate")
        gateway, path = self.gateways.smsgate, "/receipts/smsgate"
        (held,) = [one for one in gateway.held if one.id == sent["message_id"]]
        said = {"message": held.text, "sender": held.to, "reason": f"{held.text} to {held.to}"}
        for kind in ("sms:sent", "sms:delivered", "sms:received", "sms:failed"):
            event = gateway.event(held, kind, **said)
            assert self.bring(gateway.posted(event, key=smsgate.OTHER_KEY), path) == 401
            assert self.bring(gateway.posted(event, skew_s=-86_400), path) == 401
            assert self.bring(gateway.posted(event[:-9]), path) == 400
            assert self.bring(gateway.posted(event), path) in {200, 400}
        self.comes_to(held.id, "delivered")
        assert self.flows.verify(sent["otp_id"], code_in(held.text)).json()["valid"] is True

    def goes_on(self) -> None:
        """Refused with a known code and with one that no table knows: the next gateway takes it."""
        for habit in (REFUSES, UNMAPPED):
            # The one behind it takes what ends like this, or refuses it in its turn.
            sent = self.flows.send(self.number("+33612", habit))
            self.comes_to(sent["message_id"], "sent", "failed")
            self.flows.browser.get(f"/v1/otp/{sent['otp_id']}")
            sent = self.flows.send(self.number("+33613", habit))
            self.comes_to(sent["message_id"], "sent", "failed")
            sent = self.flows.send(self.number("+33614", habit))
            self.comes_to(sent["message_id"], "sent", "failed")

    def is_silent(self) -> None:
        """Taken, and answered with a page that quotes it: after a while the next one has it too."""
        sent = self.flows.send(self.number("+33612", TAKES_AND_FAILS))
        first = self.held(sent["message_id"], "local")
        assert self.held(sent["message_id"], "vonage").text == first.text
        self.comes_to(sent["message_id"], "sent")
        history = self.flows.browser.get(f"/v1/otp/{sent['otp_id']}").json()
        assert history["otp_id"] == sent["otp_id"]

    def has_a_code_of_the_gateways(self) -> None:
        """The code is made elsewhere, and every guess goes there."""
        flows, number = self.flows, self.number("+33615")
        sent = flows.send(number, code_length=8)

        def codes() -> list[str]:
            return [code for to, code in self.gateways.sessions() if to == number]

        wait_until(lambda: bool(codes()), f"the session of {sent['message_id']}")
        self.comes_to(sent["message_id"], "sent")
        guess = flows.guess(8)
        assert flows.verify(sent["otp_id"], guess).json()["valid"] is (guess in codes())
        assert flows.verify(sent["otp_id"], codes()[0]).json()["valid"] is True

    def all(self) -> list[Callable[[], None]]:
        return [
            self.through_a_webhook, self.parked, self.through_vonage, self.through_smsgate, self.goes_on,
            self.is_silent, self.has_a_code_of_the_gateways,
        ]  # fmt: skip
