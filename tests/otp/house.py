"""An OTP service over the real store, with every code that it makes at hand, and ways to look at all that is stored."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import pytest
import redis.asyncio

from otpsvc.clients.model import Mode, Principal
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError
from otpsvc.events.model import Event, event_of
from otpsvc.ids import OtpId
from otpsvc.messages.model import ClaimedMessage
from otpsvc.messages.text import MASK
from otpsvc.otp.checks import GatewayChecks
from otpsvc.otp.codes import CodeHasher
from otpsvc.otp.model import OtpView, ResendRequest, SendRequest, SentOtp, VerifiedOtp, VerifyRequest, WrongGuess
from otpsvc.otp.policy import Limits, Policy
from otpsvc.otp.ports import (
    Accepted,
    Ask,
    CheckCommand,
    Reach,
    Refusal,
    Replayed,
    ResendCommand,
    Right,
    SendCommand,
    StoredOtp,
    Tenant,
    VerifyCommand,
    Wrong,
)
from otpsvc.otp.service import OtpService
from otpsvc.redis.client import RedisClient
from otpsvc.redis.events import RedisEventStream
from otpsvc.redis.keys import Keys
from otpsvc.redis.messages import RedisMessageQueue, RedisMessageRecords
from otpsvc.redis.otp import RedisOtpStore

NUMBER = "+33612345678"
OTHER_NUMBER = "+33698765432"
CLIENT, OTHER_CLIENT = "client_100000000001", "client_200000000002"
MASTERS = {"2026a": bytes(range(32))}
HOUR_S = 3600
RECORD_S = 15 * 60  # how long a record stays after its end


class SpokenText(NamedTuple):
    text: str
    masked: str
    parts: int = 1


class CodeCatcher:
    """A renderer that keeps the codes, in the order in which they were made."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def render(
        self, *, code: str, ttl_s: int, template: str | None, locale: str | None, region: str | None
    ) -> SpokenText:
        self.codes.append(code)
        return SpokenText(f"code {code} for {ttl_s} s", f"code {MASK * len(code)} for {ttl_s} s")


class RememberingStore:
    """The real store; keeps the commands, so that a test can make the very same call again."""

    def __init__(self, store: RedisOtpStore) -> None:
        self._store = store
        self.commands: list[SendCommand | ResendCommand | VerifyCommand | CheckCommand] = []

    async def send(self, command: SendCommand) -> Accepted | Replayed | Refusal:
        self.commands.append(command)
        return await self._store.send(command)

    async def resend(self, command: ResendCommand) -> Accepted | Replayed | Refusal:
        self.commands.append(command)
        return await self._store.resend(command)

    async def verify(self, command: VerifyCommand) -> Right | Wrong | Ask | Refusal:
        self.commands.append(command)
        return await self._store.verify(command)

    async def check(self, command: CheckCommand) -> Right | Wrong | Refusal:
        self.commands.append(command)
        return await self._store.check(command)

    async def cancel(self, tenant: Tenant, otp_id: OtpId, *, event_limit: int) -> Refusal | None:
        return await self._store.cancel(tenant, otp_id, event_limit=event_limit)

    async def get(self, tenant: Tenant, otp_id: OtpId) -> StoredOtp | None:
        return await self._store.get(tenant, otp_id)

    async def again(self) -> Any:
        """Make the last call once more, as our own client does after a lost connection."""
        match self.commands[-1]:
            case SendCommand() as command:
                return await self._store.send(command)
            case ResendCommand() as command:
                return await self._store.resend(command)
            case VerifyCommand() as command:
                return await self._store.verify(command)
            case CheckCommand() as command:
                return await self._store.check(command)


@dataclass
class House:
    """A service, its store and short ways to call it. The default client has no cooldown."""

    service: OtpService
    store: RememberingStore
    redis_store: RedisOtpStore
    raw: Any  # the library's types allow for answers of every kind of server
    client: RedisClient
    keys: Keys
    queue: RedisMessageQueue
    stream: RedisEventStream
    records: RedisMessageRecords
    keyring: Keyring
    catcher: CodeCatcher = field(default_factory=CodeCatcher)
    checks: GatewayChecks = field(default_factory=GatewayChecks)

    @property
    def codes(self) -> list[str]:
        return self.catcher.codes

    def caller(self, client_id: str = CLIENT, mode: Mode = "test", **policy: Any) -> Principal:
        changed = msgspec.structs.replace(Policy(cooldown_s=0), **policy)
        return Principal(client_id, mode, "key", changed)

    async def send(self, caller: Principal | None = None, *, key: str | None = None, **fields: Any) -> SentOtp:
        return await self.service.send(caller or self.caller(), SendRequest(**{"to": NUMBER, **fields}), key)

    async def send_with_code(self, caller: Principal | None = None, **fields: Any) -> tuple[SentOtp, str]:
        sent = await self.send(caller, **fields)
        return sent, self.codes[-1]

    async def verify(
        self, otp_id: str, code: str, caller: Principal | None = None, *, key: str | None = None, **fields: Any
    ) -> VerifiedOtp | WrongGuess:
        request = VerifyRequest(otp_id=otp_id, code=code, **fields)
        return await self.service.verify(caller or self.caller(), request, key)

    async def resend(
        self, otp_id: str, caller: Principal | None = None, *, key: str | None = None, **fields: Any
    ) -> SentOtp:
        return await self.service.resend(caller or self.caller(), ResendRequest(otp_id=otp_id, **fields), key)

    async def cancel(self, otp_id: str, caller: Principal | None = None) -> OtpView:
        return await self.service.cancel(caller or self.caller(), otp_id)

    async def get(self, otp_id: str, caller: Principal | None = None) -> OtpView:
        return await self.service.get(caller or self.caller(), otp_id)

    async def status(self, otp_id: str) -> str:
        return (await self.get(otp_id)).status

    async def lock(self, otp_id: str, code: str, caller: Principal | None = None) -> None:
        """Use up all attempts of an OTP."""
        for _ in range(3):
            assert isinstance(await self.verify(otp_id, wrong(code), caller), WrongGuess)

    async def claim(self, *, limit: int = 100, lease_s: float = 60) -> list[ClaimedMessage]:
        return (await self.queue.claim(limit=limit, lease_s=lease_s)).messages

    async def record(self, otp_id: str) -> dict[str, str]:
        """One OTP as it is stored, without the sealed number."""
        stored = await self.raw.hgetall(self.keys.partitions[0].otp_base + otp_id)
        return {name.decode(): value.decode() for name, value in stored.items() if name != b"to_sealed"}

    async def message(self, message_id: str) -> dict[str, str]:
        """One message as it is stored."""
        stored = await self.raw.hgetall(self.keys.partitions[0].message_base + message_id)
        return {name.decode(): value.decode() for name, value in stored.items()}

    async def has_text(self, message_id: str) -> bool:
        """Say whether the sealed text is still there."""
        return bool(await self.raw.exists(self.keys.partitions[0].sealed_base + message_id))

    async def waiting(self) -> list[str]:
        """The messages in the due-set."""
        return [name.decode() for name in await self.raw.zrange(self.keys.partitions[0].due, 0, -1)]

    async def events(self) -> list[tuple[str, str]]:
        """What happened to OTPs so far: event names with their OTPs."""
        return [(event.name, event.otp_id) for event in await self.all_events() if event.name.startswith("otp.")]

    async def message_events(self) -> list[tuple[str, str, str]]:
        """What happened to messages so far: event names with their messages and why."""
        events = [event for event in await self.all_events() if event.name.startswith("message.")]
        return [(event.name, event.message_id, event.data.get("reason", "")) for event in events]

    async def all_events(self) -> list[Event]:
        """Everything that happened so far and was not yet written elsewhere."""
        return [event_of(facts) for _, facts in await self.raw.xrange(self.keys.partitions[0].events)]

    async def forget(self, to: str, caller: Principal | None = None) -> tuple[int, int]:
        """Erase a number from one client's records; return from how many OTPs and messages."""
        tenant = Tenant((caller or self.caller()).client_id, (caller or self.caller()).mode)
        index = self.keyring.index("number", to).hex()
        return await self.redis_store.forget(tenant, partition=0, to_index=index)

    async def sweep(self) -> int:
        """Tell of those that expired; return how many were looked at."""
        return (await self.redis_store.sweep(0, limit=100)).n_seen

    async def blocked(self, number: int) -> None:
        """Return once so many connections wait for a token."""
        # The server tells nobody when this changes.
        while (await self.raw.info("clients"))["blocked_clients"] != number:  # noqa: ASYNC110 - the server says nothing by itself
            await asyncio.sleep(0.005)

    async def age(self, seconds: float) -> None:
        """Let `seconds` pass for everything in the store.

        The server's clock cannot be moved, so all that is written down moves back instead: every stored time, every
        window's score, every life.
        """
        shift = int(seconds * 1000)
        for name in await self.names():
            await self._age_key(name, shift)

    async def _age_key(self, name: bytes, shift: int) -> None:
        kind = await self.raw.type(name)
        if kind == b"hash":
            for entry, value in (await self.raw.hgetall(name)).items():
                if entry.endswith((b"_at", b"_until")) and value:
                    await self.raw.hset(name, entry, int(value) - shift)
                elif b":live:" in name:
                    ends_at, otp_id = value.split(b" ")
                    await self.raw.hset(name, entry, b"%d %s" % (int(ends_at) - shift, otp_id))
        elif kind == b"zset":
            for member, score in await self.raw.zrange(name, 0, -1, withscores=True):
                await self.raw.zadd(name, {member: score - shift})
        elif b":cooldown:" in name:
            at, otp_id = (await self.raw.get(name)).split(b" ")
            await self.raw.set(name, b"%d %s" % (int(at) - shift, otp_id), keepttl=True)
        left = await self.raw.pttl(name)
        if left >= 0:
            await self.raw.pexpire(name, left - shift)

    async def names(self) -> list[bytes]:
        """Every key of the store."""
        return sorted([name async for name in self.raw.scan_iter(count=1000)])

    async def snapshot(self) -> dict[bytes, tuple[Any, int]]:
        """Everything in the store with the time at which it ends, to see what a call changed."""
        seen: dict[bytes, tuple[Any, int]] = {}
        for name in await self.names():
            kind = await self.raw.type(name)
            if kind == b"hash":
                value: Any = await self.raw.hgetall(name)
            elif kind == b"zset":
                value = await self.raw.zrange(name, 0, -1, withscores=True)
            elif kind == b"stream":
                value = await self.raw.xrange(name)
            elif kind == b"list":
                value = await self.raw.lrange(name, 0, -1)
            else:
                value = await self.raw.get(name)
            seen[name] = (value, await self.raw.pexpiretime(name))
        return seen

    async def refused(self, call: Awaitable[Any], code: str) -> ApiError:
        """Check that a call is refused with this code and changes nothing at all."""
        before = await self.snapshot()
        error = await refusal_of(call)
        assert error.code == code
        assert await self.snapshot() == before
        return error


@asynccontextmanager
async def open_house(
    redis_url: str,
    *,
    limits: Limits | None = None,
    masters: dict[str, bytes] | None = None,
    profile: str = "hmac-sha256",
    accepted: tuple[str, ...] = (),
    partitions: int = 1,
    is_fenced: bool = False,
    reach: Reach | None = None,
) -> AsyncIterator[House]:
    """Build the service as `app.py` does, over the store at `redis_url`."""
    client = RedisClient(redis_url, timeout_s=5, max_connections=32)
    raw = redis.asyncio.Redis.from_url(redis_url)
    keys = Keys("test", partitions)
    keyring = Keyring.from_masters(masters or MASTERS)
    hasher = CodeHasher(keyring, profile, accepted)
    catcher = CodeCatcher()
    redis_store = RedisOtpStore(client, keys, is_fenced=is_fenced)
    store = RememberingStore(redis_store)
    checks = GatewayChecks()
    service = OtpService(
        store=store,
        keyring=keyring,
        hasher=hasher,
        texts=catcher,
        limits=limits or Limits(),
        partitions=partitions,
        checker=checks,
        reach=reach,
    )
    try:
        queue = RedisMessageQueue(client, keys.partitions[0], is_fenced=is_fenced)
        stream, records = RedisEventStream(client, keys), RedisMessageRecords(client, keys)
        yield House(service, store, redis_store, raw, client, keys, queue, stream, records, keyring, catcher, checks)
    finally:
        hasher.close()
        await client.close()
        await raw.aclose()


def wrong(*codes: str) -> str:
    """A code of the same length that is none of these."""
    length = len(codes[0])
    return next(guess for n in range(10) if (guess := f"{n:0{length}d}") not in codes)


async def refusal_of(call: Awaitable[Any]) -> ApiError:
    """Make a call that must be refused."""
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value
