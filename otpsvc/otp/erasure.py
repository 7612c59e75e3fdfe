"""Forgetting a number: one call that takes it out of the living store and out of the history.

The history is asked first: it notes that the number is forgotten, so that whoever writes down older events later writes
them without it. It is the store that may be away while codes still go out: then nothing has been erased. And it names
the messages that the living store cannot find by the number any more, so it is erased last, with what was being written
meanwhile. Every step can be repeated, and a call that broke off anywhere is mended by the same call again.

The limits on the number stay (their names hold a blind index only): forgetting must hand nobody new codes. Never log
the number here, and never put it into an exception.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from otpsvc import phone
from otpsvc.crypto import Keyring
from otpsvc.errors import problem
from otpsvc.events.ports import NumberRecords
from otpsvc.otp.ports import Tenant

MODES = ("live", "test")


class Forgotten(NamedTuple):
    """What one call erased.

    `n_otps` counts the OTPs of the living store, `n_messages` the messages: at least so many, because a message that
    both stores know counts once, and only the larger of the two counts tells that.
    """

    n_otps: int
    n_messages: int


class LivingNumbers(Protocol):
    """What the living store holds of a number."""

    async def forget(
        self, tenant: Tenant, *, partition: int, to_index: str, message_ids: Sequence[str] = ()
    ) -> tuple[int, int]:
        """Erase one client's and mode's records of the number; give how many OTPs and messages there were.

        Pending OTPs end as cancelled (`forgotten`), and so do messages that have not left. The limits stay.
        `to_index` is the blind index in hex; the store finds the messages of the last hour by it, and is told of
        older ones by their ids. Raises ApiError SERVICE_UNAVAILABLE.
        """
        ...


class NumberEraser:
    """Forgets numbers. `client_ids` gives every client's id, suspended ones too; `partitions` is the number of them."""

    def __init__(
        self,
        *,
        living: LivingNumbers,
        history: NumberRecords,
        client_ids: Callable[[], Awaitable[list[str]]],
        keyring: Keyring,
        partitions: int,
    ) -> None:
        self._living = living
        self._history = history
        self._client_ids = client_ids
        self._keyring = keyring
        self._partitions = partitions

    async def forget(self, to: str, *, tenant: Tenant | None) -> Forgotten:
        """Erase a number at one client and mode, or with None at all clients and in both modes.

        A number that nobody knows gives zeros. Raises ApiError INVALID_PHONE_NUMBER, and SERVICE_UNAVAILABLE if one of
        the stores is away: make the same call again then. Nothing has been touched if it is the history that is away.
        """
        number = _normalised(to)
        to_index = self._keyring.index("number", number).hex()
        partition = self._keyring.partition(number, self._partitions)
        tenants = [tenant] if tenant is not None else await self._every_tenant()
        client_id, mode = tenant or (None, None)
        sent = await self._history.mark_forgotten(to_index, client_id=client_id, mode=mode)
        n_otps = n_living = 0
        for each in tenants:
            ids = [message.message_id for message in sent if (message.client_id, message.mode) == each]
            otps, messages = await self._living.forget(each, partition=partition, to_index=to_index, message_ids=ids)
            n_otps += otps
            n_living += messages
        n_erased = await self._history.forget(to_index, client_id=client_id, mode=mode)
        return Forgotten(n_otps, max(n_erased, n_living))

    async def _every_tenant(self) -> list[Tenant]:
        return [Tenant(client_id, mode) for client_id in await self._client_ids() for mode in MODES]


def _normalised(number: str) -> str:
    try:
        return phone.normalise(number)
    except phone.InvalidNumber as error:
        raise problem("INVALID_PHONE_NUMBER", details={"field": "to", "reason": error.reason}) from None
