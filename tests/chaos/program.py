"""`python -m tests.chaos.program serve|worker …`: the real command line, with a place to die in it.

CHAOS_KILL=step:n kills at the n-th passage of a step (`tests.chaos.killpoints`). CHAOS_RECLAIM_S shortens how long a
dead drain's events are left alone, so that the short tests need not wait for it; the long ones take what ships.
"""

import os

from otpsvc.cli import main
from otpsvc.events import drain
from tests.chaos.killpoints import install


def run() -> None:
    """Run the command of `sys.argv` with the environment as it is."""
    install(os.environ)
    if given := os.environ.get("CHAOS_RECLAIM_S"):
        drain.RECLAIM_IDLE_S, drain.RECLAIM_EVERY_S = float(given), float(given) / 4
    main()


if __name__ == "__main__":
    run()
