"""The scripts' promises: true contracts, decide before writing, names from the table, a life for every key."""

import re
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from otpsvc.redis.client import RedisClient
from otpsvc.redis.devices import RedisDevices
from otpsvc.redis.keys import TABLE, KeySpec
from otpsvc.redis.offers import RedisOffers
from otpsvc.redis.scripts import Script, ScriptError, load, load_from
from tests.otp.house import House
from tests.otp.story import tell
from tests.redis.trace import SCRIPTS, Call, Flags, traced

# Those that may have nothing to do but to take away.
TAKES_AWAY = {"events_acknowledge", "polls_end", "device_lapsed", "offer_look"}
LUA = files("otpsvc.redis") / "lua"
CONTRACT = """--[[
{name}: for a test.

KEYS
  record   hash
ARGV
  first_one
  second   with words behind it
Returns
  done     now
Events
  otp.sent
]]
"""


def write(folder: Path, name: str, body: str = "return {'done'}\n", contract: str = CONTRACT) -> None:
    (folder / "include").mkdir(exist_ok=True)
    (folder / f"{name}.lua").write_text(contract.format(name=name) + body)


def test_a_contract_is_read_and_inputs_get_their_names(tmp_path: Path) -> None:
    write(tmp_path, "thing")
    script = load_from(tmp_path, "thing")
    assert (script.keys, script.args) == (("record",), ("first_one", "second"))
    assert (script.returns, script.events) == (("done",), ("otp.sent",))
    assert script.text.startswith("local key = {record = KEYS[1]}\nlocal arg = {first_one = ARGV[1], second = ARGV[2]}")


def test_an_include_stands_in_once(tmp_path: Path) -> None:
    write(tmp_path, "thing", "-- include one\n-- include two\n-- include one\nreturn {'done'}\n")
    (tmp_path / "include" / "one.lua").write_text("local one = 1\n")
    (tmp_path / "include" / "two.lua").write_text("-- include one\nlocal two = one\n")
    text = load_from(tmp_path, "thing").text
    assert text.count("local one = 1") == text.count("local two = one") == 1
    assert text.index("local one") < text.index("local two")


@pytest.mark.parametrize(
    ("includes", "told"),
    [
        ({"one": "-- include two\n", "two": "-- include one\n"}, "circular include: thing -> one -> two -> one"),
        ({"one": "-- include one\n"}, "circular include: thing -> one -> one"),
        ({"one": "-- include absent\n"}, "one includes absent, which does not exist"),
        ({}, "thing includes one, which does not exist"),
    ],
)
def test_a_wrong_include_is_told(tmp_path: Path, includes: dict[str, str], told: str) -> None:
    write(tmp_path, "thing", "-- include one\nreturn {'done'}\n")
    for name, text in includes.items():
        (tmp_path / "include" / f"{name}.lua").write_text(text)
    with pytest.raises(ScriptError, match=re.escape(told)):
        load_from(tmp_path, "thing")


@pytest.mark.parametrize("section", ["KEYS", "ARGV", "Returns", "Events"])
def test_a_contract_without_one_of_its_parts_is_refused(tmp_path: Path, section: str) -> None:
    write(tmp_path, "thing", contract=CONTRACT.replace(f"{section}\n", ""))
    with pytest.raises(ScriptError, match=section):
        load_from(tmp_path, "thing")


@pytest.mark.parametrize(
    "contract", ["", "-- thing: for a test\n", CONTRACT.replace("{name}:", "other:"), "\n" + CONTRACT]
)
def test_a_script_without_its_contract_is_refused(tmp_path: Path, contract: str) -> None:
    write(tmp_path, "thing", contract=contract)
    with pytest.raises(ScriptError, match="must open with a contract"):
        load_from(tmp_path, "thing")


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "thing", contract=CONTRACT.replace("first_one", "second"))
    with pytest.raises(ScriptError, match="twice"):
        load_from(tmp_path, "thing")


def test_an_unknown_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="absent"):
        load_from(tmp_path, "absent")


@pytest.fixture(params=SCRIPTS)
def script(request: pytest.FixtureRequest) -> Script:
    return load(request.param)


def body(script: Script) -> str:
    """The script without its comments."""
    return re.sub(r"--.*", "", script.text)


def test_a_script_returns_what_its_contract_says(script: Script) -> None:
    assert set(re.findall(r"return \{'(\w+)'", body(script))) == set(script.returns)


def test_a_script_writes_the_events_of_its_contract(script: Script) -> None:
    assert set(re.findall(r"'((?:otp|message|device)\.\w+)'", body(script))) == set(script.events)


def test_a_script_uses_each_of_its_inputs_and_no_other(script: Script) -> None:
    assert set(re.findall(r"\bkey\.(\w+)", body(script))) == set(script.keys)
    assert set(re.findall(r"\barg\.(\w+)", body(script))) == set(script.args)
    assert len(re.findall(r"\b(?:KEYS|ARGV)\b", body(script))) == len(script.keys) + len(script.args)


def test_a_script_asks_only_the_server_for_the_time_and_never_for_all_names(script: Script) -> None:
    commands = set(re.findall(r"redis\.(?:p?call)\('(\w+)'", body(script)))
    assert commands
    assert not commands & {"KEYS", "SCAN", "RANDOMKEY", "FLUSHALL", "FLUSHDB", "EVAL"}
    assert not re.search(r"os\.|math\.random|(?<!redis\.)pcall", body(script))
    # A refusal that is swallowed would leave a rule half done; only who is asked for a name may refuse it.
    assert set(re.findall(r"redis\.pcall\S*", body(script))) <= {"redis.pcall('INFO',"}


def test_a_script_is_used(script: Script) -> None:
    adapters = "".join(file.read_text("utf-8") for file in files("otpsvc.redis").iterdir() if file.name.endswith(".py"))
    assert f'"{script.name}"' in adapters


def test_every_include_is_used() -> None:
    named = {
        name for file in LUA.iterdir() if file.is_file() for name in re.findall(r"include (\w+)", file.read_text())
    }
    shared = {file.name.removesuffix(".lua") for file in (LUA / "include").iterdir()}
    named |= {
        name for one in shared for name in re.findall(r"-- include (\w+)", (LUA / f"include/{one}.lua").read_text())
    }
    assert shared == named & shared


@pytest.fixture
async def story(
    house: House, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Call], set[tuple[str, str]]]:
    """All script calls of a rich story, and every (script, status) that came back."""
    seen: set[tuple[str, str]] = set()
    run = RedisClient.run

    async def watched(self: RedisClient, name: str, keys: Any, args: Any, **options: Any) -> Any:
        status, values = await run(self, name, keys, args, **options)
        seen.add((name, status))
        return status, values

    monkeypatch.setattr(RedisClient, "run", watched)
    async with traced(house) as calls:
        await tell(house, redis_url)
    return calls, seen


async def test_every_status_can_really_come(story: tuple[list[Call], set[tuple[str, str]]]) -> None:
    _, seen = story
    assert seen == {(name, status) for name in SCRIPTS for status in load(name).returns}


async def test_scripts_read_and_decide_first_then_write(
    house: House, story: tuple[list[Call], set[tuple[str, str]]]
) -> None:
    flags = Flags(house)
    calls, _ = story
    assert {call.script for call in calls} == set(SCRIPTS)
    for call in calls:
        kinds = [await flags.of(command) for command in call.commands]
        writes = [place for place, kind in enumerate(kinds) if "write" in kind]
        reads = [place for place, kind in enumerate(kinds) if "readonly" in kind]
        if writes:
            told = (call.script, [command[:2] for command in call.commands])
            if all("denyoom" not in kinds[place] for place in writes) and call.script in TAKES_AWAY:
                # What frees memory must work where there is none left. It writes to one key only.
                assert len({call.commands[place][1] for place in writes}) == 1, told
                continue
            assert max(reads, default=-1) < writes[0], told
            assert "denyoom" in kinds[writes[0]], told


async def test_every_name_is_in_the_table_and_has_the_type_it_says(house: House, redis_url: str) -> None:
    await tell(house, redis_url)
    for name in await house.names():
        (spec,) = [spec for spec in TABLE if pattern(spec).fullmatch(name.decode())]
        assert (await house.raw.type(name)).decode() == spec.type


async def test_every_name_that_a_script_touches_is_in_the_table(
    house: House, story: tuple[list[Call], set[tuple[str, str]]]
) -> None:
    calls, _ = story
    flags = Flags(house)
    writers: dict[str, set[str]] = defaultdict(set)
    for call in calls:
        tags = set()
        for command in call.commands:
            if command[0] in {"TIME", "INFO"}:
                continue
            for key in map(str, await house.raw.command_getkeys(*command)):
                (spec,) = [spec for spec in TABLE if pattern(spec).fullmatch(key)]
                tags.add(re.findall(r"\{.*?\}", key)[0])
                if "write" in await flags.of(command) and command[0] != "DEL":
                    writers[spec.name].add(call.script)
        if not call.commands:
            continue  # unknown by its SHA; several that came at once are run as one in the trace
        # About numbers, then about one client too, and its phones; or about one gateway and nothing else.
        kinds = sorted({tag[1:2] for tag in tags})
        assert kinds in (["p"], ["c", "p"], ["g"], ["c"], ["d"], ["c", "d"], ["c", "d", "p"]), (call.script, tags)
        assert len(tags) == len(kinds) or call.script == "sender_state", (call.script, tags)
    assert writers == {spec.name: set(spec.writers) for spec in TABLE if spec.writers}


async def test_every_key_ends_by_itself_but_the_bounded_ones(house: House, redis_url: str) -> None:
    await tell(house, redis_url)
    unbounded = set()
    for name in await house.names():
        (spec,) = [spec for spec in TABLE if pattern(spec).fullmatch(name.decode())]
        left = await house.raw.pttl(name)
        assert (left > 0) != spec.is_bounded, name
        if left < 0:
            unbounded.add(spec.name)
    assert unbounded == {"{pNN}:due", "{pNN}:ends", "{pNN}:events", "{d}:offers", "{d}:presence"}


async def test_nothing_but_the_bounded_ones_is_left_after_eight_days(house: House, redis_url: str) -> None:
    def last_words(names: list[bytes]) -> list[str]:
        return sorted(name.decode().rpartition(":")[2] for name in names)

    await tell(house, redis_url)
    await house.age(8 * 86_400)
    assert last_words(await house.names()) == ["due", "ends", "events", "offers", "presence"]
    await house.claim()
    await house.sweep()
    while await RedisDevices(house.client, house.keys).lapsed(limit=100):
        pass
    offers = RedisOffers(house.client, house.keys)
    while due := await offers.due(limit=100, again_in_ms=1000):
        for offer in due:
            await offers.look(offer)
    assert last_words(await house.names()) == ["events"]


def pattern(spec: KeySpec) -> re.Pattern[str]:
    """The names that a row of the table stands for."""
    name = re.escape(spec.name.replace("{pNN}", "@").replace("<client>", "#").replace("<sender>", "%"))
    name = name.replace("@", r"\{p\d\d\}").replace("\\#", "#").replace("#", r"client_\d{12}")
    name = name.replace("%", "[a-z0-9-]+")
    return re.compile("test:" + re.sub(r"<\w+>", "[a-z0-9_]*", name))


async def test_a_server_that_forgot_its_scripts_gets_them_again(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.raw.script_flush()
    await house.verify(sent.otp_id, code)
    await house.raw.script_flush()
    assert await house.status(sent.otp_id) == "verified"


@pytest.mark.parametrize(
    "wrongly", [{"otp": "x"}, {}, {"otp": "a", "events": "b", "more": "c"}, {"otp": "a", "x": "b"}]
)
async def test_inputs_are_given_by_name_and_completely(house: House, wrongly: dict[str, str]) -> None:
    args = dict.fromkeys(load("otp_verify").args, "")
    with pytest.raises(KeyError):
        await house.client.run("otp_verify", wrongly, args)
    with pytest.raises(KeyError):
        await house.client.run("otp_verify", {"otp": "a", "events": "b"}, {})
    assert await house.names() == []
