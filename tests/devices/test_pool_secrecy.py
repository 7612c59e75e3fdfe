"""Number and text on their way to a phone: nowhere in the store, on its wire, in logs, metrics or words of ours."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from otpsvc.phone_encryption import decrypted
from tests.devices.pool_house import PoolHouse, open_pool
from tests.otp.house import CLIENT, NUMBER, OTHER_NUMBER

PASSPHRASE = "correct horse battery"


@pytest.fixture
async def stand(redis_url: str) -> AsyncIterator[PoolHouse]:
    async with open_pool(redis_url) as opened:
        yield opened


def with_passphrase(stand: PoolHouse, device_id: str) -> dict[str, Any]:
    sealed = stand.otp.keyring.seal(
        PASSPHRASE.encode(), record_id=device_id, count=4, bound_to=(CLIENT, "test", "passphrase")
    )
    return {"id": device_id, "passphrase_sealed": sealed, "passphrase_count": 4, "version": 4}


async def live(stand: PoolHouse) -> list[str]:
    """All that can happen to messages with phones; returns what must be seen nowhere."""
    first = await stand.phone(**with_passphrase(stand, "dev_00000000000000000000000000"))
    secrets = [PASSPHRASE]
    for to, states in ((NUMBER, ("Processed", "Sent")), (OTHER_NUMBER, ("Failed",)), (NUMBER, ("Delivered",))):
        sent = await stand.send(to=to)
        code = stand.otp.codes[-1]
        second = await stand.phone()
        for message in await first.pull():
            assert message.is_encrypted
            assert decrypted(message.to, PASSPHRASE) == to
            assert code in decrypted(message.text, PASSPHRASE)
        await first.say(sent.message_id, *states, error=f"credit: {code} was not sent to {to}")
        await first.say(to, *states, error=to)
        await stand.pass_by(12, first, second)
        await stand.mind()
        for message in await second.pull():
            assert (message.to, code in message.text) == (to, True)
        await second.say(sent.message_id, "Sent")
        await second.leave()
        secrets += [code, to, to[1:], to[3:]]
    await stand.send(to=NUMBER)
    secrets.append(stand.otp.codes[-1])
    return secrets


async def test_nothing_is_in_clear(stand: PoolHouse, caplog: pytest.LogCaptureFixture) -> None:
    shown = []
    with caplog.at_level(logging.DEBUG):
        async with stand.otp.raw.monitor() as monitor:
            secrets = await live(stand)
            await stand.otp.raw.echo("the end")
            while not (line := (await monitor.next_command())["command"]).endswith("the end"):
                shown.append(line)
    assert len(shown) > 300
    stored = await stand.otp.snapshot()
    assert any(b":text:" in name for name in stored), "a message is on its way while we look"
    assert any(b":offer:" in name for name in stored)
    ledger = stand.ledger
    said = [ledger.receipts, ledger.offers, ledger.reports, ledger.takeovers, stand.pool, stand.inbox]
    for text in ("\n".join(shown), str(stored), caplog.text, repr(said)):
        assert [secret for secret in secrets if secret in text] == []


async def test_the_search_would_find_it(stand: PoolHouse) -> None:
    secrets = await live(stand)
    await stand.otp.raw.set("a", secrets[1])
    assert secrets[1] in str(await stand.otp.snapshot())


async def test_every_key_of_the_pool_ends(stand: PoolHouse) -> None:
    await live(stand)
    bounded = (b":due", b":ends", b":events", b"{d}:offers", b"{d}:presence")
    for name in await stand.otp.names():
        assert name.endswith(bounded) or await stand.otp.raw.pttl(name) > 0, name
