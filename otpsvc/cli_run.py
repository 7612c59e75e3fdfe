"""What all commands share: where the settings come from, text as an argument, and who may look into their memory."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import rich_click as click

_PR_SET_DUMPABLE = 4  # prctl(2)

# For every group and command that stands alone: the library keeps the help option that it was first asked for with.
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings file. Default: OTPSVC_CONFIG, else ./otpsvc.toml if it exists.",
)


def as_text(_: click.Context, __: click.Parameter, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Refuse an argument that is no text: a shell hands over any bytes, the database does not take them."""
    for part in value if isinstance(value, tuple) else (value,):
        try:
            str(part).encode()
        except UnicodeEncodeError:
            raise click.BadParameter("not UTF-8 text") from None
    return value


def keep_memory_private() -> None:
    """Leave no core file when this process dies: its memory holds codes, numbers and keys.

    On Linux the limit alone does not stop a core handler that reads from a pipe; being undumpable does, and keeps other
    processes of this user out of our memory and environment besides.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
