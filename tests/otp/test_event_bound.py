"""The bound of the event stream: sends are refused first, guesses a quarter later, delivery never."""

import pytest

from otpsvc.otp.model import VerifiedOtp, WrongGuess
from otpsvc.otp.policy import Limits
from tests.otp.house import House, wrong

TIGHT = Limits(event_limit=8)


async def owed(house: House) -> int:
    """Events that wait, and one for each living OTP."""
    partition = house.keys.partitions[0]
    return int(await house.raw.xlen(partition.events)) + int(await house.raw.zcard(partition.ends))


@pytest.mark.parametrize("limits", [TIGHT])
async def test_sends_stop_at_the_bound_and_go_on_when_events_were_written(house: House) -> None:
    sent = [await house.send(to=f"+336123{n:05d}") for n in range(4)]
    assert await owed(house) == 8
    error = await house.refused(house.send(to="+33612399999"), "SERVICE_UNAVAILABLE")
    assert error.reason == "busy"
    await house.refused(house.resend(sent[0].otp_id), "SERVICE_UNAVAILABLE")
    await house.stream.prepare()
    await house.stream.acknowledge(await house.stream.read(limit=2, wait_s=0.01))
    assert await owed(house) == 6
    await house.send(to="+33612399999")


@pytest.mark.parametrize("limits", [TIGHT])
async def test_guesses_go_on_for_a_quarter_more_and_then_cost_nothing(house: House) -> None:
    codes = [await house.send_with_code(to=f"+336123{n:05d}") for n in range(4)]
    (first, _), (second, code), *_ = codes
    # Each wrong guess writes one event; the living still owe theirs.
    for _ in range(2):
        assert isinstance(await house.verify(first.otp_id, wrong(codes[0][1])), WrongGuess)
    assert await owed(house) == 10
    await house.refused(house.verify(second.otp_id, code), "SERVICE_UNAVAILABLE")
    await house.refused(house.cancel(second.otp_id), "SERVICE_UNAVAILABLE")
    await house.stream.prepare()
    await house.stream.acknowledge(await house.stream.read(limit=1, wait_s=0.01))
    assert isinstance(await house.verify(second.otp_id, code), VerifiedOtp)


@pytest.mark.parametrize("limits", [TIGHT])
async def test_what_was_accepted_is_delivered_and_ends_beyond_the_bound(house: House) -> None:
    codes = [await house.send_with_code(to=f"+336123{n:05d}") for n in range(4)]
    for _ in range(2):
        await house.verify(codes[0][0].otp_id, wrong(codes[0][1]))
    for message in await house.claim():
        assert await house.queue.record_sent(message.message_id, message.token, sender="x", provider_id=None)
    await house.age(301)
    await house.sweep()
    names = [event.name for event in await house.all_events()]
    assert (names.count("message.sent"), names.count("otp.expired")) == (4, 4)


@pytest.mark.parametrize("limits", [TIGHT])
async def test_a_lost_answer_is_given_again_even_when_full(house: House) -> None:
    sent, code = await house.send_with_code(key="k")
    await house.verify(sent.otp_id, wrong(code), key="v")
    other, other_code = await house.send_with_code(to="+33612300001")
    await house.send(to="+33612300002")
    for _ in range(2):
        await house.verify(other.otp_id, wrong(other_code))
    await house.verify(sent.otp_id, wrong(code))
    assert await owed(house) == 10
    await house.refused(house.verify(sent.otp_id, code), "SERVICE_UNAVAILABLE")
    assert (await house.send(key="k")).is_replay
    assert (await house.verify(sent.otp_id, wrong(code), key="v")).is_replay
