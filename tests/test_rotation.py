"""The keyring over starts: masters come and go, the indexes stay, and a start that would forget limits is refused."""

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from otpsvc.app import House, open_house
from otpsvc.app_delivery import open_delivery, open_outlets
from otpsvc.clients.model import Mode, Principal
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.ids import parse_otp_id
from otpsvc.messages.model import Content
from otpsvc.otp.model import ResendRequest, SendRequest, VerifiedOtp, VerifyRequest
from otpsvc.otp.policy import Policy
from otpsvc.redis.messages import RedisMessageQueue
from otpsvc.settings import load

A, B, INDEX = f"a:{'aa' * 32}", f"b:{'bb' * 32}", f"index:{'cc' * 32}"
CALLER = Principal("client_100000000001", "test", "key", Policy(cooldown_s=0))
MODES: tuple[Mode, ...] = ("live", "test")
NUMBER = "+33612345678"


class Starts:
    """Starts the service on one pair of stores with one keyring or another."""

    def __init__(self, redis_url: str, database_url: str) -> None:
        self._environ = {"OTPSVC_REDIS_URL": redis_url, "OTPSVC_DATABASE_URL": database_url}

    def house(self, *masters: str, **more: str) -> AbstractAsyncContextManager[House]:
        environ = {**self._environ, "OTPSVC_KEYS_MASTERS": ",".join(masters), **more}
        return open_house(load(None, environ))


@pytest.fixture
def starts(redis_url: str, database_url: str) -> Starts:
    return Starts(redis_url, database_url)


async def sent_code(house: House) -> tuple[str, str]:
    """Send a code and read it as a worker does."""
    sent = await house.otp.send(CALLER, SendRequest(to=NUMBER))
    async with open_outlets(house.stores, is_dev=True, is_worker=True, mirrors={"inbox": "inbox"}) as outlets:
        delivery = open_delivery(house.stores, outlets)
        queue: RedisMessageQueue = delivery.queues[0]
        (claimed,) = (await queue.claim(limit=1, lease_s=30)).messages
        content = delivery.dispatcher._open(claimed)
        assert isinstance(content, Content)
    return sent.otp_id, content.text.split()[0]


async def verified(house: House, otp_id: str, code: str) -> bool:
    outcome = await house.otp.verify(CALLER, VerifyRequest(otp_id=otp_id, code=code, to=NUMBER))
    return isinstance(outcome, VerifiedOtp)


async def test_a_rotation_in_three_steps_loses_no_code_and_no_limit(starts: Starts) -> None:
    async with starts.house(A) as house:
        first, first_code = await sent_code(house)
        index_key_id = house.keyring.index_key_id
    async with starts.house(A, B) as house:
        assert await verified(house, first, first_code)
        second, second_code = await sent_code(house)
        assert house.keyring.index_key_id == index_key_id
    async with starts.house(B, A) as house:
        assert await verified(house, second, second_code)
        third, third_code = await sent_code(house)
        assert parse_otp_id(third).slot != parse_otp_id(second).slot
        assert house.keyring.index_key_id == index_key_id
    # A process that the last step has not reached yet reads what the others made.
    async with starts.house(A, B) as house:
        assert await verified(house, third, third_code)
        for _ in range(7):
            await house.otp.send(CALLER, SendRequest(to=NUMBER))
        with pytest.raises(ApiError, match="OTP_RATE_LIMIT"):
            await house.otp.send(CALLER, SendRequest(to=NUMBER))


async def test_api_keys_move_with_a_rotation_until_the_old_master_can_go(starts: Starts) -> None:
    async with starts.house(A, INDEX) as house:
        client = await house.clients.create_client("Shop")
        used, idle = [await house.clients.create_key(client.id, mode) for mode in MODES]
    for masters in ((A, B, INDEX), (B, A, INDEX), (A, B, INDEX)):
        async with starts.house(*masters) as house:
            assert (await house.authenticator.authenticate(used.text, client.id)).mode == "live"
            await asyncio.gather(*house.authenticator._retagger._moves)
    async with starts.house(B, INDEX) as house:
        assert (await house.authenticator.authenticate(used.text, client.id)).mode == "live"
        # Nobody used this one while both were there, which `otpsvc keys list` would have told.
        with pytest.raises(ApiError, match="INVALID_API_KEY"):
            await house.authenticator.authenticate(idle.text, client.id)
    async with starts.house(B, A, INDEX) as house:
        assert (await house.authenticator.authenticate(idle.text, client.id)).mode == "test"


async def test_a_master_that_was_removed_too_early_costs_nothing_once_it_is_back(starts: Starts) -> None:
    async with starts.house(A, INDEX) as house:
        otp_id, code = await sent_code(house)
    async with starts.house(B, INDEX) as house:
        for call in (
            house.otp.verify(CALLER, VerifyRequest(otp_id=otp_id, code=code)),
            house.otp.resend(CALLER, ResendRequest(otp_id=otp_id)),
            house.otp.get(CALLER, otp_id),
            house.otp.cancel(CALLER, otp_id),
        ):
            with pytest.raises(ApiError, match="OTP_NOT_FOUND") as caught:
                await call
            assert caught.value.reason == "unknown_master"
    async with starts.house(B, A, INDEX) as house:
        assert (await house.otp.get(CALLER, otp_id)).attempts_remaining == 3
        assert await verified(house, otp_id, code)


async def test_the_index_master_must_stay(starts: Starts) -> None:
    async with starts.house(A):
        pass
    with pytest.raises(ConfigurationError, match="index key"):
        async with starts.house(B):
            pass
    with pytest.raises(ConfigurationError, match="index key"):
        async with starts.house(A, B, OTPSVC_KEYS_INDEX_MASTER="b"):
            pass
    async with starts.house(B, A, OTPSVC_KEYS_INDEX_MASTER="a"):
        pass


async def test_first_starts_at_the_same_time_agree(starts: Starts) -> None:
    async def key_id() -> str:
        async with starts.house(A, B) as house:
            return house.keyring.index_key_id

    assert len(set(await asyncio.gather(*(key_id() for _ in range(4))))) == 1


async def test_unknown_profiles_are_refused(starts: Starts) -> None:
    with pytest.raises(ConfigurationError, match="argon3"):
        async with starts.house(A, OTPSVC_KEYS_ACCEPTED_HASH_PROFILES="argon3"):
            pass
