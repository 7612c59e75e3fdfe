"""Commands written together: everyone gets his own answer, whoever leaves and whatever breaks."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpsvc.errors import ApiError
from otpsvc.otp.model import VerifiedOtp, WrongGuess
from otpsvc.redis.batches import MAX_BATCH
from otpsvc.redis.client import RedisClient
from otpsvc.redis.scripts import load
from tests.otp.house import House, open_house, refusal_of, wrong
from tests.redis.lossy import lossy_way


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a name short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="otp") as name:
        yield Path(name)


async def test_everyone_gets_his_own_answer(house: House) -> None:
    made = [await house.send_with_code(to=f"+336123{n:05d}", metadata={"n": n}) for n in range(60)]
    guesses = [code if n % 2 else wrong(code) for n, (_, code) in enumerate(made)]
    calls = [house.verify(sent.otp_id, guess) for (sent, _), guess in zip(made, guesses, strict=True)]
    for n, answer in enumerate(await asyncio.gather(*calls)):
        assert answer.otp_id == made[n][0].otp_id
        if n % 2:
            assert isinstance(answer, VerifiedOtp)
            assert answer.metadata == {"n": n}
        else:
            assert isinstance(answer, WrongGuess)


async def test_who_leaves_takes_no_answer_with_him(house: House) -> None:
    made = [await house.send_with_code(to=f"+336123{n:05d}", metadata={"n": n}) for n in range(60)]
    for turns in range(4):
        tasks = [asyncio.create_task(house.get(sent.otp_id)) for sent, _ in made]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for n, answer in enumerate(answers):
            if n % 3:
                assert not isinstance(answer, BaseException)
                assert answer.metadata == {"n": n}
    assert len(await asyncio.gather(*(house.get(sent.otp_id) for sent, _ in made))) == 60


async def test_a_refused_command_does_not_spoil_its_neighbours(house: House) -> None:
    sent = await house.send()
    await house.raw.set("plain", "x")
    args = dict.fromkeys(load("otp_get").args, "")
    broken = [house.client.run("otp_get", {"otp": "plain"}, args) for _ in range(5)]
    good = [house.get(sent.otp_id) for _ in range(5)]
    mixed = [call for pair in zip(broken, good, strict=True) for call in pair]
    answers = await asyncio.gather(*mixed, return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in answers] == [True, False] * 5
    assert all("WRONGTYPE" in str(answer) for answer in answers[::2])


async def test_scripts_that_the_store_forgot_are_given_again_to_a_whole_batch(house: House) -> None:
    made = [await house.send_with_code(to=f"+336123{n:05d}") for n in range(20)]
    await house.raw.script_flush()
    answers = await asyncio.gather(*(house.verify(sent.otp_id, code) for sent, code in made))
    assert all(isinstance(answer, VerifiedOtp) for answer in answers)


async def test_a_lost_batch_makes_each_message_once(redis_url: str, folder: Path) -> None:
    async with lossy_way(redis_url, folder) as (way, url), open_house(url) as house:
        await house.raw.script_load(load("otp_send").text)
        way.to_lose = 1
        answers = await asyncio.gather(*(house.send(to=f"+336123{n:05d}") for n in range(40)))
        assert way.lost == 1
        assert sorted(await house.waiting()) == sorted(answer.message_id for answer in answers)
        assert len({answer.otp_id for answer in answers}) == 40
        assert [name for name, _ in await house.events()] == ["otp.sent"] * 40


async def test_a_batch_lost_twice_is_told_to_everyone(redis_url: str, folder: Path) -> None:
    async with lossy_way(redis_url, folder) as (way, url), open_house(url) as house:
        await house.raw.script_load(load("otp_send").text)
        way.to_lose = 1000
        calls = (house.send(to=f"+336123{n:05d}") for n in range(10))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answer.code for answer in answers if isinstance(answer, ApiError)] == ["SERVICE_UNAVAILABLE"] * 10
        way.to_lose = 0
        assert (await house.send(to="+33612399999")).status == "pending"


async def test_many_more_calls_than_a_batch_takes_all_come_back(redis_url: str) -> None:
    client = RedisClient(redis_url, timeout_s=20, max_connections=2)
    args = dict.fromkeys(load("otp_get").args, "x")
    answers = await asyncio.gather(*(client.run("otp_get", {"otp": "x"}, args) for _ in range(2000)))
    assert {status for status, _ in answers} == {"not_found"}
    await client.close()


async def test_a_client_that_is_closed_lets_its_calls_end(redis_url: str) -> None:
    async with open_house(redis_url) as house:
        sending = [asyncio.create_task(house.send(to=f"+336123{n:05d}")) for n in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await house.client.close()
        answers = await asyncio.gather(*sending, return_exceptions=True)
    assert all(not isinstance(answer, BaseException) or isinstance(answer, ApiError) for answer in answers)


async def test_nobody_waits_for_ever_behind_a_mute_store(folder: Path) -> None:
    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65_536):
                pass
        finally:
            writer.close()

    async with await asyncio.start_unix_server(never_answer, folder / "mute.sock"):
        client = RedisClient(f"unix://{folder / 'mute.sock'}", timeout_s=0.1, max_connections=1)
        async with asyncio.timeout(20):
            errors = await asyncio.gather(*(refusal_of(client.ping()) for _ in range(300)))
        assert {error.code for error in errors} == {"SERVICE_UNAVAILABLE"}
        await client.close()


async def test_nobody_waits_for_long_behind_a_store_that_dribbles(folder: Path) -> None:
    """Each reply comes just in time, and there are hundreds of them: at a second each the last would take minutes."""

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while said := await reader.read(65_536):
                for _ in range(said.count(b"\r\nWAIT\r\n") or said.count(b"*")):
                    await asyncio.sleep(0.05 if b"WAIT" in said else 0)
                    writer.write(b"+OK\r\n")
        except OSError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_unix_server(dribble, folder / "slow.sock"):
        client = RedisClient(f"unix://{folder / 'slow.sock'}", timeout_s=0.1, max_connections=1)
        calls = [client.command("WAIT") for _ in range(MAX_BATCH)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert 0 < answers.count(b"OK") < MAX_BATCH / 2
        late = {(one.code, one.reason) for one in answers if isinstance(one, ApiError)}
        assert late == {("SERVICE_UNAVAILABLE", "store_timeout")}
        await client.close()
