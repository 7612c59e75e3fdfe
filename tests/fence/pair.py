"""A primary, its replica, and the link between them, which a test cuts before it lets the primary die."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.redis.servers import Server, replica_of, running, until

_USER, _PASSWORD = "follower", "follow"


@dataclass
class Pair:
    """Two servers of which the second follows the first."""

    primary: Server
    replica: Server

    async def cut(self) -> None:
        """Let the replica have all so far, and nothing from now on: it is locked out, everybody else is not."""

        async def has_all() -> bool:
            there = await self.primary.raw.info("replication")
            here = await self.replica.raw.info("replication")
            return bool(here["slave_repl_offset"] == there["master_repl_offset"])

        await until(has_all, "the replica to have all")
        await self.primary.raw.execute_command("ACL", "SETUSER", _USER, "off")
        await self.primary.raw.client_kill_filter(_type="replica")

        async def is_alone() -> bool:
            return bool((await self.replica.raw.info("replication"))["master_link_status"] == "down")

        await until(is_alone, "the link to be cut")

    async def promote(self) -> None:
        """Make the replica a primary, as an operator or a Sentinel does; the old one may be alive or not."""
        await self.replica.raw.replicaof("NO", "ONE")

    async def fail_over(self) -> None:
        """Kill the primary and promote the replica."""
        self.primary.kill()
        await self.promote()


@asynccontextmanager
async def running_pair() -> AsyncIterator[Pair]:
    """Run both for the body of a `with`, in step."""
    async with running() as primary:
        await primary.raw.execute_command("ACL", "SETUSER", _USER, "on", f">{_PASSWORD}", "+@all", "~*", "&*")
        async with replica_of(primary, primaryuser=_USER, primaryauth=_PASSWORD) as replica:
            yield Pair(primary, replica)
