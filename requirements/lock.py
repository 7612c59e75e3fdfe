#!/usr/bin/env python3
"""Write the lock files beside this one; `make lock` runs it in an environment that holds uv.

They are plain pip requirements: every package pinned and hashed for every platform we support, with
no index address, so that any mirror can serve them.

Never in this file: a path or host of the machine it runs on, which would end up in the locks.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OLDEST_PYTHON = "3.11"

# What each file locks, as arguments of `uv pip compile`. `dev` is made first and the others start
# from its pins, so that what the tests see is what runs.
LOCKS = {
    "dev": ("pyproject.toml", "--extra", "embedded", "--extra", "smpp", "--group", "dev"),
    "run": ("pyproject.toml", "--extra", "embedded", "--group", "build"),
    "runtime": ("pyproject.toml",),
    "build": ("--group", "build"),
    "lock": ("--group", "lock"),
}
OPTIONS = (
    "--universal",
    f"--python-version={OLDEST_PYTHON}",
    f"--python={sys.executable}",
    "--generate-hashes",
    "--only-binary=:all:",
    "--no-config",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--quiet",
)


def compile_lock(name: str, arguments: list[str]) -> None:
    """Resolve one set, keeping the pins that still fit; `arguments` (`--upgrade`) go to uv."""
    target = HERE / f"{name}.txt"
    has_own_pins = name in {"dev", "lock"}
    if not has_own_pins:
        target.write_text((HERE / "dev.txt").read_text())
    environ = dict(os.environ)
    if "PIP_INDEX_URL" in environ:
        environ.setdefault("UV_DEFAULT_INDEX", environ["PIP_INDEX_URL"])
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", *LOCKS[name], *OPTIONS),
            f"--output-file={target.relative_to(ROOT)}",
            *(arguments if has_own_pins else []),
        ],
        cwd=ROOT,
        env=environ,
        check=True,
    )
    first = f"# {weight(target)} Made by `make lock`.\n"
    target.write_text(first + target.read_text())
    sys.stdout.write(f"{target.relative_to(ROOT)}: {first[2:]}")


def weight(lock: Path) -> str:
    """Say how much a lock is to download, by downloading it; that it can be is checked as well."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-I", "-m", "pip", "download", "-qq", "--no-deps"]
        locked = ["--require-hashes", "--only-binary", ":all:", "-r", str(lock)]
        subprocess.run([*pip, *locked, "-d", folder], check=True)
        sizes = [wheel.stat().st_size for wheel in Path(folder).iterdir()]
    plural = "s" if len(sizes) > 1 else ""
    return f"{len(sizes)} package{plural}, about {-(-sum(sizes) // 1_000_000)} MB to download."


def main() -> int:
    """Make all locks; return the exit status."""
    try:
        for name in LOCKS:
            compile_lock(name, sys.argv[1:])
    except subprocess.CalledProcessError as failed:
        sys.stderr.write(f"error: {failed.cmd[2:5]} failed; see above\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
