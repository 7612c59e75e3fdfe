"""Named steps at which a process of the service ends itself with SIGKILL: wrapped round the real parts, from outside.

Nothing in the product knows of them. A step that no longer exists under its name fails the start, so that a renamed
part cannot quietly take its fault test along.

CHAOS_KILL=step:n kills at the n-th passage of `step`.
"""

import functools
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from asyncpg.transaction import Transaction

from otpsvc.messages.handover import Handover
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.pool import Session
from otpsvc.redis.client import RedisClient
from otpsvc.redis.events import RedisEventStream
from otpsvc.redis.scripts import load
from otpsvc.senders.contract import Accepted

Reach = Callable[[str], None]
Call = Callable[..., Awaitable[Any]]

# What is asked of a script's call before it counts as this step.
_SCRIPTS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "send": ("otp_send", {}),
    "verify": ("otp_verify", {}),
    "resend": ("otp_resend", {}),
    "cancel": ("otp_cancel", {}),
    "begin": ("message_begin", {}),
    "record": ("message_settle", {"status": "sent"}),
    "sweep": ("otp_sweep", {}),
    "acknowledge": ("events_acknowledge", {}),
    "admit": ("sender_admit", {}),
    "report": ("sender_report", {}),
    "expect": ("receipt_expect", {}),
    "park": ("receipt_find_or_park", {}),
    "receipt": ("message_receipt", {}),
    "kept": ("message_settle", {"status": "kept"}),
    "postpone": ("message_settle", {"status": "queued"}),
}

SERVE_STEPS = ("send.before", "send.after", "verify.before", "verify.after", "resend.after", "cancel.after")
DELIVERY_STEPS = (
    "claim.after", "begin.before", "begin.after", "sender.accepted", "record.before", "record.after",
)  # fmt: skip
DRAIN_STEPS = (
    "drain.read", "drain.inserted", "commit.before", "commit.after", "acknowledge.before", "acknowledge.after",
)  # fmt: skip
SWEEP_STEPS = ("sweep.before", "sweep.after")
RECEIPT_STEPS = ("park.before", "park.after", "receipt.before", "receipt.after")
GATEWAY_STEPS = (
    "admit.after", "expect.before", "expect.after", "report.before", "report.after", "kept.before", "kept.after",
    "postpone.before", "postpone.after",
)  # fmt: skip
STEPS = frozenset((*SERVE_STEPS, *DELIVERY_STEPS, *DRAIN_STEPS, *SWEEP_STEPS, *RECEIPT_STEPS, *GATEWAY_STEPS))

_is_writing_events: ContextVar[bool] = ContextVar("is_writing_events", default=False)


def install(variables: Mapping[str, str]) -> None:
    """Wrap what the variable names; nothing where it is not given. Raises ValueError for an unknown step."""
    given = variables.get("CHAOS_KILL", "")
    if not given:
        return
    step, _, count = given.partition(":")
    if step not in STEPS:
        raise ValueError(f"no step {step!r}")
    reach = _deadly(step, int(count or 1))
    _wrap_scripts(reach)
    _wrap_delivery(reach)
    _wrap_drain(reach)
    _wrap_database(reach)


def _deadly(step: str, count: int) -> Reach:
    left = count

    def reach(name: str) -> None:
        nonlocal left
        if name == step:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


def _wrap(owner: type, name: str, around: Callable[[Call], Call]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(around(original)))


def _wrap_scripts(reach: Reach) -> None:
    for name, _ in _SCRIPTS.values():
        load(name)

    def around(original: Call) -> Call:
        async def run(self: Any, name: str, keys: Any, args: Any, **rest: Any) -> Any:
            steps = [
                step
                for step, (script, wanted) in _SCRIPTS.items()
                if script == name and all(args.get(key) == value for key, value in wanted.items())
            ]
            for step in steps:
                reach(f"{step}.before")
            status, values = await original(self, name, keys, args, **rest)
            for step in steps:
                # A sweep that found nothing to sweep is no passage.
                if step != "sweep" or values[0]:
                    reach(f"{step}.after")
            if name == "message_claim" and values[1]:
                reach("claim.after")
            return status, values

        return run

    _wrap(RedisClient, "run", around)


def _wrap_delivery(reach: Reach) -> None:
    def around(original: Call) -> Call:
        async def call(*args: Any, **rest: Any) -> Any:
            outcome = await original(*args, **rest)
            if isinstance(outcome, Accepted):
                reach("sender.accepted")
            return outcome

        return call

    _wrap(Handover, "call", around)


def _wrap_drain(reach: Reach) -> None:
    def around_read(original: Call) -> Call:
        async def read(*args: Any, **rest: Any) -> Any:
            entries = await original(*args, **rest)
            if entries:
                reach("drain.read")
            return entries

        return read

    def around_write(original: Call) -> Call:
        async def write(*args: Any, **rest: Any) -> Any:
            token = _is_writing_events.set(True)
            try:
                return await original(*args, **rest)
            finally:
                _is_writing_events.reset(token)

        return write

    _wrap(RedisEventStream, "read", around_read)
    _wrap(PostgresEventLog, "write", around_write)


def _wrap_database(reach: Reach) -> None:
    def around_value(original: Call) -> Call:
        async def value(self: Any, query: Any, **parameters: Any) -> Any:
            found = await original(self, query, **parameters)
            if query.name == "insert_events":
                reach("drain.inserted")
            return found

        return value

    def around_exit(original: Call) -> Call:
        async def leave(self: Any, kind: Any, error: Any, trace: Any) -> Any:
            is_commit = kind is None and _is_writing_events.get()
            if is_commit:
                reach("commit.before")
            done = await original(self, kind, error, trace)
            if is_commit:
                reach("commit.after")
            return done

        return leave

    _wrap(Session, "value", around_value)
    _wrap(Transaction, "__aexit__", around_exit)
