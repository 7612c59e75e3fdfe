"""Send and verify, against a no-op route of the same server in the same run.

Each round empties the store, makes codes with sends that are not counted (they warm everything up as well), then
measures the three workloads in an order that turns from round to round. Ratios are taken within a round. Exits with
status 1 if a single answer was not the expected one: a fast error is not a result.
"""

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import uvloop

from benchmarks import machine, stages
from benchmarks.load import Answers, LoadError, drive, fetch, forever
from benchmarks.report import Measured, Results
from benchmarks.server import CPU_PATH, NO_OP_ANSWER, NO_OP_PATH
from benchmarks.stand import Stand, StandError, open_stand
from otpsvc.embedded import EmbeddedError
from otpsvc.errors import ConfigurationError

NO_OP, SEND, VERIFY = "no-op", "send", "verify"
_WORKLOADS = (NO_OP, SEND, VERIFY)
# French mobile numbers +33 61x xxx xxx are all valid. The step is prime to their number, so none comes twice.
_N_NUMBERS = 10_000_000
_STEP = 6_180_339
_ACCEPTED = b'"status":"pending"'
_VERIFIED = b'"valid":true'


class Plan(NamedTuple):
    """How much to measure."""

    rounds: int
    seconds: float
    connections: int


def main(arguments: list[str]) -> int:
    """Run it all; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=_bounded(int, 1, 50), default=3)
    parser.add_argument("--seconds", type=_bounded(float, 0.2, 20), default=3.0, help="per workload and round")
    parser.add_argument("--connections", type=_bounded(int, 1, 512), default=64)
    parser.add_argument("--no-stages", action="store_true", help="leave out the costs of single steps")
    given = parser.parse_args(arguments)
    plan = Plan(given.rounds, given.seconds, given.connections)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{_duration_s(plan):.0f} s or so: {plan.rounds} rounds, {plan.connections} connections", flush=True)
    try:
        with open_stand() as stand, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(_measure(stand, plan))
    except (LoadError, StandError, EmbeddedError, ConfigurationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(results.table())
    if not given.no_stages:
        print(stages.table())
    print(f"written to {results.write()}")
    if results.unexpected:
        print(f"error: {sum(results.unexpected.values())} answers were not the expected ones:", file=sys.stderr)
        for answer, count in results.unexpected.most_common(5):
            print(f"  {count} x {answer}", file=sys.stderr)
    return 1 if results.unexpected else 0


async def _measure(stand: Stand, plan: Plan) -> Results:
    results = Results(plan._asdict(), machine.facts() | {"store": stand.store_version()})
    numbers = _numbers()
    for number in range(plan.rounds):
        await asyncio.to_thread(stand.empty_store)
        stock = await drive(
            stand.port,
            _sends(stand, numbers),
            expected=_ACCEPTED,
            n_connections=plan.connections,
            seconds=plan.seconds,
            keeps_bodies=True,
        )
        results.unexpected.update(stock.unexpected)
        if not stock.bodies:
            raise LoadError(f"no send was accepted: {next(iter(stock.unexpected), 'no answer')}")
        codes = await asyncio.to_thread(stand.codes_of, stock.bodies)
        requests = {
            NO_OP: (forever(f"GET {NO_OP_PATH} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()), NO_OP_ANSWER),
            SEND: (_sends(stand, numbers), _ACCEPTED),
            VERIFY: (_verifies(stand, codes), _VERIFIED),
        }
        turn = number % len(_WORKLOADS)
        for name in _WORKLOADS[turn:] + _WORKLOADS[:turn]:
            results.add(name, await _measured(stand, plan, *requests[name]))
        print(f"round {number + 1}: {results.line()}", flush=True)
    return results


async def _measured(stand: Stand, plan: Plan, requests: Iterator[bytes], expected: bytes) -> tuple[Answers, Measured]:
    others_from_s = machine.busy_s()
    server_from_s, store_from = await _server_cpu_s(stand), stand.store_info()
    answers = await drive(stand.port, requests, expected=expected, n_connections=plan.connections, seconds=plan.seconds)
    server_s, store = await _server_cpu_s(stand) - server_from_s, stand.store_info()
    busy_s = machine.busy_s()
    store_s = store["cpu_s"] - store_from["cpu_s"]
    own_s = server_s + store_s + answers.cpu_s
    return answers, Measured.of(
        answers,
        server_cpu_s=server_s,
        store_cpu_s=store_s,
        store_reads=store["reads"] - store_from["reads"],
        others_cpu_s=busy_s - others_from_s - own_s if busy_s is not None and others_from_s is not None else None,
    )


async def _server_cpu_s(stand: Stand) -> float:
    return float(await fetch(stand.port, CPU_PATH))


def _sends(stand: Stand, numbers: Iterator[int]) -> Iterator[bytes]:
    head = _post("/v1/otp", stand.headers, len('{"to":"+33610000000"}'))
    return (b'%s{"to":"+3361%07d"}' % (head, number) for number in numbers)


def _verifies(stand: Stand, codes: list[tuple[str, str]]) -> Iterator[bytes]:
    for otp_id, code in codes:
        body = f'{{"code":"{code}"}}'.encode()
        yield _post(f"/v1/otp/{otp_id}/verify", stand.headers, len(body)) + body


def _post(path: str, headers: str, length: int) -> bytes:
    head = f"POST {path} HTTP/1.1\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    return head.encode()


def _numbers() -> Iterator[int]:
    start = random.randrange(_N_NUMBERS)
    return ((start + place * _STEP) % _N_NUMBERS for place in range(_N_NUMBERS))


def _duration_s(plan: Plan) -> float:
    return 6 + plan.rounds * (plan.seconds * (1 + len(_WORKLOADS)) + 0.5)


def _bounded(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, {least} to {most}") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {least} to {most}")
        return value

    return read


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
