"""Every call with every outcome that the scripts know, one after the other: a rich store to look at."""

from dataclasses import dataclass

from otpsvc.ids import parse_message_id
from otpsvc.messages.model import MessageStatus
from otpsvc.otp.policy import Limits
from otpsvc.redis.events import GROUP
from tests.otp.house import HOUR_S, NUMBER, OTHER_CLIENT, OTHER_NUMBER, House, open_house, refusal_of
from tests.otp.story_devices import come_and_go, send_out_of_reach
from tests.otp.story_gates import await_receipts, pass_the_gates
from tests.otp.story_offers import send_by_phone
from tests.otp.story_owned import put_guesses_to_a_gateway
from tests.otp.story_receipts import hear_receipts, hear_receipts_in_a_crowd

WRONG_GUESS = "7391846205"
THIRD_NUMBER = "+33655554444"
FOURTH_NUMBER = "+33655553333"
FIFTH_NUMBER = "+33655552222"
SESSION = "the-session-word"
ADDRESS = "203.0.113.77"
CODE_LENGTH = 10  # so long that no code can stand by chance in a time or an id


@dataclass
class Told:
    """What must stand nowhere."""

    codes: list[str]
    numbers: tuple[str, ...] = (NUMBER, OTHER_NUMBER, THIRD_NUMBER, FOURTH_NUMBER, FIFTH_NUMBER)


async def tell(house: House, redis_url: str) -> Told:
    """Live through it all. The house has the default limits; others are opened for the rarer refusals."""
    await come_and_go(house)
    await send_by_phone(house)
    await send_out_of_reach(house, CODE_LENGTH)
    await send_and_guess(house)
    await resend_and_cancel(house)
    await deliver(house)
    await hear_receipts(house, CODE_LENGTH)
    await pass_the_gates(house)
    await await_receipts(house)
    tight = Limits(end_user_ip_sends_per_hour=1, service_sends_per_hour=2)
    async with (
        open_house(redis_url, limits=Limits(service_sends_per_hour=100)) as wide,
        open_house(redis_url, limits=tight) as narrow,
        open_house(redis_url, limits=Limits(queue_limit=1, event_limit=1)) as full,
        open_house(redis_url, is_fenced=True) as fenced,
    ):
        await resend_under_every_limit(wide)
        await refuse(narrow, full)
        await hear_receipts_in_a_crowd(full)
        await end_with_the_history(fenced)
        await put_guesses_to_a_gateway(house, fenced)
        await move_events_on(house)
        await forget(house)
        return Told([*house.codes, *wide.codes, *narrow.codes, *full.codes, *fenced.codes])


async def send_and_guess(house: House) -> None:
    caller = house.caller(cooldown_s=30, code_length=CODE_LENGTH)
    sent, code = await house.send_with_code(caller, key="k1", session=SESSION, end_user_ip=ADDRESS)
    await house.send(caller, key="k1", session=SESSION, end_user_ip=ADDRESS)
    await refusal_of(house.send(caller, key="k1"))
    await refusal_of(house.send(caller, session=SESSION))
    await refusal_of(house.verify(sent.otp_id, WRONG_GUESS[:4]))
    await house.verify(sent.otp_id, WRONG_GUESS, key="v1")
    await refusal_of(house.verify(sent.otp_id, code, key="v1"))
    await house.verify(sent.otp_id, code, to=NUMBER, session=SESSION)
    await refusal_of(house.verify(sent.otp_id, code))
    await house.get(sent.otp_id)
    await refusal_of(house.get(sent.otp_id, house.caller(OTHER_CLIENT)))
    easy = house.caller(code_length=CODE_LENGTH)
    await house.send(easy)
    for n in range(3):
        await house.send(easy, session=f"s{n}", purpose="login", metadata={"n": n})
    await refusal_of(house.send(easy, session="s3", purpose="login"))
    for n in range(3):
        locked = (await house.send(easy, purpose=f"locked_{n}")).otp_id
        for _ in range(3):
            await house.verify(locked, WRONG_GUESS)
        await refusal_of(house.verify(locked, WRONG_GUESS))
        await refusal_of(house.resend(locked))
    await refusal_of(house.send(easy, purpose="late"))
    other = house.caller(mode="live", code_length=CODE_LENGTH)
    for _ in range(10):
        await house.send(other)
    await refusal_of(house.send(other))


async def resend_and_cancel(house: House) -> None:
    caller = house.caller(OTHER_CLIENT, cooldown_s=30, code_length=CODE_LENGTH, max_resends=1)
    easy = house.caller(OTHER_CLIENT, code_length=CODE_LENGTH, max_resends=1)
    sent = await house.send(caller)
    await refusal_of(house.resend(sent.otp_id, caller))
    await house.resend(sent.otp_id, easy, key="k1")
    await house.resend(sent.otp_id, easy, key="k1")
    await refusal_of(house.resend(sent.otp_id, easy))
    other = await house.send(easy, purpose="login")
    await refusal_of(house.resend(other.otp_id, easy, key="k1"))
    await house.cancel(other.otp_id, easy)
    await house.cancel(other.otp_id, easy)
    await refusal_of(house.cancel(other.otp_id))
    await refusal_of(house.resend(other.otp_id, easy))
    for n in range(6):
        await house.send(easy, purpose=f"p{n}")
    last = await house.send(easy, purpose="last")
    await refusal_of(house.resend(last.otp_id, easy))
    short, code = await house.send_with_code(easy, to=OTHER_NUMBER, ttl_s=60)
    await house.age(61)
    for call in (house.verify(short.otp_id, code, easy), house.resend(short.otp_id, easy),
                 house.cancel(short.otp_id, easy)):  # fmt: skip
        await refusal_of(call)


async def deliver(house: House) -> None:
    await house.age(HOUR_S)
    caller = house.caller(code_length=CODE_LENGTH)
    await house.claim()
    for n in range(4):
        await house.send(caller, purpose=f"d{n}")
    sent, failed, later, _ = await house.claim()
    assert await house.queue.record_sent(sent.message_id, sent.token, sender="inbox", provider_id="g-1")
    assert await house.queue.record_sent(sent.message_id, sent.token, sender="inbox", provider_id="g-1")
    assert not await house.queue.record_sent(sent.message_id, "another token", sender="inbox", provider_id="g-1")
    assert await house.queue.record_final(failed.message_id, failed.token, MessageStatus.FAILED, reason="rejected")
    await house.queue.wait(0)
    assert await house.queue.begin(later.message_id, later.token, sender="inbox")
    assert not await house.queue.begin(later.message_id, "another token", sender="inbox")
    assert await house.queue.release(later.message_id, later.token, due_in_s=5, reason="retry_later")
    await house.claim(limit=1)
    await house.send(caller, purpose="waiting")


async def resend_under_every_limit(wide: House) -> None:
    caller = wide.caller(mode="live", cooldown_s=30, code_length=CODE_LENGTH)
    sent = await wide.send(caller, end_user_ip=ADDRESS)
    await wide.age(30)
    await wide.queue.wait(0)
    await wide.resend(sent.otp_id, caller, end_user_ip=ADDRESS)
    await wide.queue.wait(0)
    await wide.claim(limit=1)


async def refuse(narrow: House, full: House) -> None:
    easy = narrow.caller(code_length=CODE_LENGTH)
    sent = await narrow.send(easy, to=THIRD_NUMBER, end_user_ip=ADDRESS)
    await refusal_of(narrow.send(easy, to=THIRD_NUMBER, end_user_ip=ADDRESS))
    await refusal_of(narrow.resend(sent.otp_id, easy, end_user_ip=ADDRESS))
    await narrow.send(narrow.caller(OTHER_CLIENT, code_length=CODE_LENGTH), to=THIRD_NUMBER)
    await refusal_of(narrow.send(easy, to=THIRD_NUMBER))
    await refusal_of(narrow.resend(sent.otp_id, easy))
    await refusal_of(full.send(easy, to=OTHER_NUMBER))
    await refusal_of(full.resend(sent.otp_id, easy))
    await refusal_of(full.verify(sent.otp_id, WRONG_GUESS))
    await refusal_of(full.cancel(sent.otp_id))


async def end_with_the_history(fenced: House) -> None:
    caller = fenced.caller(code_length=CODE_LENGTH)
    sent, code = await fenced.send_with_code(caller, to=FOURTH_NUMBER)
    await fenced.send(caller, to=FOURTH_NUMBER, purpose="login")
    for name in await fenced.names():
        if await fenced.raw.type(name) == b"hash" and await fenced.raw.hget(name, "fence"):
            await fenced.raw.hset(name, "fence", "0" * 40)
    for call in (fenced.verify(sent.otp_id, code), fenced.resend(sent.otp_id), fenced.cancel(sent.otp_id)):
        await refusal_of(call)
    await fenced.get(sent.otp_id)
    await fenced.claim()


async def move_events_on(house: House) -> None:
    await house.queue.wait(0)
    await house.queue.rewake()
    await house.stream.prepare()
    await house.stream.prepare()
    entries = await house.stream.read(limit=3, wait_s=0.01)
    await house.stream.acknowledge(entries[1:])
    await house.stream.acknowledge(entries[:1])
    await house.raw.xgroup_destroy(house.keys.partitions[0].events, GROUP)
    await house.stream.acknowledge(entries[:1])
    await house.stream.prepare()


async def forget(house: House) -> None:
    caller = house.caller(OTHER_CLIENT, code_length=CODE_LENGTH)
    kept, forgotten = await house.send(caller, to=FOURTH_NUMBER), await house.send(caller, to=FIFTH_NUMBER)
    await house.resend(forgotten.otp_id, caller)
    await house.forget(FIFTH_NUMBER, caller)
    records, message_id = house.records, parse_message_id(kept.message_id)
    assert await records.find(OTHER_CLIENT, "test", message_id)
    assert await records.find(OTHER_CLIENT, "live", message_id) is None
    await house.age(301)
    await house.sweep()
    await house.send(caller, to=FOURTH_NUMBER)
