"""The bound of the event stream: sends are refused first, guesses a quarter later, delivery never."""

import pytest

from otpsvc.otp.model import VerifiedOtp, WrongGuess
from otpsvc.otp.policy import Limits
from tests.otp.house import House, wrong

# Each send takes three: its own event, the one that its OTP still owes, and the one that its message does.
TIGHT = Limits(event_limit=12)


async def owed(house: House) -> int:
    """Events that wait, and one for each living OTP and each message."""
    partition = house.keys.partitions[0]
    owing = [int(await house.raw.zcard(name)) for name in (partition.ends, partition.due)]
    assert await house.stream.fullest() == int(await house.raw.xlen(partition.events)) + sum(owing)
    return await house.stream.fullest()


@pytest.mark.parametrize("limits", [TIGHT])
async def test_sends_stop_at_the_bound_and_go_on_when_events_were_written(house: House) -> None:
    sent = [await house.send(to=f"+336123{n:05d}") for n in range(4)]
    assert await owed(house) == 12
    error = await house.refused(house.send(to="+33612399999"), "SERVICE_UNAVAILABLE")
    assert error.reason == "busy"
    await house.refused(house.resend(sent[0].otp_id), "SERVICE_UNAVAILABLE")
    await house.stream.prepare()
    await house.stream.acknowledge(await house.stream.read(limit=3, wait_s=0.01))
    assert await owed(house) == 9
    await house.send(to="+33612399999")


@pytest.mark.parametrize("limits", [TIGHT])
async def test_guesses_go_on_for_a_quarter_more_and_then_cost_nothing(house: House) -> None:
    codes = [await house.send_with_code(to=f"+336123{n:05d}") for n in range(4)]
    (first, _), (second, code), *_ = codes
    # Each wrong guess writes one event; the living still owe theirs.
    for _ in range(2):
        assert isinstance(await house.verify(first.otp_id, wrong(codes[0][1])), WrongGuess)
    assert isinstance(await house.verify(codes[2][0].otp_id, wrong(codes[2][1])), WrongGuess)
    assert await owed(house) == 15
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
    for n in range(2, 4):
        await house.send(to=f"+3361230000{n}")
    for _ in range(2):
        await house.verify(other.otp_id, wrong(other_code))
    assert await owed(house) == 15
    await house.refused(house.verify(sent.otp_id, code), "SERVICE_UNAVAILABLE")
    assert (await house.send(key="k")).is_replay
    assert (await house.verify(sent.otp_id, wrong(code), key="v")).is_replay
