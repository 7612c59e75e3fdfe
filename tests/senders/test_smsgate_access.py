"""Tokens of an SMSGate server: one for many, renewed ahead of time, no message lost over them; and its settings."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import Accepted, Rejected, RejectionKind, RetryLater, Secret
from otpsvc.senders.smsgate import SmsGateSender
from otpsvc.senders.smsgate_settings import SmsGateSettings
from otpsvc.settings_values import Given, read_struct
from otpsvc.testing import Fault, ManualClock, outbound_message, sender_context
from tests.gateways.smsgate import KEY, PASSWORD, PHONE, USER, SmsGateDouble


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def double(clock: ManualClock) -> AsyncIterator[SmsGateDouble]:
    async with SmsGateDouble(clock) as running:
        yield running


def made(double: SmsGateDouble, clock: ManualClock, password: str = PASSWORD) -> SmsGateSender:
    settings = SmsGateSettings(
        username=USER,
        password=Secret(password),
        url=double.base,
        auth="jwt",
        device_id=PHONE,
        allow_private=True,
        timeout_s=1.0,
    )
    return SmsGateSender("phones", settings, sender_context(clock=clock))


@pytest.fixture
async def sender(double: SmsGateDouble, clock: ManualClock) -> AsyncIterator[SmsGateSender]:
    sender = made(double, clock)
    await sender.open()
    yield sender
    await sender.close()


def paths(double: SmsGateDouble) -> list[str]:
    return [request.path.removeprefix("/3rdparty/v1/") for request in double.requests]


def message(number: int = 0) -> str:
    return f"msg_{number:026d}"


async def test_one_token_for_many_who_wait(sender: SmsGateSender, double: SmsGateDouble) -> None:
    outcomes = await asyncio.gather(*(sender.send(outbound_message(message_id=message(n))) for n in range(20)))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert paths(double).count("auth/token") == 1
    wanted = double.requests[0].json()
    assert wanted["scopes"] == ["messages:send", "messages:read", "messages:cancel", "devices:list"]
    assert "authorization" in double.requests[-1].headers
    assert double.requests[-1].headers["authorization"].startswith("Bearer access-")


async def test_it_is_renewed_ahead_of_its_end_by_the_token_for_that(
    sender: SmsGateSender, double: SmsGateDouble, clock: ManualClock
) -> None:
    await sender.send(outbound_message(message_id=message(1)))
    clock.advance(880)
    for number in range(2, 12):
        assert isinstance(await sender.send(outbound_message(message_id=message(number))), Accepted)
        await asyncio.sleep(0)
    assert paths(double).count("auth/token") == 1
    assert paths(double).count("auth/token/refresh") == 1
    assert len(double.refresh) == 1


async def test_a_refresh_token_that_no_longer_works_costs_the_password(
    sender: SmsGateSender, double: SmsGateDouble, clock: ManualClock
) -> None:
    await sender.send(outbound_message(message_id=message(1)))
    double.refresh.clear()
    clock.advance(3600)
    assert isinstance(await sender.send(outbound_message(message_id=message(2))), Accepted)
    assert paths(double).count("auth/token") == 2


async def test_a_token_that_was_revoked_is_replaced_once(sender: SmsGateSender, double: SmsGateDouble) -> None:
    await sender.send(outbound_message(message_id=message(1)))
    double.access.clear()
    double.refresh.clear()
    assert isinstance(await sender.send(outbound_message(message_id=message(2))), Accepted)
    assert [held.id for held in double.held] == [message(1), message(2)]


async def test_clocks_that_differ_by_ten_minutes_do_not_shorten_a_token(
    sender: SmsGateSender, double: SmsGateDouble, clock: ManualClock
) -> None:
    double.skew_s = -600.0
    for number in range(10):
        clock.advance(60)
        assert isinstance(await sender.send(outbound_message(message_id=message(number))), Accepted)
    assert paths(double).count("auth/token") + paths(double).count("auth/token/refresh") == 1


async def test_a_wrong_password_is_a_refusal(double: SmsGateDouble, clock: ManualClock) -> None:
    sender = made(double, clock, "another password")
    await sender.open()
    outcome = await sender.send(outbound_message())
    assert isinstance(outcome, Rejected)
    assert outcome.kind is RejectionKind.UNAUTHORISED
    assert not (await sender.health()).is_ready
    await sender.close()


async def test_a_server_without_tokens_is_a_wrong_setting(sender: SmsGateSender, double: SmsGateDouble) -> None:
    double.has_tokens = False
    outcome = await sender.send(outbound_message())
    assert isinstance(outcome, Rejected)
    assert outcome.kind is RejectionKind.MISCONFIGURED


@pytest.mark.parametrize("fault", list(Fault))
async def test_whatever_happens_to_a_token_no_message_is_in_doubt(
    sender: SmsGateSender, double: SmsGateDouble, fault: Fault
) -> None:
    double.misbehave(fault)
    outcome = await sender.send(outbound_message())
    assert isinstance(outcome, Rejected | RetryLater)
    assert double.held == []
    assert "messages" not in paths(double)


@pytest.mark.parametrize("username", ["", "AB:CD", "AB CD"])
def test_a_user_name_that_no_password_fits_stops_the_start(username: str) -> None:
    faults: list[str] = []
    given = {"username": Given(username, "here"), "password": Given(PASSWORD, "here")}
    assert read_struct(SmsGateSettings, given, path="senders.phones", faults=faults) is None
    assert faults == ["here: senders.phones.username must be a user name, without a colon"]


def test_settings_name_what_is_wrong() -> None:
    given = {"username": USER, "password": Secret(PASSWORD)}
    with pytest.raises(ValueError, match="device_id"):
        SmsGateSettings(**given, signing_key=Secret(KEY))  # type: ignore[arg-type]  # the table is untyped on purpose
    with pytest.raises(ConfigurationError, match=r"senders\.phones\.url"):
        SmsGateSender(
            "phones",
            SmsGateSettings(username=USER, password=Secret(PASSWORD), url="http://192.168.1.5:8080"),
            sender_context(),
        )
    assert PASSWORD not in repr(SmsGateSettings(username=USER, password=Secret(PASSWORD)))
    assert msgspec.structs.asdict(SmsGateSettings(username=USER, password=Secret(PASSWORD)))["auth"] == "basic"
