"""The receiver on the page of the webhook is what strangers begin with: it must keep what the sender relies on."""

import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from otpsvc.clock import SystemClock
from otpsvc.senders.contract import Accepted, Rejected, RejectionKind, Secret, Unknown
from otpsvc.senders.webhook import WebhookSender, WebhookSettings
from otpsvc.testing import Fault, GatewayDouble, GatewayRequest, Reply, outbound_message, sender_context
from tests.gateways.webhook import OTHER_SECRET, SECRET

PAGE = Path(__file__).parents[2] / "docs" / "gateways" / "webhook.md"


def receiver() -> dict[str, Any]:
    """Run the code of the page, and return its names."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours, and this is what it is for
    names["SECRET"] = SECRET
    return names


class Documented(GatewayDouble):
    """The receiver of the page behind a server. `sent` is what its gateway took."""

    def __init__(self) -> None:
        super().__init__()
        self.names = receiver()
        self.sent: list[tuple[str, str]] = []
        self.names["send"] = self.send

    def send(self, to: str, text: str) -> str:
        self.sent.append((to, text))
        return f"local-{len(self.sent)}"

    async def respond(self, request: GatewayRequest) -> Reply:
        said: list[str] = []

        def start(status: str, _headers: object) -> None:
            said.append(status)

        environ: dict[str, object] = {
            f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()
        }
        environ |= {"wsgi.input": io.BytesIO(request.body), "CONTENT_LENGTH": str(len(request.body))}
        try:
            body = b"".join(self.names["app"](environ, start))
        except Exception:  # noqa: BLE001 - as a server does
            return Reply(500, b"<html>")
        return Reply(int(said[0][:3]), body)


@asynccontextmanager
async def stage(secret: str = SECRET) -> AsyncIterator[tuple[WebhookSender, Documented]]:
    async with Documented() as gateway:
        settings = WebhookSettings(url=f"{gateway.url}/otp", secret=Secret(secret), allow_private=True, timeout_s=1.0)
        sender = WebhookSender("local", settings, sender_context(clock=SystemClock()))
        await sender.open()
        try:
            yield sender, gateway
        finally:
            await sender.close()


@pytest.mark.parametrize("fault", [None, Fault.HTML_500_AFTER, Fault.CLOSE_MID_BODY])
async def test_a_message_is_sent_once_however_often_it_is_brought(fault: Fault | None) -> None:
    async with stage() as (sender, gateway):
        if fault is not None:
            gateway.misbehave(fault)
        message = outbound_message()
        outcomes = [await sender.send(message) for _ in range(3)]
        assert outcomes[1:] == [Accepted("local-1")] * 2
        assert isinstance(outcomes[0], Accepted if fault is None else Unknown)
        assert gateway.sent == [(message.to, message.text)]


async def test_what_its_gateway_surely_did_not_take_is_told_so_and_may_come_again() -> None:
    async with stage() as (sender, gateway):
        gateway.names["send"] = raising(gateway.names["NotSent"])
        message = outbound_message()
        assert await sender.send(message) == Rejected(RejectionKind.UNAVAILABLE, "code unavailable")
        gateway.names["send"] = gateway.send
        assert await sender.send(message) == Accepted("local-1")


async def test_what_nobody_knows_of_is_never_sent_again() -> None:
    async with stage() as (sender, gateway):
        gateway.names["send"] = raising(TimeoutError)
        message = outbound_message()
        assert isinstance(await sender.send(message), Unknown)
        gateway.names["send"] = gateway.send
        assert isinstance(await sender.send(message), Unknown)
        assert gateway.sent == []


async def test_strangers_are_refused() -> None:
    async with stage(OTHER_SECRET) as (sender, gateway):
        assert await sender.send(outbound_message()) == Rejected(RejectionKind.UNAUTHORISED, "status 401")
        assert gateway.sent == []


def raising(error: type[Exception]) -> Callable[[str, str], str]:
    def send(_to: str, _text: str) -> str:
        raise error

    return send
