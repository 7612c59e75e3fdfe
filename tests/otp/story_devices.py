"""Phones that come and go, with every outcome that their scripts know; a part of `story`."""

from otpsvc.devices.model import Device, DeviceState, DeviceStatus, Gone
from otpsvc.otp.ports import Tenant
from otpsvc.redis.devices import RedisDevices
from tests.otp.house import House, refusal_of
from tests.redis.presence import Presence, device_of, later

FAR_CLIENT = "client_400000000004"
WHY = Gone.CONNECTION_LOST


class Reach:
    """Says that a phone could carry a message, until it says that none could."""

    is_there = True

    async def refusal(self, tenant: Tenant, channel: str, to: str, device_id: str) -> str:
        return "" if self.is_there else "NO_DEVICE_AVAILABLE"


async def come_and_go(house: House) -> Device:
    """Live through it all; one phone is there at the end, with its stream."""
    presence = Presence(house)
    devices = presence.devices
    staying, leaving, retired, silent = (device_of() for _ in range(4))
    await devices.refresh(staying)
    assert await presence.state(leaving) == DeviceState(sims=(await presence.state(leaving)).sims)
    for device in (staying, leaving, retired, silent):
        assert await presence.seen(device, stream="s1") == 0
    await presence.seen(leaving, stream="s2", is_pull=True)
    for stream in ("s1", "s2", "s2"):
        await devices.left(leaving, stream, WHY)
    await devices.refresh(staying)
    await devices.refresh(later(staying))
    await presence.put_into_inbox(retired, "msg_1")
    await devices.retire(later(retired, status=DeviceStatus.DISABLED), Gone.USER_LOGOUT)
    await devices.retire(retired, Gone.USER_LOGOUT)
    await devices.retire(device_of(), Gone.USER_LOGOUT)
    assert await presence.seen(retired) is None
    assert (await presence.state(staying)).is_online
    assert await devices.n_online() == 2
    await look_at_all(presence, staying, silent)
    await house.raw.zrem(house.keys.offers, f"{retired.client_id} msg_1")
    return staying


async def look_at_all(presence: Presence, staying: Device, silent: Device) -> None:
    """Find phones online, waiting, offline, gone and unknown; and tell of one that came while there was no room."""
    house = presence.house
    await presence.look()
    await presence.settle()
    await presence.settle()
    await house.age(61)
    await presence.look()
    await presence.put_into_inbox(silent, "msg_2")
    await presence.seen(silent, is_pull=True)
    full = RedisDevices(house.client, house.keys, event_limit=0)
    other = device_of()
    await full.seen(other, stream="s1", online_s=60)
    await house.age(2)
    await full.lapsed(limit=100)
    await presence.settle()
    await presence.seen(staying, stream="s1")
    await house.raw.delete(house.keys.devices(other.client_id).device_base + other.id)
    await presence.settle()
    await house.raw.zrem(house.keys.offers, f"{silent.client_id} msg_2")
    await presence.devices.n_online()


async def send_out_of_reach(house: House, code_length: int) -> None:
    """Ask for codes that no phone could carry."""
    reach, before = Reach(), house.service._reach
    house.service._reach = reach
    caller = house.caller(FAR_CLIENT, code_length=code_length)
    sent = await house.send(caller)
    reach.is_there = False
    await refusal_of(house.send(caller))
    await refusal_of(house.resend(sent.otp_id, caller))
    house.service._reach = before
