"""Where the Chromium is that the tests of the pages look through, and what a run says when there is none.

It is the one that is installed; nothing is ever downloaded for it. Without one these tests are skipped, and the last
lines of the run say so; with OTPSVC_NEEDS_CHROMIUM=1 they fail instead.
"""

import os
import shutil
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("OTPSVC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
IS_NEEDED = os.environ.get("OTPSVC_NEEDS_CHROMIUM") == "1"
ABSENT = f"no Chromium is installed ({', '.join(NAMES)}), and OTPSVC_CHROMIUM names none"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

needs_chromium = pytest.mark.skipif(CHROMIUM is None and not IS_NEEDED, reason=ABSENT)


def chromium() -> str:
    """The browser's program; fails the test where there is none."""
    if CHROMIUM is None:
        pytest.fail(f"OTPSVC_NEEDS_CHROMIUM is set, but {ABSENT}")
    return CHROMIUM


def missed(skipped: list[Any]) -> str | None:
    """The line that the end of a run says about pages, given its reports of skipped tests; None where they ran."""
    n_missed = sum(isinstance(report.longrepr, tuple) and ABSENT in report.longrepr[2] for report in skipped)
    return f"{n_missed} tests of pages did not run: {ABSENT}" if n_missed else None
