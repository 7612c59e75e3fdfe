"""What is known of the machine: facts for the record, and how busy others kept it while we measured.

Names no host, no user and no path, so that a result can be shown to anyone.
"""

import os
import platform
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("litestar", "uvicorn", "httptools", "uvloop", "msgspec", "redis", "hiredis", "argon2-cffi", "cryptography")
_CPU_LINE_FIELDS = 8  # user, nice, system, idle, iowait, irq, softirq, steal (proc(5))
_IDLE_FIELDS = (3, 4)


def facts() -> dict[str, str | int]:
    """Give cores, processor, system, Python and the versions of what the hot path uses."""
    return {
        "cores": os.cpu_count() or 0,
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("otpsvc", *_PACKAGES)},
    }


def busy_s() -> float | None:
    """Give the seconds that all cores together spent on anything, stolen ones included; None off Linux."""
    try:
        words = Path("/proc/stat").read_text().split(maxsplit=_CPU_LINE_FIELDS + 1)[1:-1]
    except OSError:
        return None
    ticks = sum(int(word) for place, word in enumerate(words) if place not in _IDLE_FIELDS)
    return ticks / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
