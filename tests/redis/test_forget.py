"""Forgetting a number in the store: nothing that names it stays, and nobody gains a code by it."""

from typing import Any

import pytest

from otpsvc.ids import parse_message_id
from otpsvc.otp.ports import Tenant
from tests.otp.house import CLIENT, NUMBER, OTHER_CLIENT, OTHER_NUMBER, House

MASKED = "5678"  # what the mask leaves of NUMBER


async def stored_text(house: House) -> str:
    """Everything in the store but the stream, which the drain empties and PostgreSQL's tombstone covers."""
    kept: list[Any] = []
    for name, (value, _) in (await house.snapshot()).items():
        if not name.endswith(b":events"):
            kept.append((name, value))
    return repr(kept)


async def test_what_is_pending_ends_and_its_records_say_nothing_more(house: House) -> None:
    sent, code = await house.send_with_code(metadata={"name": "Ann"}, key="k1")
    await house.resend(sent.otp_id, key="k2")
    assert await house.forget(NUMBER) == (1, 2)
    view = await house.get(sent.otp_id)
    assert (view.status, view.to, view.metadata) == ("cancelled", "", None)
    await house.refused(house.verify(sent.otp_id, code), "OTP_NOT_FOUND")
    assert await house.claim() == []
    text = await stored_text(house)
    assert MASKED not in text
    assert "Ann" not in text
    assert ("otp.cancelled", sent.otp_id) in await house.events()
    message = await house.records.find(CLIENT, "test", parse_message_id(view.message_id))
    assert message is not None
    assert (message.to, message.text, message.status, message.metadata) == ("", "", "cancelled", "")


@pytest.mark.parametrize("is_sent", [False, True])
async def test_what_is_older_than_the_limits_memory_is_erased_by_its_id(house: House, is_sent: bool) -> None:
    """No worker ran, or the gateway is asked for its receipt yet: the record outlives the hour, the window does not."""
    old = await house.send(metadata={"name": "Ann"})
    other = await house.send(to=OTHER_NUMBER)
    if is_sent:
        messages = {message.message_id: message for message in await house.claim()}
        await house.queue.record_sent(
            old.message_id, messages[old.message_id].token, sender="x", provider_id="p", receipt_in_s=7200
        )
    await house.age(3700)
    assert MASKED in await stored_text(house)
    tenant, index = Tenant(CLIENT, "test"), house.keyring.index("number", NUMBER).hex()
    ids = [old.message_id, old.message_id, "msg_of_nobody"]
    for expected in (1, 0):
        assert await house.redis_store.forget(tenant, partition=0, to_index=index, message_ids=ids) == (0, expected)
    assert MASKED not in await stored_text(house)
    message = await house.message(old.message_id)
    assert (message["status"], message["to"], message["text"]) == ("sent" if is_sent else "cancelled", "", "")
    assert (await house.message(other.message_id))["to"] == other.to
    # By whomever it is named, it is erased for its owner only.
    stranger = Tenant(OTHER_CLIENT, "test")
    ids = [other.message_id]
    assert await house.redis_store.forget(stranger, partition=0, to_index=index, message_ids=ids) == (0, 0)
    assert (await house.message(other.message_id))["to"] == other.to


async def test_what_has_ended_is_erased_too(house: House) -> None:
    sent, code = await house.send_with_code(metadata={"name": "Ann"})
    await house.verify(sent.otp_id, code)
    assert await house.forget(NUMBER) == (1, 1)
    assert (await house.get(sent.otp_id)).status == "verified"
    text = await stored_text(house)
    assert MASKED not in text
    assert "Ann" not in text


async def test_a_message_under_way_keeps_its_lease_and_its_worker_may_record(house: House) -> None:
    sent = await house.send()
    (held,) = await house.claim()
    await house.forget(NUMBER)
    assert not await house.queue.begin(held.message_id, held.token, sender="x")
    assert await house.queue.record_sent(held.message_id, held.token, sender="x", provider_id=None)
    assert (await house.message(sent.message_id))["status"] == "sent"


async def test_forgetting_hands_out_no_new_codes(house: House) -> None:
    for _ in range(10):
        await house.send()
    await house.forget(NUMBER)
    await house.refused(house.send(), "OTP_RATE_LIMIT")


async def test_only_that_number_of_that_client_and_mode_is_touched(house: House) -> None:
    others = [
        (await house.send(to=OTHER_NUMBER), house.caller()),
        (await house.send(house.caller(OTHER_CLIENT)), house.caller(OTHER_CLIENT)),
        (await house.send(house.caller(mode="live")), house.caller(mode="live")),
    ]
    await house.send()
    await house.forget(NUMBER)
    for sent, caller in others:
        view = await house.get(sent.otp_id, caller)
        assert (view.status, view.to) == ("pending", sent.to)


async def test_twice_and_unknown_are_no_fault(house: House) -> None:
    assert await house.forget(NUMBER) == (0, 0)
    await house.send()
    assert await house.forget(NUMBER) == (1, 1)
    before = await house.events()
    assert await house.forget(NUMBER) == (0, 0)
    assert await house.events() == before
    sent, _ = await house.send_with_code()
    assert await house.status(sent.otp_id) == "pending"
