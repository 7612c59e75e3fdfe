"""What the server really ran, script by script: the commands that MONITOR shows inside each call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from otpsvc.redis.scripts import Script, load
from tests.otp.house import House

SCRIPTS = tuple(
    sorted(file.name.removesuffix(".lua") for file in (files("otpsvc.redis") / "lua").iterdir() if file.is_file())
)
END = "end-of-trace"


@dataclass
class Call:
    """One run of a script: its name and the commands inside it, in order, each split into words."""

    script: str
    commands: list[list[str]] = field(default_factory=list)


@cache
def by_sha() -> dict[str, Script]:
    return {load(name).sha: load(name) for name in SCRIPTS}


@asynccontextmanager
async def traced(house: House) -> AsyncIterator[list[Call]]:
    """Collect every script call made inside the block. The list is filled when the block ends.

    A call that the server did not know by its SHA comes as EVALSHA and then as EVAL: it is one call here.
    """
    calls: list[Call] = []
    async with house.raw.monitor() as monitor:
        yield calls
        await house.raw.echo(END)
        async for shown in monitor.listen():
            words = _words(shown["command"])
            if words[-1] == END:
                return
            if shown["client_type"] == "lua":
                calls[-1].commands.append(words)
            elif words[0].upper() == "EVALSHA":
                calls.append(Call(by_sha()[words[1]].name))


def _words(shown: str) -> list[str]:
    """Split what MONITOR shows; the library has taken the outer quotes away."""
    return shown.split(" ")


@dataclass
class Flags:
    """What the server says about each command."""

    house: House
    known: dict[str, set[str]] = field(default_factory=dict)

    async def of(self, command: list[str]) -> set[str]:
        """Give a command's flags, such as `write`, `readonly` and `denyoom`."""
        name = command[0].lower()
        if name not in self.known:
            answer = await self.house.raw.execute_command("COMMAND", "INFO", name)
            flags = answer[name]["flags"] if isinstance(answer, dict) else answer[0][2]
            self.known[name] = {flag.decode() if isinstance(flag, bytes) else str(flag) for flag in flags}
        return self.known[name]
