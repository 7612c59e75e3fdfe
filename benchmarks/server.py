"""The server under test: what `otpsvc serve` runs, beside a no-op route and a look at the process's own CPU clock.

The product's application is untouched. The two extra routes are a second small application on the same server, behind
the same edge, so that the no-op pays for everything that any route of ours pays for. Never put a shortcut in here that
`otpsvc serve` does not take: whatever is measured must be what ships.

Started by `benchmarks.stand`, with its settings in the environment; writes its port to standard output.
"""

import asyncio
import contextlib
import os
import sys
import time

import uvloop
from litestar import Litestar, Response, get
from litestar.types import ASGIApp, Receive, Scope, Send

from otpsvc import logs
from otpsvc.app import create_app, open_house, settle_memory
from otpsvc.app_delivery import open_outlets
from otpsvc.http.edge import Edge
from otpsvc.serving import bind, run_server, stop_on_signals, watch_parent
from otpsvc.settings import Settings, load

NO_OP_PATH = "/bench/no-op"
CPU_PATH = "/bench/cpu"
NO_OP_ANSWER = b'{"success":true}'
_JSON = "application/json"


@get(NO_OP_PATH)
async def no_op() -> Response[bytes]:
    """Answer fixed bytes: what the server, the framework and the edge cost by themselves."""
    return Response(NO_OP_ANSWER, media_type=_JSON)


@get(CPU_PATH)
async def cpu() -> Response[bytes]:
    """Answer the CPU time of this process so far, all threads, user and system, in seconds."""
    return Response(repr(time.process_time()).encode(), media_type=_JSON)


def with_bench_routes(product: ASGIApp) -> ASGIApp:
    """Put the two extra routes beside the product's application."""
    bench = Edge(
        Litestar(
            route_handlers=[no_op, cpu], openapi_config=None, logging_config=None, pdb_on_exception=False, debug=False
        )
    )

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        app = bench if scope["path"].startswith("/bench/") else product
        await app(scope, receive, send)

    return choose


async def serve(settings: Settings) -> None:
    """Serve on a free port of the loopback until TERM, or until the process that started us is gone."""
    logs.configure(settings.log.level, "text")
    stop = asyncio.Event()
    stop_on_signals(stop)
    with contextlib.closing(bind("127.0.0.1", 0)) as sock:
        async with (
            open_house(settings) as house,
            open_outlets(house.stores, is_dev=False, is_worker=False) as outlets,
            asyncio.TaskGroup() as tasks,
        ):
            app = with_bench_routes(create_app(house, outlets, closing=stop))
            settle_memory()
            sys.stdout.write(f"{sock.getsockname()[1]}\n")
            sys.stdout.flush()
            tasks.create_task(watch_parent(stop))
            tasks.create_task(run_server(app, sock, stop))


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(load(None, os.environ)))


if __name__ == "__main__":
    main()
