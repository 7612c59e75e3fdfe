"""The passwords of pairings, and how often anybody may try one.

A password may be one that a person chose, so it is kept as Argon2id at the strength that OWASP asks for, which costs
memory and time: the hashes run in a few threads, and what comes when too many wait is turned away. New pairings have
places of their own, a few, so that no client can take those of the phones. A login that does not exist costs the same
as a wrong password. Never log a password, and never say which of login and password was wrong.
"""

import asyncio
import ipaddress
import math
import secrets
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from otpsvc.clock import Clock
from otpsvc.errors import ApiError, Quota, problem

MAX_PASSWORD_LENGTH = 128
MOST_TRIES = 10
TRIES_WINDOW_S = 60.0
MOST_OPENED = 30
MOST_KEPT = 10_000

_MEMORY_KIB, _PASSES, _LANES = 19 * 1024, 2, 1
_MOST_WAITING, _MOST_NEW_WAITING = 32, 8

T = TypeVar("T")


class Passwords:
    """Hashes and verifies in threads of its own; `close` ends them."""

    def __init__(
        self, *, threads: int = 1, most_waiting: int = _MOST_WAITING, most_new_waiting: int = _MOST_NEW_WAITING
    ) -> None:
        self._hasher = PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=_LANES)
        self._nobodys = _hash_of_nothing()
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._logins = _Places(most_waiting)
        self._pairings = _Places(most_new_waiting)

    def close(self) -> None:
        """End the threads, if any were started."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """Return what is stored of a password. Raises ApiError SERVICE_UNAVAILABLE when too many wait."""
        return await self._run(lambda: self._hasher.hash(_bytes_of(password)), self._logins)

    async def hash_new(self, password: str) -> str:
        """Do what `hash` does for a pairing that is being opened, in the few places that there are for those."""
        return await self._run(lambda: self._hasher.hash(_bytes_of(password)), self._pairings)

    async def verify(self, password: str, stored: str) -> bool:
        """Say whether this is the password; where nothing is stored (empty) that takes as long, and is False.

        Raises ApiError SERVICE_UNAVAILABLE when too many wait.
        """
        is_possible = stored != "" and len(password) <= MAX_PASSWORD_LENGTH
        against = stored if is_possible else self._nobodys
        shortened = password[:MAX_PASSWORD_LENGTH]
        return await self._run(lambda: self._fits(against, shortened), self._logins) and is_possible

    def _fits(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, _bytes_of(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T], places: "_Places") -> T:
        if places.taken >= places.most:
            raise problem("SERVICE_UNAVAILABLE")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="password-hash")
        places.taken += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            places.taken -= 1


class _Places:
    """So many may wait, and so many do."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0


class Tries:
    """How often credentials were tried, by address (IPv6: by /64) and by login, in this process.

    A try counts from its beginning, so that many at once are no way round, until it turned out to be no guess. What is
    remembered is bounded: the address, or login, that was not heard of for longest is forgotten first.
    """

    def __init__(self, clock: Clock, *, most: int = MOST_TRIES, most_kept: int = MOST_KEPT) -> None:
        self._clock = clock
        self._most = most
        self._addresses = _Counts(most_kept)
        self._logins = _Counts(most_kept)

    def take(self, address: str, login: str = "") -> None:
        """Count a try. Raises ApiError RATE_LIMIT_EXCEEDED, and then counts nothing, where there were too many."""
        now = self._clock.monotonic()
        counts = [self._addresses.recent(_network_of(address), now)]
        if login:
            counts.append(self._logins.recent(login, now))
        full = [times for times in counts if len(times) >= self._most]
        if full:
            raise _too_many("device_logins", self._most, max(times[0] for times in full), now)
        for times in counts:
            times.append(now)

    def give_back(self, address: str, login: str = "") -> None:
        """Count the last try no more: it was no wrong one."""
        self._addresses.drop_last(_network_of(address))
        self._logins.drop_last(login)


class Openings:
    """How many pairings each client has asked for in the last minute, in this process. Likewise bounded."""

    def __init__(self, clock: Clock, *, most_kept: int = MOST_KEPT) -> None:
        self._clock = clock
        self._clients = _Counts(most_kept)

    def take(self, client_id: str) -> None:
        """Count one. Raises ApiError RATE_LIMIT_EXCEEDED, and then counts nothing, where there were too many."""
        now = self._clock.monotonic()
        times = self._clients.recent(client_id, now)
        if len(times) >= MOST_OPENED:
            raise _too_many("pairings", MOST_OPENED, times[0], now)
        times.append(now)


class _Counts:
    """The times of late tries by name, in s on the monotonic clock, the longest unheard first."""

    def __init__(self, most_kept: int) -> None:
        self._most_kept = most_kept
        self._times: dict[str, deque[float]] = {}

    def recent(self, name: str, now: float) -> deque[float]:
        times = self._times.pop(name, None) or deque()
        while times and times[0] <= now - TRIES_WINDOW_S:
            times.popleft()
        self._times[name] = times
        if len(self._times) > self._most_kept:
            del self._times[next(iter(self._times))]
        return times

    def drop_last(self, name: str) -> None:
        if times := self._times.get(name):
            times.pop()


def _too_many(limit: str, most: int, since: float, now: float) -> ApiError:
    return problem(
        "RATE_LIMIT_EXCEEDED",
        details={"limit": limit},
        retry_after_s=max(1, math.ceil(since + TRIES_WINDOW_S - now)),
        quota=Quota(limit, most, int(TRIES_WINDOW_S)),
    )


def _network_of(address: str) -> str:
    """Name what one caller can have many of: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def _bytes_of(password: str) -> bytes:
    # A header can hold what is no text; it is a wrong password then, and no fault.
    return password.encode("utf-8", "surrogatepass")


def _hash_of_nothing() -> str:
    """Return a stored form that costs as much as any, and that no password fits."""
    salt, digest = (b64encode(secrets.token_bytes(n)).decode().rstrip("=") for n in (16, 32))
    return f"$argon2id$v=19$m={_MEMORY_KIB},t={_PASSES},p={_LANES}${salt}${digest}"
