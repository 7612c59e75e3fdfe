"""What a server process does between fork and becoming the server.

Run as a plain script, ``python -I -S child.py SPEC PROGRAM ARGUMENT…``, so that it starts fast;
it may therefore import the standard library only. SPEC is JSON:
``{"death_signal": 2, "kind": "own" | "namespace" | "account", "uid": 65534, "gid": 65534}``.
It must never touch the permissions of any file.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

PARENT_PID = "OTPSVC_EMBEDDED_PARENT_PID"
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Take the wanted identity, tie this process to its parent, become the program."""
    spec, command = json.loads(arguments[0]), arguments[1:]
    parent_pid = int(os.environ.pop(PARENT_PID))
    os.umask(0o077)
    if spec["kind"] == "namespace":
        enter_user_namespace(spec["uid"], spec["gid"])
    elif spec["kind"] == "account":
        os.setgroups([])
        os.setgid(spec["gid"])
        os.setuid(spec["uid"])
    # Last, because the kernel forgets the death signal at every change of identity.
    die_with_parent(spec["death_signal"], parent_pid)
    # Python ignores these two, and what is ignored stays ignored in the program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 - a list of arguments without a shell is the point


def enter_user_namespace(uid: int, gid: int) -> None:
    """Show this process's own user to itself as ``uid``; on disk it stays what it was."""
    outside_uid, outside_gid = os.geteuid(), os.getegid()
    call_libc("unshare", CLONE_NEWUSER)
    # The kernel wants setgroups denied before a process may write its own group map.
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {outside_gid} 1", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {outside_uid} 1", encoding="ascii")


def die_with_parent(death_signal: int, parent_pid: int) -> None:
    """Have the kernel send ``death_signal`` when the parent ends, where the kernel can (Linux)."""
    if sys.platform == "linux":
        call_libc("prctl", PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent ended before this process was tied to it")


def call_libc(name: str, *arguments: int) -> None:
    """Call one C function that answers -1 on failure; raises OSError then."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*map(ctypes.c_ulong, arguments)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
