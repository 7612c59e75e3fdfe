"""Codes that a gateway made, with every outcome of putting a guess to it; a part of `story`."""

from collections.abc import Awaitable, Callable

from otpsvc.clients.model import Principal
from otpsvc.errors import problem
from otpsvc.otp.ports import Ask
from otpsvc.redis.messages import RedisMessageQueue
from tests.otp.house import House, refusal_of

SENDER, PROVIDER_ID = "verifier", "session 1"
OWN_CLIENT = "client_300000000003"
GUESSES = ("7391846205", "7391846206", "7391846207")


class Judge:
    """Says what it is told to, or nothing, in the place of the gateways; `meanwhile` happens before that."""

    def __init__(self, *, is_right: bool | None, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        self._is_right = is_right
        self._meanwhile = meanwhile

    async def check(self, ask: Ask, code: str) -> bool:
        assert (ask.sender, ask.provider_id) == (SENDER, PROVIDER_ID)
        if self._meanwhile is not None:
            await self._meanwhile()
        if self._is_right is None:
            raise problem("SERVICE_UNAVAILABLE")
        return self._is_right


async def put_guesses_to_a_gateway(house: House, fenced: House) -> None:
    """Wrong, right, each told again, undecided, cancelled and expired meanwhile, and made in another history."""
    caller = house.caller(OWN_CLIENT, code_length=len(GUESSES[0]))
    otp_id = await _carried(house, caller, "first")
    for guess, is_right in ((GUESSES[0], False), (GUESSES[1], True)):
        house.service._checker = Judge(is_right=is_right)
        await house.verify(otp_id, guess, caller=caller)
        await house.store.again()
    house.service._checker = Judge(is_right=None)
    otp_id = await _carried(house, caller, "silent")
    for _ in range(2):
        await refusal_of(house.verify(otp_id, GUESSES[2], caller=caller, key="once"))
    for one, fields in (
        (house, {"status": "cancelled"}),
        (house, {"status": "expired"}),
        (fenced, {"fence": "0" * 40}),
    ):
        otp_id = await _carried(one, caller, next(iter(fields.values()))[:9])
        one.service._checker = Judge(is_right=True, meanwhile=_set(one, otp_id, fields))
        await refusal_of(one.verify(otp_id, GUESSES[2], caller=caller))


def _set(house: House, otp_id: str, fields: dict[str, str]) -> Callable[[], Awaitable[object]]:
    async def change() -> None:
        await house.raw.hset(house.keys.partitions[0].otp_base + otp_id, mapping=fields)

    return change


async def _carried(house: House, caller: Principal, purpose: str) -> str:
    """Send a code and let the gateway take it."""
    sent = await house.send(caller, purpose=f"o{purpose}")
    queue = RedisMessageQueue(house.client, house.keys.partitions[0], with_codes=[SENDER])
    for claimed in (await queue.claim(limit=100, lease_s=30)).messages:
        if claimed.message_id != sent.message_id:
            await queue.release(claimed.message_id, claimed.token, due_in_s=0, reason="retry_later")
            continue
        assert await queue.begin(claimed.message_id, claimed.token, sender=SENDER)
        await queue.record_sent(claimed.message_id, claimed.token, sender=SENDER, provider_id=PROVIDER_ID)
    return sent.otp_id
