"""A store loses its last writes while phones have messages in hand: nothing is sent twice without being told.

With the fence a phone is given nothing of before any more. Without it a message goes on, and whoever is given it after
the loss may be the second one: which phone had it in the meantime, nobody knows.
"""

from collections.abc import Awaitable, Callable

import pytest

from tests.fence.street import FALLS, Handset, Street

HANDSETS = 14
Step = Callable[[Street, str], Awaitable[None]]


async def holder_of(street: Street, message_id: str) -> Handset:
    holder = await street.holder(message_id)
    assert holder is not None
    return holder


async def offer(street: Street, message_id: str) -> None:
    assert (await street.phones.offer(message_id)).outcome == "offered"


async def pull(street: Street, message_id: str) -> None:
    holder = await holder_of(street, message_id)
    await street.pull(holder)
    assert holder.knows[message_id] == "taken"


async def send(street: Street, message_id: str) -> None:
    """The phone sends, and says so."""
    holder = await holder_of(street, message_id)
    await street.radio(holder)
    await street.say(holder)


async def send_silently(street: Street, message_id: str) -> None:
    """The phone sends, and is gone for good before it can say so."""
    holder = await holder_of(street, message_id)
    await street.radio(holder)
    holder.is_there = False


async def fail(street: Street, message_id: str) -> None:
    """The phone fails and says so: another has it now."""
    holder = await holder_of(street, message_id)
    await street.radio(holder, fails=True)
    await street.say(holder)
    assert await holder_of(street, message_id) is not holder


async def move(street: Street, message_id: str) -> None:
    """The phone is gone for a moment, and another is given what it has not pulled."""
    holder = await holder_of(street, message_id)
    await street.phones.go(holder.device)
    assert (await street.phones.look(message_id)).outcome == "moved"
    await street.phones.come(holder.device, "s2")


async def withdraw(street: Street, message_id: str) -> None:
    assert await street.phones.offers.withdraw((await holder_of(street, message_id)).device.tenant, message_id)


async def use(street: Street, message_id: str) -> None:
    await street.phones.verify(message_id)


# What has happened to a message for good, and what is lost.
SCENES: dict[str, tuple[list[Step], list[Step]]] = {
    "nothing": ([offer], []),
    "a pull": ([offer], [pull]),
    "a pull and the word": ([offer], [pull, send]),
    "a pull and the phone": ([offer], [pull, send_silently]),
    "the word": ([offer, pull], [send]),
    "the phone": ([offer, pull], [send_silently]),
    "a move": ([offer], [move, pull, send]),
    "a failure": ([offer, pull], [fail, pull, send]),
    "a withdrawal": ([offer], [withdraw]),
    "a use": ([offer, pull, send], [use]),
    "the offer": ([], [offer, pull, send]),
}
# Here a phone sent it of which the store knows nothing.
UNKNOWABLE = {"a move", "a failure", "the offer"}


@pytest.mark.parametrize("is_fenced", [True, False], ids=["fenced", "unfenced"])
@pytest.mark.parametrize("way", FALLS)
async def test_what_is_lost_is_sent_twice_by_nobody_without_a_word(way: str, is_fenced: bool) -> None:
    street = Street(HANDSETS, is_fenced=is_fenced)
    async with FALLS[way]() as fall:
        async with street.over(fall.url):
            made = {name: await street.message() for name in SCENES}
            for name, (kept, _) in SCENES.items():
                for step in kept:
                    await step(street, made[name])
            await fall.begin()
            for name, (_, lost) in SCENES.items():
                for step in lost:
                    await step(street, made[name])
        async with street.over(await fall.end()):
            for _ in range(3):
                for handset in street.handsets.values():
                    if handset.is_there:
                        await street.pull(handset)
                        await street.radio(handset)
                        await street.say(handset)
                await street.check()
                await street.pass_time(31)
            for name in SCENES.keys() - UNKNOWABLE:
                status = (await street.house.message(made[name]))["status"]
                assert not (street.arrived[made[name]] and status == "failed"), f"{name}: told failed, and arrived"
            await street.live_out()
    if not is_fenced:
        assert all(street.arrived[made[name]] for name in SCENES), street.arrived
