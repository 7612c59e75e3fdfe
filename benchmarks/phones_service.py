"""The whole service in one process, as `otpsvc dev` has it, on given stores; started by `benchmarks.phones_way`.

Nothing of the product is changed or left out but the developer's own phone and pages. Deliveries begin at the first
line on standard input, so that a backlog can be made first. Settings come from the environment, the port is given.
"""

import asyncio
import contextlib
import os
import sys

import uvloop

from otpsvc import logs
from otpsvc.app import create_app, open_house, run_background, settle_memory
from otpsvc.app_delivery import open_delivery, open_outlets, run_delivery
from otpsvc.serving import bind, run_server, stop_on_signals, watch_parent
from otpsvc.settings import Settings, load


async def serve(settings: Settings, port: int) -> None:
    """Serve, deliver and write history until TERM, or until the process that started us is gone."""
    logs.configure(settings.log.level, "text")
    stop = asyncio.Event()
    stop_on_signals(stop)
    with contextlib.closing(bind("127.0.0.1", port)) as sock:
        async with (
            open_house(settings) as house,
            open_outlets(house.stores, is_dev=False, is_worker=True) as outlets,
            asyncio.TaskGroup() as tasks,
        ):
            delivery = open_delivery(house.stores, outlets)
            app = create_app(house, outlets, closing=stop)
            settle_memory()
            tasks.create_task(watch_parent(stop))
            tasks.create_task(run_server(app, sock, stop))
            tasks.create_task(run_background(house, stop))
            tasks.create_task(house.key_news.run(stop))
            tasks.create_task(house.phones.calls.run(stop))
            sys.stdout.write("serves\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.readline)
            tasks.create_task(run_delivery(delivery, settings, stop, house.clock))


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(load(None, os.environ), int(sys.argv[1])))


if __name__ == "__main__":
    main()
