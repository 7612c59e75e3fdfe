"""Running a command's work on the event loop that the service runs on, and coming to an end afterwards.

A sender may be a stranger's code: a call of it that was given up may swallow its cancellation, or sit in a thread that
nobody can end. By then everything that matters is recorded, so such a rest is waited for a little and then left behind
with the process, instead of keeping it alive until somebody kills it.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import uvloop

T = TypeVar("T")

_REST_ENDS_WITHIN_S = 2.0

_log = logging.getLogger(__name__)
_left_behind: list[asyncio.Runner] = []


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and give what it gives; then the tasks and threads it left have a moment to end."""
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    threads = ThreadPoolExecutor(thread_name_prefix="otpsvc")
    runner.get_loop().set_default_executor(threads)
    try:
        return runner.run(work)
    finally:
        # Closing the runner waits for every task and every thread, without bound.
        if runner.run(_tasks_end()) and _threads_end(threads):
            runner.close()
        else:
            _log.warning("something does not end and is left behind; a call of a sender that cannot be stopped?")
            _left_behind.append(runner)


def leave(status: int) -> NoReturn:
    """End the process with a status; at once where something was left behind that would keep it alive."""
    if _left_behind:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


async def _tasks_end() -> bool:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return not tasks or not (await asyncio.wait(tasks, timeout=_REST_ENDS_WITHIN_S))[1]


def _threads_end(threads: ThreadPoolExecutor) -> bool:
    threads.shutdown(wait=False, cancel_futures=True)
    waiting = threading.Thread(target=threads.shutdown, daemon=True)
    waiting.start()
    waiting.join(_REST_ENDS_WITHIN_S)
    return not waiting.is_alive()
