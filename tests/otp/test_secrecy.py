"""The plain code, the number and the session word are nowhere: not at rest, not on the wire, not in words."""

import logging
import traceback
from collections.abc import AsyncIterator

import pytest

from otpsvc.errors import ApiError
from otpsvc.messages.model import Content
from otpsvc.otp.model import ResendRequest, SealedRecipient, SendRequest, VerifyRequest
from tests.otp.house import MASTERS, NUMBER, OTHER_NUMBER, House, wrong
from tests.otp.story import ADDRESS, SESSION, WRONG_GUESS, Told, tell


def secrets_in(text: str, told: Told) -> list[str]:
    """What of it stands in the text."""
    numbers = [part for number in told.numbers for part in (number, number[1:], number[3:])]
    secrets = [*told.codes, *numbers, SESSION, ADDRESS, WRONG_GUESS, *(secret.hex() for secret in MASTERS.values())]
    return [secret for secret in secrets if secret in text]


@pytest.fixture
async def server_log(house: House) -> AsyncIterator[None]:
    """The server writes down every command, in words that SLOWLOG does not cut short."""
    await house.raw.config_set("slowlog-log-slower-than", 0)
    await house.raw.config_set("slowlog-max-len", 100_000)
    await house.raw.slowlog_reset()
    yield
    await house.raw.config_set("slowlog-log-slower-than", 10_000)
    await house.raw.config_set("slowlog-max-len", 128)
    await house.raw.slowlog_reset()


async def test_nothing_secret_is_in_the_store_or_in_what_the_server_saw(
    house: House, redis_url: str, server_log: None, caplog: pytest.LogCaptureFixture
) -> None:
    shown = []
    with caplog.at_level(logging.DEBUG):
        async with house.raw.monitor() as monitor:
            told = await tell(house, redis_url)
            await house.raw.echo("the end")
            while not (line := (await monitor.next_command())["command"]).endswith("the end"):
                shown.append(line)
    assert len(told.codes) > 30
    assert len(shown) > 1000
    slow = await house.raw.slowlog_get(100_000)
    assert len(slow) > 300
    stored = await house.snapshot()
    assert len(stored) > 50
    for text in ("\n".join(shown), str(slow), str(stored), caplog.text):
        assert secrets_in(text, told) == []


async def test_the_search_would_find_a_code(house: House) -> None:
    sent, code = await house.send_with_code(code_length=10)
    told = Told([code])
    assert secrets_in(str(await house.snapshot()), told) == []
    await house.raw.hset(house.keys.partitions[0].otp_base + sent.otp_id, "code", code)
    assert secrets_in(str(await house.snapshot()), told) == [code]


async def test_a_hash_alone_does_not_give_the_code_away(house: House) -> None:
    """Equal codes of two OTPs, clients or modes have different hashes, and none is a bare digest."""
    sent, code = await house.send_with_code()
    parsed = house.store.commands[-1].otp_id
    other = parsed._replace(text=f"{parsed.text[:-2]}{'04' if parsed.text.endswith('00') else '00'}")
    hasher = house.service._hasher
    hashes = {
        await hasher.hash(otp_id, client_id=client, mode=mode, code=code)
        for otp_id in (parsed, other)
        for client in ("client_1", "client_2")
        for mode in ("live", "test")
    }
    assert len(hashes) == 8
    assert (await house.record(sent.otp_id))["code_hash"] not in {code, *hashes}


@pytest.mark.parametrize(
    "shown",
    [
        SendRequest(to=NUMBER, template="my {{code}}", session=SESSION, end_user_ip=ADDRESS),
        VerifyRequest(otp_id="otp_x", code=WRONG_GUESS, to=NUMBER, session=SESSION),
        ResendRequest(otp_id="otp_x", session=SESSION, end_user_ip=ADDRESS),
        SealedRecipient(NUMBER, None, None),
        Content(NUMBER, f"your code is {WRONG_GUESS}"),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_what_holds_a_secret_does_not_show_it(shown: object) -> None:
    for text in (repr(shown), str(shown), f"{[shown]}"):
        assert secrets_in(text, Told([])) == []


async def test_commands_and_the_service_do_not_show_a_secret(house: House) -> None:
    sent, code = await house.send_with_code(code_length=10, session=SESSION, end_user_ip=ADDRESS)
    await house.verify(sent.otp_id, wrong(code), session=SESSION, to=NUMBER)
    await house.resend(sent.otp_id, end_user_ip=ADDRESS)
    told = Told(house.codes)
    keyring = house.service._keyring
    shown = [*house.store.commands, sent, house.service, keyring, keyring.current, vars(keyring.current.__class__)]
    for thing in (*shown, await house.get(sent.otp_id)):
        assert secrets_in(f"{thing!r} {thing}", told) == []
    for secret in (keyring.current.pepper, keyring.current.index, keyring.current.seal, keyring.current.auth):
        assert secret.hex() not in repr(keyring.current)
        assert repr(secret)[2:-1] not in repr(keyring.current)


async def test_refusals_do_not_repeat_what_was_sent(house: House) -> None:
    """Not in the details either, and not in the traceback that a log would show."""
    caller = house.caller(cooldown_s=30)
    sent, code = await house.send_with_code(caller, code_length=10, session=SESSION)
    calls = [
        house.send(to=NUMBER + "99999999999"),
        house.send(to=f"call me at {NUMBER}"),
        house.send(end_user_ip=f"{ADDRESS}x"),
        house.send(session=SESSION * 20),
        house.send(metadata={"number": NUMBER * 100}),
        house.send(purpose=f"n{NUMBER[1:]}!"),
        house.send(locale=f"{SESSION}!"),
        house.send(caller, session=SESSION),
        house.verify(sent.otp_id, code + "1234"),
        house.verify(sent.otp_id, f"my code is {WRONG_GUESS}"),
        house.verify(sent.otp_id, code, session="x"),
        house.verify(sent.otp_id, code, to=OTHER_NUMBER),
        house.verify(f"otp_{NUMBER}", code),
        house.resend(sent.otp_id, end_user_ip=f"{ADDRESS}x"),
    ]
    for call in calls:
        with pytest.raises(ApiError) as caught:
            await call
        error = caught.value
        trace = "".join(traceback.format_exception(error)).replace(__file__, "")
        answer = f"{error!r} {error} {error.details} {error.args}"
        assert secrets_in(answer, Told([code])) == []
        assert secrets_in(trace, Told([code])) == []
