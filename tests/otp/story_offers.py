"""Messages that go by phone, with every outcome that the scripts of the pool know; a part of `story`."""

from otpsvc.devices.model import Device, DeviceStatus, Gone
from otpsvc.devices.policy import Budget
from tests.otp.house import House
from tests.redis.phones import GIVE_UP_S, PULL_S, REPORT_S, SLOTS, Phones
from tests.redis.presence import device_of, later

FORGOTTEN = "+33655551111"
ABSENT = "msg_0" + "0" * 25
CODE_LENGTH = 10
MANY = 17


async def send_by_phone(house: House) -> None:
    """Live through it all, on phones of this part alone; none is there at the end."""
    phones = Phones(house, code_length=CODE_LENGTH, mode="live")
    await find_nobody(phones)
    first = await phones.phone(mode="live")
    await pull_and_report(phones, first)
    await pass_on(phones, first)
    await give_up(phones, first)
    await forget(phones, first)
    await wear_out(phones, first)
    await phones.presence.devices.retire(later(first, status=DeviceStatus.DISABLED), Gone.USER_LOGOUT)
    assert await phones.offers.pull(first, limit=1, slots=SLOTS) is None
    await phones.report(first, ABSENT, "sent")


async def find_nobody(phones: Phones) -> None:
    message_id = await phones.message()
    assert (await phones.offer(ABSENT)).outcome == "unwanted"
    absent = device_of(mode="live")
    for _ in range(2):
        for pinned in ("", absent.id):
            await phones.offer(message_id, pinned=pinned)
            await phones.offers.reach(absent.tenant, pinned)
        await phones.presence.seen(absent)
    tired = await phones.phone(mode="live", budget=Budget(messages_per_window=1))
    await phones.offered()
    assert (await phones.offer(message_id)).outcome == "budget"
    for pinned in ("", tired.id):
        await phones.offers.reach(tired.tenant, pinned)
    await phones.presence.devices.retire(later(tired, status=DeviceStatus.DELETED), Gone.USER_LOGOUT)
    await phones.mind()
    await phones.house.age(GIVE_UP_S)
    await phones.mind()


async def pull_and_report(phones: Phones, phone: Device) -> None:
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    assert (await phones.report(phone, message_id, "processed")).outcome == "waiting"
    assert (await phones.report(phone, message_id, "processed")).outcome == "ignored"
    for status in ("sent", "delivered"):
        told = await phones.report(phone, message_id, status)
        await phones.settle(told)
        await phones.offers.done(told.client_id, message_id, "failed")
    unpulled, _ = await phones.offered()
    assert await phones.offers.withdraw(phone.tenant, unpulled)
    pulled, _ = await phones.offered()
    unwanted, _ = await phones.offered()
    await phones.pull(phone, limit=1)
    await phones.verify(unwanted)
    await phones.pull(phone)
    assert not await phones.offers.withdraw(phone.tenant, pulled)
    assert not await phones.offers.withdraw(phone.tenant, ABSENT)
    await phones.report(phone, pulled, "cancelled", kind="send_timeout")
    await phones.mind()


async def pass_on(phones: Phones, phone: Device) -> None:
    """To another for a failure, and back to the first for silence, which fails it; it never came to pull the rest."""
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    second = await phones.phone(mode="live")
    assert (await phones.report(phone, message_id, "failed", error="no credit")).outcome == "moved"
    await phones.pull(second)
    third = await phones.phone(mode="live")
    await phones.house.age(REPORT_S)
    for device in (phone, second, third):
        await phones.come(device)
    assert (await phones.look(message_id)).device_id == third.id
    # It was not to be heard of, and knows what it sent.
    await phones.report(second, message_id, "sent")
    untold, _ = await phones.offered(pinned=third.id)
    await phones.house.age(PULL_S)
    for device in (phone, second):
        await phones.come(device)
        await phones.report(third, untold, "failed")
    await phones.mind()
    for device in (second, third):
        await phones.presence.devices.retire(later(device, status=DeviceStatus.DELETED), Gone.USER_LOGOUT)
    await phones.mind()


async def forget(phones: Phones, phone: Device) -> None:
    """Twice to the same number: once it was pulled."""
    await phones.come(phone, "s3")
    for pulled in (1, 0):
        message_id = await phones.message(to=FORGOTTEN)
        assert (await phones.offer(message_id, recipient="forgotten")).outcome == "offered"
        assert len(await phones.pull(phone, limit=pulled)) == pulled
    await phones.house.forget(FORGOTTEN, phones.house.caller(mode="live"))
    await phones.mind()


async def give_up(phones: Phones, phone: Device) -> None:
    """Nobody else is there; it is looked at three times, and the phone is called gone."""
    message_id, _ = await phones.offered()
    await phones.presence.devices.left(phone, "s1", Gone.CONNECTION_LOST)
    for _ in range(3):
        await phones.house.age(PULL_S)
        await phones.come(phone, "s2")
        await phones.look(message_id)
    await phones.house.age(GIVE_UP_S)
    assert (await phones.look(message_id)).outcome == "told"
    await phones.offers.done(phone.client_id, message_id, "failed")
    await phones.look(message_id)
    await phones.offers.due(limit=10, again_in_ms=5000)


async def wear_out(phones: Phones, phone: Device) -> None:
    """So many phones that nobody looks at them all twice: each has written to as many people as it may.

    That is found at an offer, at a failure, and at a phone that does not come.
    """
    failing, _ = await phones.offered(pinned=phone.id)
    await phones.pull(phone)
    waiting, _ = await phones.offered(pinned=phone.id)
    for message_id in (failing, waiting):
        await phones.house.raw.hset(phones.house.keys.devices(phone.client_id).offer_base + message_id, "pinned", "")
    tired = [await phones.phone(mode="live", budget=Budget(messages_per_window=1)) for _ in range(MANY)]
    names, now_ms = phones.house.keys.devices(phone.client_id), await phones.presence.now_ms()
    for device in (*tired, phone):
        for n in range(25):
            await phones.house.raw.zadd(f"{names.sim_base}{device.id}:0", {f"m{n}": now_ms})
        await phones.house.raw.pexpire(f"{names.sim_base}{device.id}:0", 60_000)
    assert (await phones.offer(await phones.message())).outcome == "budget"
    await phones.house.age(2)
    assert (await phones.report(phone, failing, "failed")).outcome == "told"
    await phones.house.age(PULL_S)
    assert (await phones.look(waiting)).outcome == "waiting"
    for device in tired:
        await phones.presence.devices.retire(later(device, status=DeviceStatus.DELETED), Gone.USER_LOGOUT)
    await phones.mind()
