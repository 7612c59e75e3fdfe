"""How a fault is written down: its type and the place it came from, never its words, which may repeat a text."""

import traceback
from contextvars import ContextVar
from pathlib import PurePath

# What the task at hand was given that no line may show. A stranger's code that is called with it may log it.
hidden: ContextVar[tuple[str, ...]] = ContextVar("otpsvc_hidden", default=())


def described(error: BaseException) -> str:
    """Return for example `ValueError at vonage.py:88`."""
    name = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    if not frames:
        return name
    return f"{name} at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}"
