"""Log lines as a test reads them, from a process that is given its own ways back afterwards."""

import contextlib
import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import HealthCheck, settings

from otpsvc import logs

FORMS: tuple[Literal["json", "text"], ...] = ("json", "text")

log = logging.getLogger("otpsvc.tests")
# The stream is made anew for every test and only read from where it stands.
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)

Lines = Callable[[], list[str]]
Objects = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Give the process its own ways back."""
    root, ours = logging.getLogger(), logging.getLogger("otpsvc")
    before = (root.level, ours.level, sys.excepthook, sys.unraisablehook, threading.excepthook)
    yield
    for handler in [handler for handler in root.handlers if isinstance(handler, logs._Lines)]:
        root.removeHandler(handler)
    root.setLevel(before[0])
    ours.setLevel(before[1])
    sys.excepthook, sys.unraisablehook, threading.excepthook = before[2:]
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@contextlib.contextmanager
def unheard_by_pytest() -> Iterator[None]:
    """Keep lines from the runner's own report, which cannot carry every text from one process to another."""
    root = logging.getLogger()
    others = [handler for handler in root.handlers if not isinstance(handler, logs._Lines)]
    for handler in others:
        root.removeHandler(handler)
    try:
        yield
    finally:
        for handler in others:
            root.addHandler(handler)


@pytest.fixture(params=FORMS)
def lines(request: pytest.FixtureRequest) -> Lines:
    """What was written since the last call, in either form."""
    return written(request.param)


@pytest.fixture
def objects() -> Objects:
    """What was written since the last call, read as JSON."""
    read = written("json")
    return lambda: [json.loads(line) for line in read()]


def written(form: Literal["json", "text"], level: str = "info") -> Lines:
    stream = io.StringIO()
    logs.configure(level, form, stream)

    def read() -> list[str]:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        assert not text or text.endswith("\n")
        return text.split("\n")[:-1]

    return read
