"""`python -m tests.soak --codes 100000`: a long run through real processes; status 1 if anything was lost or grew.

Takes some 2 KB of disk per code for the history in PostgreSQL, under the temporary directory (TMPDIR).
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from pathlib import Path

from otpsvc.postgres.migrate import migrate
from tests.chaos.stand import open_stand
from tests.chaos.stores import ROLE, restartable_stores
from tests.conftest import run_sql
from tests.soak.run import Result, sender_variables, soak


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def run(given: argparse.Namespace, directory: Path) -> Result:
    with restartable_stores(directory / ".otpsvc") as pair:
        await asyncio.to_thread(run_sql, pair.database_url(), f"CREATE ROLE {ROLE} LOGIN")
        await asyncio.to_thread(run_sql, pair.database_url(), f"CREATE DATABASE soak OWNER {ROLE}")
        url = pair.database_url("soak", role=ROLE)
        await migrate(url)
        stand_dir = directory / "stand"
        async with open_stand(pair, url, stand_dir, sender_variables(stand_dir)) as stand:
            return await soak(
                stand, n_codes=given.codes, n_serve=given.serve, n_workers=given.workers, seed=given.seed, say=say
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--codes", type=int, default=100_000)
    parser.add_argument("--serve", type=int, default=1, help="processes of `otpsvc serve`")
    parser.add_argument("--workers", type=int, default=1, help="processes of `otpsvc worker`")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say(f"{given.codes} codes, seed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="otpsvc-soak-") as directory:
        result = asyncio.run(run(given, Path(directory)))
    say(f"{result.n_codes} codes in {result.seconds:.0f} s, {result.n_codes / result.seconds:.0f}/s; middle -> end:")
    for one in result.comparisons:
        say(f"  {one}{'' if one.is_flat else '   NOT FLAT'}")
    if not any(one.name == "redis.keys_per_code" for one in result.comparisons):
        say("  redis: too short a run to compare its sizes; that nothing stays in it was seen all the same")
    for fault in result.faults:
        say(f"fault: {fault}")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
