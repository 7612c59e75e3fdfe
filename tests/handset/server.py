"""A server of the mobile protocol for one process of phones, exact about what the protocol says and nothing more.

It keeps accounts, devices and messages in memory, holds the streams of events, and writes down all that phones said.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Mapping
from itertools import count
from typing import Any

import msgspec

from otpsvc.testing.gateways import Fault, GatewayDouble, GatewayRequest, Reply

BASE = "/mobile/v1"


class Refused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Account(msgspec.Struct):
    login: str
    password: str
    device_id: str = ""
    is_out: bool = False


class Device(msgspec.Struct):
    id: str
    token: str
    name: str
    sims: list[dict[str, Any]]
    messages: dict[str, dict[str, Any]] = {}
    reports: list[dict[str, Any]] = []

    def states(self, message_id: str) -> list[str]:
        """The states that were told of one message, in the order of their arrival."""
        return [report["state"] for report in self.reports if report["id"] == message_id]

    def way(self, message_id: str) -> list[str]:
        """The same without those that were told before: whoever is asked again says it again."""
        return list(dict.fromkeys(self.states(message_id)))


class MobileServer(GatewayDouble):
    """Open it with `async with`; `device()` is the one that registered last."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.accounts: dict[str, Account] = {}
        self.codes: dict[str, str] = {}
        self.devices: dict[str, Device] = {}
        self.streams: dict[str, list[asyncio.StreamWriter]] = {}
        self.is_silent = False  # calls nobody when a message comes in
        self.is_deaf = False  # takes reports, and goes on listing what they are about
        self.trouble: dict[str, list[int]] = {}  # statuses to answer next, by method and path
        self.farewells: list[str] = []  # how streams ended: closed by the phone, or broken
        self._numbers = count(1)
        self._heard = asyncio.Condition()

    def account(self, login: str = "phone-abcdef", password: str = "a password") -> Account:  # noqa: S107 - a double's
        self.accounts[login] = Account(login, password)
        return self.accounts[login]

    def device(self) -> Device:
        return list(self.devices.values())[-1]

    def enqueue(self, device: Device, to: str = "+33612345678", text: str = "Code 123456", **fields: Any) -> str:
        """Give a device a message, and call it."""
        message_id = f"msg_{next(self._numbers)}"
        device.messages[message_id] = {
            "id": message_id,
            "message": text,
            "textMessage": {"text": text},
            "phoneNumbers": [to],
            "withDeliveryReport": True,
            "isEncrypted": False,
            "priority": 100,
            "state": "Pending",
            "createdAt": "2026-01-01T00:00:00.000+00:00",
            **fields,
        }
        if not self.is_silent:
            self.call(device, "MessageEnqueued")
        return message_id

    def call(self, device: Device, name: str, data: object = None) -> None:
        for stream in self.streams.get(device.id, []):
            stream.write(f"event: {name}\ndata: {msgspec.json.encode(data).decode()}\n\n".encode())

    async def heard(self, device: Device, message_id: str, state: str) -> list[str]:
        """Wait until this state was told, and return the way there."""
        async with asyncio.timeout(10), self._heard:
            await self._heard.wait_for(lambda: state in device.states(message_id))
        return device.way(message_id)

    def end_streams(self, device: Device, *, is_clean: bool = True) -> None:
        for stream in self.streams.pop(device.id, []):
            if is_clean:
                stream.close()
            else:
                stream.transport.abort()

    def asked(self, method: str, path: str) -> int:
        """How often this was called."""
        return sum((one.method, one.path) == (method, BASE + path) for one in self.requests)

    async def respond(self, request: GatewayRequest) -> Reply:
        statuses = self.trouble.get(f"{request.method} {request.path.removeprefix(BASE)}")
        if statuses:
            return Reply(statuses.pop(0), b"trouble")
        try:
            return self._respond(request)
        except Refused as refusal:
            return Reply(refusal.status, {"success": False})

    async def _answer(
        self,
        request: GatewayRequest,
        fault: Fault | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if (request.method, request.path) == ("GET", f"{BASE}/events") and fault is None:
            with contextlib.suppress(Refused):
                await self._stream(self._device_of(request), reader, writer)
                return
        await super()._answer(request, fault, reader, writer)
        async with self._heard:
            self._heard.notify_all()

    async def _stream(self, device: Device, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        writer.write(b":keepalive\n\n")
        mine = self.streams.setdefault(device.id, [])
        mine.append(writer)
        try:
            await reader.read()  # until the phone goes
            self.farewells.append("closed")
        except OSError:
            self.farewells.append("broken")
        finally:
            if writer in mine:
                mine.remove(writer)
            writer.close()

    def _respond(self, request: GatewayRequest) -> Reply:
        match request.method, request.path.removeprefix(BASE):
            case "POST", "/device":
                return self._register(request)
            case "GET", "/device":
                return Reply(200, {"externalIp": "127.0.0.1"})
            case "GET", "/user/code":
                self._account_of(request)
                return Reply(200, {"code": "123456", "validUntil": "2026-01-01T00:00:00.000+00:00"})
        device = self._device_of(request)
        match request.method, request.path.removeprefix(BASE):
            case "PATCH", "/device":
                if request.json()["id"] != device.id:
                    raise Refused(403)
                device.sims = request.json().get("simCards") or device.sims
                return Reply(204)
            case "GET", "/message":
                return Reply(200, list(device.messages.values()))
            case "PATCH", "/message":
                for report in request.json():
                    self._hear(device, report)
                return Reply(204)
            case "GET", "/webhooks":
                return Reply(200, [])
            case "GET", "/settings":
                return Reply(200, {})
            case "PATCH", "/user/password":
                return Reply(204)
        raise Refused(404)

    def _hear(self, device: Device, report: Mapping[str, Any]) -> None:
        device.reports.append(dict(report))
        # Listed until a state was heard; one that is being cancelled until that is.
        if report["state"] != "Pending" and not self.is_deaf:
            device.messages.pop(report["id"], None)

    def _register(self, request: GatewayRequest) -> Reply:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        answer: dict[str, Any] = {}
        if scheme == "Code":
            login = self.codes.pop(rest, "")
            if not login:
                raise Refused(401)
            account = self.accounts[login]
            answer["password"] = account.password
        else:
            account = self._account_of(request)
        if account.is_out:
            raise Refused(401)
        body = request.json()
        account.device_id = account.device_id or f"dev_{next(self._numbers)}"
        before = self.devices.get(account.device_id)
        device = Device(account.device_id, f"token-{next(self._numbers)}", body["name"], body["simCards"])
        if before is not None:
            device.messages, device.reports = before.messages, before.reports
        self.devices[device.id] = device
        return Reply(201, {"id": device.id, "token": device.token, "login": account.login, **answer})

    def _account_of(self, request: GatewayRequest) -> Account:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        if scheme != "Basic":
            raise Refused(401)
        login, _, password = base64.b64decode(rest).decode().partition(":")
        account = self.accounts.get(login)
        if account is None or account.password != password:
            raise Refused(401)
        return account

    def _device_of(self, request: GatewayRequest) -> Device:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        for device in self.devices.values():
            if scheme == "Bearer" and device.token == token:
                return device
        raise Refused(401)
