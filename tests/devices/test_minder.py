"""The minder: looks at all that is due, outlives outages, and leaves nothing half done wherever it is stopped."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from otpsvc.clock import SystemClock
from otpsvc.devices import minder
from otpsvc.devices.minder import AGAIN_IN_MS, BATCH, run_minder
from otpsvc.devices.model import Told
from otpsvc.ids import new_message_id
from otpsvc.redis.client import RedisClient
from tests.clients.cable import Cable
from tests.devices.pool_doubles import AWAY, TENANT, Ledger, ToldOffers, ToldPresence, pool_of
from tests.devices.pool_house import open_pool

ID = new_message_id(partition=0).text
SENT = Told("told", TENANT.client_id, ID, "phones", "sent")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minder, "EVERY_S", 0.01)
    monkeypatch.setattr(minder, "_MIN_PAUSE_S", 0.001)
    monkeypatch.setattr(minder, "_MAX_PAUSE_S", 0.02)


@asynccontextmanager
async def minding(
    offers: ToldOffers, ledger: Ledger, presence: ToldPresence | None = None
) -> AsyncIterator[asyncio.Event]:
    """A minder at work; at the end it is told to stop, and must."""
    stop = asyncio.Event()
    pool = pool_of(offers, ledger)
    task = asyncio.create_task(run_minder(pool, offers, presence or ToldPresence(), stop=stop, clock=SystemClock()))
    try:
        yield stop
        assert not task.done(), "it ended by itself"
    finally:
        stop.set()
        async with asyncio.timeout(5):
            await task


async def until(is_so: Any) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what is waited for is what a double was asked
            await asyncio.sleep(0.002)


async def test_what_is_due_is_looked_at_and_told() -> None:
    offers, ledger, presence = ToldOffers(), Ledger(), ToldPresence()
    offers.answers["due"].append(["a", "b", "c"])
    offers.answers["look"].extend([Told("waiting"), SENT, Told("moved", sender="phones", why="gone")])
    async with minding(offers, ledger, presence):
        await until(lambda: offers.named("done") and presence.n_looks > 2)
    assert offers.named("look") == ["a", "b", "c"]
    assert [one.message_id for _, one in ledger.receipts] == [ID]
    assert offers.named("done") == [(TENANT.client_id, ID, "sent")]
    assert ledger.takeovers == [("phones", "gone", False)]
    assert set(offers.named("due")) == {(BATCH, AGAIN_IN_MS)}


async def test_a_full_batch_is_followed_by_the_next_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minder, "EVERY_S", 60.0)
    offers, presence = ToldOffers(), ToldPresence()
    offers.answers["due"].extend([["x"] * BATCH, ["x"] * BATCH, ["x"] * 3])
    presence.answers.extend([BATCH, BATCH, 1])
    async with minding(offers, Ledger(), presence):
        await until(lambda: len(offers.named("look")) == 2 * BATCH + 3 and presence.n_looks == 3)


async def test_it_stops_at_once_while_it_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minder, "EVERY_S", 3600.0)
    offers = ToldOffers()
    async with minding(offers, Ledger()):
        await until(lambda: offers.calls)


async def test_it_stops_between_batches_however_much_is_due() -> None:
    class Endless(ToldOffers):
        async def due(self, *, limit: int, again_in_ms: int) -> list[str]:
            await asyncio.sleep(0)
            return ["x"] * limit

    offers = Endless()
    async with minding(offers, Ledger()):
        await until(lambda: len(offers.calls) > BATCH)


async def test_one_offers_fault_keeps_no_other_waiting() -> None:
    offers, ledger = ToldOffers(), Ledger()
    offers.answers["due"].append(["a", "b", "c"])
    offers.answers["look"].extend([AWAY, ValueError("+33612345678"), SENT])
    async with minding(offers, ledger):
        await until(lambda: offers.named("done"))
    assert len(ledger.receipts) == 1


async def test_a_receipt_that_could_not_be_kept_is_told_with_a_later_look() -> None:
    offers, ledger = ToldOffers(), Ledger()
    offers.answers["due"].extend([["a"], ["a"]])
    offers.answers["look"].extend([SENT, SENT])
    ledger.fault = AWAY
    async with minding(offers, ledger):
        await until(lambda: offers.named("look"))
        assert offers.named("done") == []
        ledger.fault = None
        await until(lambda: offers.named("done"))
    assert len(offers.named("done")) == 1


async def test_outages_are_waited_out_with_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    offers, ledger, presence = ToldOffers(), Ledger(), ToldPresence()
    async with minding(offers, ledger, presence):
        await until(lambda: offers.calls)
        for _ in range(2):
            offers.is_away = True
            n_before = len(offers.calls)
            await until(lambda n=n_before: len(offers.calls) > n + 5)
            assert presence.n_looks > 0
            offers.is_away = False
            n_before = len(offers.calls)
            await until(lambda n=n_before: len(offers.calls) > n + 2)
        n_before = presence.n_looks
        presence.answers.extend([OSError("secret")] * 4)
        await until(lambda: presence.n_looks > n_before + 6)
    lines = [record.getMessage().partition(":")[0] for record in caplog.records]
    away, back = "cannot look after offers to phones, trying on", "looking after offers to phones again"
    assert lines == [away, back, away, back, "cannot look after phones, trying on", "looking after phones again"]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("where", ["due", "look", "take", "done", "lapsed"])
async def test_cancelled_anywhere_it_leaves_no_task_behind(where: str) -> None:
    """What was under way stays owed: nothing is marked as told that was not."""
    reached = asyncio.Event()
    ended: list[str] = []

    async def hang(*given: Any, **options: Any) -> Any:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(where)

    offers, ledger, presence = ToldOffers(), Ledger(), ToldPresence()
    offers.answers["due"].append(["a", "b"])
    offers.answers["look"].extend([SENT, SENT])
    owner = ledger if where == "take" else presence if where == "lapsed" else offers
    setattr(owner, where, hang)
    before = asyncio.all_tasks()
    pool = pool_of(offers, ledger)
    task = asyncio.create_task(run_minder(pool, offers, presence, stop=asyncio.Event(), clock=SystemClock()))
    async with asyncio.timeout(5):
        await reached.wait()
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert asyncio.all_tasks() == before
    assert ended
    if where in {"due", "look", "take"}:
        assert offers.named("done") == []
    if where in {"due", "look"}:
        assert ledger.receipts == []


async def test_an_outage_of_the_real_store(redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cable = Cable(Path(unquote(urlsplit(redis_url).path)), tmp_path)
    await cable.plug_in()
    client = RedisClient(f"unix://{cable._socket}", timeout_s=1, max_connections=4)
    stop = asyncio.Event()
    try:
        async with open_pool(redis_url, client=client) as stand:
            first = await stand.phone()
            sent = await stand.send()
            other = await stand.phone()
            await stand.pass_by(11, first, other)
            await cable.cut()
            work = asyncio.create_task(
                run_minder(stand.pool, stand.offers, stand.presence, stop=stop, clock=SystemClock())
            )
            try:
                await until(lambda: "cannot look after offers" in caplog.text)
                await cable.plug_in()
                await until(lambda: stand.ledger.takeovers)
            finally:
                stop.set()
                await work
            assert [one.message_id for one in await other.pull()] == [sent.message_id]
    finally:
        await client.close()
        await cable.cut()


async def test_two_minders_share_the_work() -> None:
    offers, ledger = ToldOffers(), Ledger()
    offers.answers["due"].extend([["a"], ["b"], ["c"]])
    async with minding(offers, ledger), minding(offers, ledger):
        await until(lambda: len(offers.named("look")) == 3)
    assert sorted(offers.named("look")) == ["a", "b", "c"]
