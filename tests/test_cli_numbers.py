"""`otpsvc forget`: what it erases, from where it takes the number, and that it never says it again."""

import asyncio
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from otpsvc.app import open_house
from otpsvc.cli import main
from otpsvc.clients.model import Principal
from otpsvc.errors import ApiError
from otpsvc.otp.model import SendRequest
from otpsvc.settings import load
from tests.programs import production

NUMBER = "+447911123987"
OTHER_NUMBER = "+447911123988"


class Said(NamedTuple):
    status: int
    out: str
    err: str


Forget = Callable[..., Said]


@pytest.fixture
def variables(redis_url: str, database_url: str) -> dict[str, str]:
    return production(redis_url, database_url)


@pytest.fixture
def forget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, variables: dict[str, str]
) -> Forget:
    """Run the command in this process; `given` is what stands on its standard input."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OTPSVC_")]:
        monkeypatch.delenv(name)

    def call(*arguments: str, given: bytes = b"", **changed: str) -> Said:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["otpsvc", "forget", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
            for name, value in {**variables, **changed}.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr()
        status = ended.value.code or 0
        for digits in (NUMBER[1:], NUMBER[3:]):
            assert digits not in said.out + said.err
        return Said(int(status), said.out, said.err)

    return call


class Shop(NamedTuple):
    """A client's live and test caller."""

    live: Principal
    test: Principal


@pytest.fixture
def shops(variables: dict[str, str]) -> Iterator[tuple[Shop, Shop]]:
    """Two clients, each with a code for NUMBER in both modes, and one for another number."""

    async def make() -> tuple[Shop, Shop]:
        async with open_house(load(None, variables)) as house:
            made = []
            for name in ("one", "two"):
                client = await house.clients.create_client(name)
                callers = [Principal(client.id, mode, "key", house.settings.otp) for mode in ("live", "test")]
                made.append(Shop(*callers))
                for caller in callers:
                    await house.otp.send(caller, SendRequest(to=NUMBER, metadata={"who": "Ada"}))
                    await house.otp.send(caller, SendRequest(to=OTHER_NUMBER))
            return made[0], made[1]

    yield asyncio.run(make())
    with redis.Redis.from_url(variables["OTPSVC_REDIS_URL"]) as client:
        client.flushall()


def named_in(variables: dict[str, str]) -> list[str]:
    """Client and mode of each OTP record that still tells something about a person, with the end of the number."""
    found = []
    with redis.Redis.from_url(variables["OTPSVC_REDIS_URL"]) as client:
        for name in client.scan_iter("*:otp:*", count=1000):
            record = {key.decode(): value for key, value in client.hgetall(name).items()}
            if record["to"] or record["to_sealed"] or record["metadata"]:
                found.append(f"{record['client'].decode()} {record['mode'].decode()} {record['to'][-1:].decode()}")
    return sorted(found)


def everything_but(shops: tuple[Shop, Shop], *gone: Principal) -> list[str]:
    callers = [caller for shop in shops for caller in shop]
    names = {caller: f"{caller.client_id} {caller.mode}" for caller in callers}
    return sorted(f"{names[one]} {end}" for one in callers for end in "78" if end == "8" or one not in gone)


def test_a_number_is_forgotten_at_every_client_and_nothing_else(
    forget: Forget, shops: tuple[Shop, Shop], variables: dict[str, str]
) -> None:
    assert named_in(variables) == everything_but(shops)
    said = forget("+44", "7911", "123987")
    assert said == (0, "erased: codes 4, messages 4\n", "")
    assert named_in(variables) == everything_but(shops, *shops[0], *shops[1])
    assert forget(NUMBER).status == 0


def test_what_the_living_store_cannot_find_by_the_number_is_named_by_the_history(
    forget: Forget, shops: tuple[Shop, Shop], variables: dict[str, str]
) -> None:
    """As an hour later, when no limit knows the messages any more, and their records are there yet."""

    async def write_history() -> None:
        async with open_house(load(None, variables)) as house:
            await house.stream.prepare()
            await house.history.write([entry.event for entry in await house.stream.read(limit=100, wait_s=0.01)])

    def texts() -> list[str]:
        with redis.Redis.from_url(variables["OTPSVC_REDIS_URL"]) as client:
            kept = [client.hmget(name, "to", "text") for name in client.scan_iter("*:msg:*", count=1000)]
        return sorted(to.decode()[-1:] for to, text in kept if to or text)

    asyncio.run(write_history())
    with redis.Redis.from_url(variables["OTPSVC_REDIS_URL"]) as client:
        client.delete(*client.scan_iter("*:sends:*", count=1000))
    assert texts() == ["7"] * 4 + ["8"] * 4
    caller = shops[0].live
    assert forget(NUMBER, "--client", caller.client_id, "--mode", "live").out == "erased: codes 1, messages 1\n"
    assert texts() == ["7"] * 3 + ["8"] * 4
    assert forget(NUMBER).out == "erased: codes 3, messages 3\n"
    assert texts() == ["8"] * 4


def test_one_client_and_mode(forget: Forget, shops: tuple[Shop, Shop], variables: dict[str, str]) -> None:
    caller = shops[1].live
    said = forget(NUMBER, "--client", caller.client_id, "--mode", "live")
    assert said == (0, "erased: codes 1, messages 1\n", "")
    assert named_in(variables) == everything_but(shops, caller)


@pytest.mark.parametrize("given", [f"{NUMBER}\n", f"  {NUMBER}\r\n\n", NUMBER])
def test_the_number_from_standard_input(
    forget: Forget, shops: tuple[Shop, Shop], variables: dict[str, str], given: str
) -> None:
    assert forget("-", given=given.encode()).out == "erased: codes 4, messages 4\n"
    assert named_in(variables) == everything_but(shops, *shops[0], *shops[1])


def test_an_unknown_number_is_no_fault(forget: Forget) -> None:
    assert forget(NUMBER) == (0, "erased: codes 0, messages 0\n", "")


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([f"{NUMBER}55555555"], b""),
        ([NUMBER[3:]], b""),
        (["-"], b""),
        (["-"], f"{NUMBER}\n{OTHER_NUMBER}\n".encode()),
        (["-"], b"\xff\xfe" + NUMBER.encode()),
        (["-"], NUMBER.encode() * 100_000),
        ([NUMBER, OTHER_NUMBER], b""),
    ],
)
def test_what_is_no_number_is_one_line(forget: Forget, arguments: list[str], given: bytes) -> None:
    said = forget(*arguments, given=given)
    assert (said.status, said.out) == (1, "")
    (line,) = said.err.splitlines()
    assert "not a valid international number" in line


def test_a_misspelt_client_is_no_success(forget: Forget, shops: tuple[Shop, Shop]) -> None:
    said = forget(NUMBER, "--client", "client_000000000000", "--mode", "live")
    assert (said.status, said.out) == (1, "")
    assert "client_000000000000" in said.err


@pytest.mark.parametrize("half", [["--client", "client_000000000000"], ["--mode", "live"]])
def test_half_a_tenant_is_refused(forget: Forget, half: list[str]) -> None:
    said = forget(NUMBER, *half)
    assert (said.status, said.out) == (2, "")
    assert "go together" in said.err


def test_without_the_history_nothing_is_touched(
    forget: Forget, shops: tuple[Shop, Shop], variables: dict[str, str], tmp_path: Path
) -> None:
    away = f"postgresql://otpsvc@/otpsvc?host={tmp_path}"
    said = forget(NUMBER, OTPSVC_DATABASE_URL=away)
    assert (said.status, said.out) == (1, "")
    assert named_in(variables) == everything_but(shops)


def test_a_forgotten_code_is_over_and_its_limits_stay(variables: dict[str, str], shops: tuple[Shop, Shop]) -> None:
    caller = shops[0].test

    async def live_through() -> None:
        async with open_house(load(None, variables)) as house:
            sent = await house.otp.send(caller, SendRequest(to=NUMBER, purpose="login"))
            await house.eraser.forget(NUMBER, tenant=None)
            seen = await house.otp.get(caller, sent.otp_id)
            assert (seen.status, seen.to, seen.metadata) == ("cancelled", "", None)
            with pytest.raises(ApiError) as caught:
                await house.otp.send(caller, SendRequest(to=NUMBER, purpose="login"))
            assert caught.value.code == "OTP_COOLDOWN"

    asyncio.run(live_through())
