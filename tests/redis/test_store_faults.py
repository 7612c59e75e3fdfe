"""Whatever happens to the store in the middle of traffic: no wrong answer, only clear refusals, and then it goes on.

Each flow is one person: a code is sent, guessed wrong once, guessed right, and tried once more. Its caller does what
the documents say, and repeats a refused call under the same Idempotency-Key until it is decided. So in the end everyone
has made exactly one message, used exactly one attempt and verified exactly once, and the store has to agree.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from otpsvc.errors import ApiError
from otpsvc.otp.model import VerifiedOtp, WrongGuess
from otpsvc.otp.ports import SendCommand
from otpsvc.redis import outages
from otpsvc.redis.client import RedisClient
from tests.otp import house as houses
from tests.otp.house import House, open_house, refusal_of, wrong
from tests.redis.servers import Server, running, until

LANES = 4
PEOPLE = 24
IMPATIENT_S, PATIENT_S = 0.3, 20.0
_Answer = TypeVar("_Answer")


class Traffic:
    """People who come one after another until it is enough."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.finished = 0
        self.refused: Counter[str | None] = Counter()
        self.is_enough = False
        self._begun = 0

    async def person(self) -> None:
        while not self.is_enough:
            self._begun += 1
            await self._flow(self._begun)
            self.finished += 1

    async def more(self, flows: int) -> None:
        """Return when so many more flows have ended."""
        goal = self.finished + flows

        async def is_reached() -> bool:
            return self.finished >= goal

        await until(is_reached, f"{flows} more flows to end ({self.refused})")

    async def _flow(self, number: int) -> None:
        house = self.house
        to = f"+336{number + 10_000_000:08d}"
        sent = await self._decided(lambda: house.send(to=to, metadata={"n": number}, key=f"s{number}"))
        code = self._code_of(sent.otp_id)
        guess = await self._decided(lambda: house.verify(sent.otp_id, wrong(code), key=f"w{number}"))
        assert isinstance(guess, WrongGuess)
        assert guess.attempts_remaining == 2
        right = await self._decided(lambda: house.verify(sent.otp_id, code, key=f"r{number}"))
        assert isinstance(right, VerifiedOtp)
        assert right.metadata == {"n": number}
        error = await refusal_of(self._decided(lambda: house.verify(sent.otp_id, code)))
        assert error.code == "OTP_NOT_FOUND"

    def _code_of(self, otp_id: str) -> str:
        sends = [command for command in self.house.store.commands if isinstance(command, SendCommand)]
        assert len(sends) == len(self.house.codes)
        (code,) = [code for send, code in zip(sends, self.house.codes, strict=True) if send.otp_id.text == otp_id]
        return code

    async def _decided(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Repeat a call until the store decides it."""
        while True:
            try:
                return await call()
            except ApiError as error:
                if error.code != "SERVICE_UNAVAILABLE":
                    raise
                self.refused[error.reason] += 1
                await asyncio.sleep(0.02)


@asynccontextmanager
async def traffic(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, timeout_s: float = IMPATIENT_S
) -> AsyncIterator[Traffic]:
    """Let people come while the block runs and until all are well again; then look at what the store has written."""

    def client(url: str, **_: Any) -> RedisClient:
        return RedisClient(url, timeout_s=timeout_s, max_connections=LANES)

    monkeypatch.setattr(houses, "RedisClient", client)
    others = asyncio.all_tasks()
    async with open_house(server.url) as house:
        flowing = Traffic(house)
        people = [asyncio.create_task(flowing.person()) for _ in range(PEOPLE)]
        try:
            await flowing.more(PEOPLE)
            yield flowing
            await flowing.more(2 * PEOPLE)
            flowing.is_enough = True
            await asyncio.gather(*people)
        finally:
            for person in people:
                person.cancel()
            await asyncio.gather(*people, return_exceptions=True)
        happened = Counter(name for name, _ in await house.events())
        assert happened == dict.fromkeys(("otp.sent", "otp.rejected", "otp.verified"), flowing.finished) | {
            name: number for name, number in happened.items() if name.startswith("message.")
        }

        async def is_tidy() -> bool:
            ours = [one for one in await server.raw.client_list() if one["cmd"] != "client|list"]
            return len(ours) <= LANES + 1  # and the house's own for looking

        await until(is_tidy, "the connections that were given up to be closed")
    assert asyncio.all_tasks() == others


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running() as one:
        yield one


async def test_scripts_are_forgotten_again_and_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing:
        for _ in range(20):
            await server.raw.script_flush()
            await flowing.more(1)
    assert not flowing.refused


async def test_a_short_sleep_is_slept_through(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing:
        for _ in range(3):
            await server.raw.execute_command("DEBUG", "SLEEP", "0.3")
            await flowing.more(1)
    assert not flowing.refused


async def test_a_long_sleep_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with traffic(server, monkeypatch) as flowing:
        await server.raw.execute_command("DEBUG", "SLEEP", str(4 * IMPATIENT_S))
    assert flowing.refused["store_timeout"]


async def test_a_server_without_processor_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with traffic(server, monkeypatch) as flowing:
        server.stop()
        await asyncio.sleep(5 * IMPATIENT_S)
        server.go_on()
    assert flowing.refused["store_timeout"]


async def test_a_crash_and_a_restart(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outages, "QUIET_S", 0.2)
    async with traffic(server, monkeypatch) as flowing:
        server.kill()
        await asyncio.sleep(0.5)
        await server.start()
        await until(lambda: is_told_of_the_end(caplog), "the end of the outage to be told")
    assert flowing.refused["store_lost"] > PEOPLE
    assert_one_line_per_outage(caplog)


async def test_every_connection_is_cut_in_the_middle_of_batches(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing:
        for _ in range(30):
            await server.raw.client_kill_filter(_type="normal", skipme=True)
            await flowing.more(1)
    assert set(flowing.refused) <= {"store_lost"}


async def test_a_full_memory(server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(outages, "QUIET_S", 0.2)
    async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing:
        await server.raw.config_set("maxmemory", 1)
        await asyncio.sleep(0.5)
        await server.raw.config_set("maxmemory", 0)
        await until(lambda: is_told_of_the_end(caplog), "the end of the outage to be told")
    assert set(flowing.refused) == {"store_refused"}
    assert_one_line_per_outage(caplog)
    assert "the store is away (OOM)" in caplog.text


@pytest.mark.parametrize("serves_stale_data", ["yes", "no"])
async def test_a_primary_that_is_demoted_for_a_while(
    server: Server, monkeypatch: pytest.MonkeyPatch, serves_stale_data: str
) -> None:
    """Answers READONLY, or MASTERDOWN where a replica says nothing without its primary."""
    await server.raw.config_set("replica-serve-stale-data", serves_stale_data)
    async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing:
        await server.raw.replicaof("127.0.0.1", "1")
        await asyncio.sleep(0.5)
        await server.raw.replicaof("NO", "ONE")
    assert set(flowing.refused) == {"store_refused"}


async def test_too_few_replicas(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing:
        await server.raw.config_set("min-replicas-to-write", 1)
        await asyncio.sleep(0.5)
        await server.raw.config_set("min-replicas-to-write", 0)
    assert set(flowing.refused) == {"store_refused"}


async def test_a_script_of_somebody_else_that_does_not_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """BUSY, until somebody kills it."""
    await server.raw.config_set("busy-reply-threshold", 20)
    async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing, Redis(port=server.port) as somebody:
        endless: asyncio.Future[Any] = asyncio.ensure_future(somebody.eval("while true do end", 0))
        await asyncio.sleep(0.5)
        await server.raw.script_kill()
        with pytest.raises(ResponseError, match="killed"):
            await endless
    assert set(flowing.refused) == {"store_refused"}


async def test_a_disk_that_takes_no_snapshot(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot save what it was told to save refuses to write: MISCONF."""
    in_the_way = server.folder / "dump.rdb"

    async def has_saved(status: str) -> bool:
        info = await server.raw.info("persistence")
        return not info["rdb_bgsave_in_progress"] and bool(info["rdb_last_bgsave_status"] == status)

    await server.raw.config_set("save", "3600 1000000")
    async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing:
        in_the_way.mkdir()
        await server.raw.bgsave()
        await until(lambda: has_saved("err"), "a snapshot to fail")
        await asyncio.sleep(0.5)
        in_the_way.rmdir()
        await server.raw.bgsave()
        await until(lambda: has_saved("ok"), "a snapshot to be taken")
    assert set(flowing.refused) == {"store_refused"}


async def test_a_server_that_reads_its_data_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(
        key_load_delay="1000", loading_process_events_interval_bytes="1024", aof_use_rdb_preamble="yes"
    ) as server:
        async with server.raw.pipeline(transaction=False) as filling:
            for number in range(400):
                filling.set(f"other:{number}", "x" * 100)
            await filling.execute()
        async with traffic(server, monkeypatch, timeout_s=PATIENT_S) as flowing:
            await server.raw.bgrewriteaof()

            async def is_rewritten() -> bool:
                info = await server.raw.info("persistence")
                return not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])

            await until(is_rewritten, "the append-only file to be rewritten")
            await server.restart()
        assert flowing.refused["store_refused"]
        assert set(flowing.refused) <= {"store_refused", "store_lost"}


async def is_told_of_the_end(caplog: pytest.LogCaptureFixture) -> bool:
    return "the store is back: " in caplog.text


def assert_one_line_per_outage(caplog: pytest.LogCaptureFixture) -> None:
    """A handful of lines tells of hundreds of refused calls: begin, end, begin, end."""
    ours = (record for record in caplog.records if record.name.startswith("otpsvc."))
    lines = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    assert 2 <= len(lines) <= 6
    assert len(lines) % 2 == 0
    assert all(line.startswith("the store is away (") for line in lines[::2])
    assert all(line.startswith("the store is back: ") for line in lines[1::2])
