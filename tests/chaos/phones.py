"""A park of simulated phones for the fault tests, and the account of what they were given and what arrived.

The phones live in the test's own process and talk to the service as any phone does. The account knows three witnesses:
the callers (what they were told), the history in PostgreSQL, and the air (what arrived from which phone).
"""

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import asyncpg

from otpsvc.devices.policy import MESSAGES_PER_WINDOW
from otpsvc.handset.air import Air
from otpsvc.handset.pace import Pace
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.temper import Temper
from tests.chaos.calls import Line, LostAnswer, NobodyThere
from tests.chaos.stand import Stand
from tests.chaos.traffic import new_number
from tests.programs import PATIENCE_S

FINAL = {"sent", "delivered", "failed", "expired", "cancelled"}
PHONES = {
    "OTPSVC_DELIVERY_SENDERS": "phones",
    "OTPSVC_SENDERS_PHONES_PULL_WITHIN_S": "3",
    "OTPSVC_SENDERS_PHONES_REPORT_WITHIN_S": "5",
    "OTPSVC_SENDERS_PHONES_WAIT_S": "60",
    "OTPSVC_DEVICES_CONFIRMS_BY_ITSELF": "true",
    "OTPSVC_DEVICES_ONLINE_S": "5",
    "OTPSVC_DEVICES_KEEP_ALIVE_S": "1",
}
_PACE = Pace(scale=0.1)
_REGISTERING_AT_ONCE = 4


class Sent(NamedTuple):
    """What a caller was told of one accepted send."""

    message_id: str
    to: str


class Fact(NamedTuple):
    """One event of a message's way through the pool."""

    message_id: str
    name: str
    device: str
    outcome: str
    may_duplicate: bool


class Park:
    """Phones that come and go, and what arrived from them."""

    def __init__(self, stand: Stand, *, seed: int) -> None:
        self.air = Air(kept=100_000)
        self.phones: list[SimulatedPhone] = []
        self._stand = stand
        self._seed = seed
        self._random = random.Random(seed)

    async def pair(self, n_phones: int, line: Line) -> None:
        """Open a pairing per phone; they register when they run."""
        for number in range(n_phones):
            answer = await asked(line, "POST", "/v1/devices/pairings")
            temper = Temper(
                seed=self._seed, slow_s=0.1, loses=0.05, doubles=0.1, delays=0.1, late_s=2.0, fails=0.03, dies=0.02,
                away_s=2.0,
            )  # fmt: skip
            self.phones.append(
                SimulatedPhone(
                    f"http://127.0.0.1:{self._stand.port}",
                    login=answer["login"],
                    password=answer["password"],
                    name=f"phone {number}",
                    air=self.air,
                    temper=temper,
                    pace=_PACE,
                )
            )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all phones for the body of an `async with`, which begins when all are connected."""
        stop = asyncio.Event()
        room = asyncio.Semaphore(_REGISTERING_AT_ONCE)
        lives: list[asyncio.Task[None]] = []

        async def begin(phone: SimulatedPhone) -> None:
            async with room:
                lives.append(asyncio.create_task(phone.run(stop)))
                await phone.connected()

        try:
            async with asyncio.timeout(2 * PATIENCE_S):
                await asyncio.gather(*(begin(phone) for phone in self.phones))
            yield
        finally:
            stop.set()
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)

    async def trouble(self) -> None:
        """Take phones out and put them back, cut them off, let them die at their next pull, until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(0.02, 0.2))
            phone = self._random.choice(self.phones)
            what = self._random.randrange(4)
            if what == 0:
                phone.dies_at_next_pull = True
            elif what == 1:
                phone.switch_off()
            elif what == 2:
                phone.lose_network()
            else:
                phone.switch_on()
                phone.find_network()

    def heal(self) -> None:
        """Let all phones be there again."""
        for phone in self.phones:
            phone.dies_at_next_pull = False
            phone.switch_on()
            phone.find_network()


async def asked(line: Line, method: str, path: str, body: Any = None, *, key: str | None = None) -> dict[str, Any]:
    """Make a call until it is answered; a lost answer and a 503 are asked again, under the same key."""
    async with asyncio.timeout(2 * PATIENCE_S):
        while True:
            with contextlib.suppress(LostAnswer, NobodyThere):
                answer = await line.call(method, path, body, key=key)
                if answer.status not in {429, 503}:
                    assert answer.status in {200, 201}, (path, answer)
                    return answer.body
            await asyncio.sleep(0.05)


async def send_many(stand: Stand, n_messages: int, *, callers: int) -> list[Sent]:
    """Ask for so many codes, each for a number of its own."""
    numbers = iter([new_number() for _ in range(n_messages)])
    sent: list[Sent] = []

    async def caller() -> None:
        for to in numbers:
            # A connection each: the kernel spreads them anew over the processes that listen.
            with contextlib.closing(stand.line(timeout_s=3)) as line:
                body = await asked(line, "POST", "/v1/otp", {"to": to, "ttl_s": 300}, key=f"send {to}")
            sent.append(Sent(body["message_id"], to))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return sent


class Account(NamedTuple):
    """What the history says."""

    status_of: dict[str, tuple[str, str]]
    facts: list[Fact]


async def read_account(stand: Stand) -> Account:
    connection = await asyncpg.connect(stand.settings.database.url.reveal())
    try:
        rows = await connection.fetch(_MESSAGES, stand.client_id)
        events = await connection.fetch(_EVENTS, stand.client_id)
    finally:
        await connection.close()
    return Account(
        {row["message_id"]: (row["status"], row["reason"] or "") for row in rows},
        [
            Fact(row["message_id"], row["name"], row["device"] or "", row["outcome"] or "", row["may"] == "1")
            for row in events
        ],
    )


class Story(NamedTuple):
    """What is known of one message: what the history says of it, which phones pulled it, and what arrived from whom."""

    message_id: str
    status: str
    reason: str
    pulled_by: set[str]
    n_may_duplicate: int
    arrived_from: Counter[str]


def park_faults(sent: Sequence[Sent], account: Account, park: Park) -> Iterator[str]:
    """Every broken promise, a line each."""
    pulled: dict[str, set[str]] = defaultdict(set)
    arrived: dict[str, Counter[str]] = defaultdict(Counter)
    doubles: Counter[str] = Counter()
    for fact in account.facts:
        if fact.name == "message.pulled":
            pulled[fact.message_id].add(fact.device)
        elif fact.may_duplicate:
            doubles[fact.message_id] += 1
            if fact.outcome != "silent":
                yield f"{fact.message_id}: taken over as a possible duplicate, outcome {fact.outcome}"
    number_of = {one.message_id: one.to for one in sent}
    for sms in park.air.list():
        arrived[sms.message_id][sms.device_id] += 1
        if number_of.get(sms.message_id) != sms.to:
            yield f"{sms.message_id}: arrived at a number it was not for"
    for one in sent:
        name = one.message_id
        status, reason = account.status_of.get(name, ("lost", ""))
        yield from _faults_of(Story(name, status, reason, pulled[name], doubles[name], arrived[name]))
    yield from _budget_faults(account, park)


def _faults_of(story: Story) -> Iterator[str]:
    name, came = story.message_id, story.arrived_from
    if story.status not in FINAL:
        yield f"{name}: {story.status} in the end"
    if story.status == "delivered" and not came:
        yield f"{name}: told delivered, never arrived"
    if story.status == "sent" and not came and not story.pulled_by:
        yield f"{name}: told sent, no phone had it"
    if story.status == "failed" and came and story.reason != "unknown_outcome":
        yield f"{name}: failed ({story.reason}), and arrived"
    if any(count > 1 for count in came.values()):
        yield f"{name}: sent twice by one phone"
    if came.total() > 1 + story.n_may_duplicate:
        yield f"{name}: arrived {came.total()} times, {story.n_may_duplicate} possible duplicates told"
    if not came.keys() <= story.pulled_by:
        yield f"{name}: arrived from a phone that did not pull it"


def _budget_faults(account: Account, park: Park) -> Iterator[str]:
    """No window is as long as a storm: what a phone sent in all must be within one."""
    sent = Counter(sms.device_id for sms in park.air.list())
    pulled = Counter(fact.device for fact in account.facts if fact.name == "message.pulled")
    for device in sent | pulled:
        if max(sent[device], pulled[device]) > MESSAGES_PER_WINDOW:
            yield f"{device}: sent {sent[device]}, pulled {pulled[device]}, budget {MESSAGES_PER_WINDOW}"


_MESSAGES = "SELECT message_id, status, reason FROM messages WHERE client_id = $1"
_EVENTS = """
SELECT message_id, name, data->>'device' AS device, data->>'outcome' AS outcome, data->>'may_duplicate' AS may
FROM events WHERE client_id = $1 AND name LIKE 'message.%'
"""
