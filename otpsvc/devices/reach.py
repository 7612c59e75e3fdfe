"""Whether a message could leave at all, asked before a code is made: a caller hears at once that no phone is there.

That matters only where phones alone may carry it. It is a look, no promise: what happens later is for the pool. The
answer for a tenant is kept for a second, so that a busy client costs one question a second.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from otpsvc.clock import Clock
from otpsvc.devices.model import Tenant
from otpsvc.devices.ports import DeviceOffers

KEPT_FOR_S = 1.0
_MOST_KEPT = 10_000

_CODES = {
    "": "",
    "none": "NO_DEVICE_AVAILABLE",
    "empty": "NO_DEVICE_AVAILABLE",
    "offline": "DEVICE_OFFLINE",
    "foreign": "INVALID_DEVICE_ID",
}


class Ways(NamedTuple):
    """How many of the senders that may carry a message are phones, and how many are not."""

    phones: int
    others: int


class Owner(Protocol):
    """Whose message it is."""

    @property
    def client_id(self) -> str:
        """The client."""
        ...

    @property
    def mode(self) -> str:
        """`live` or `test`."""
        ...


class PhoneReach:
    """Implements `otp.ports.Reach`. Until `use` has told it of the routes, no message is thought to need a phone."""

    def __init__(self, offers: DeviceOffers, clock: Clock) -> None:
        self._offers = offers
        self._clock = clock
        self._ways: Callable[[str, str, str], Ways] | None = None
        self._kept: dict[Tenant, tuple[float, str]] = {}

    def use(self, ways: Callable[[str, str, str], Ways]) -> None:
        """Take the routes: client id, channel and number (E.164) to the ways of a message."""
        self._ways = ways

    async def refusal(self, tenant: Owner, channel: str, to: str, device_id: str) -> str:
        """Return why the message could not leave now, in the catalogue's word; empty where it could.

        Raises ApiError SERVICE_UNAVAILABLE.
        """
        ways = self._ways(tenant.client_id, channel, to) if self._ways is not None else Ways(0, 1)
        owner = Tenant(tenant.client_id, tenant.mode)
        if device_id:
            found = _CODES[await self._offers.reach(owner, device_id)]
            # A phone of the client's own that no route leads to cannot be used either.
            return found or ("" if ways.phones else "NO_DEVICE_AVAILABLE")
        if ways.others or not ways.phones:
            return ""
        return _CODES[await self._reach(owner)]

    async def _reach(self, owner: Tenant) -> str:
        now = self._clock.monotonic()
        until, kept = self._kept.get(owner, (now, ""))
        if until > now:
            return kept
        found = await self._offers.reach(owner)
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[owner] = (now + KEPT_FOR_S, found)
        return found
