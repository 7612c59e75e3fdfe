"""Decides as whom the servers run. PostgreSQL refuses root, and needs a user that has a name.

An ordinary user runs everything as itself. Root gets a user namespace in which it looks like an
ordinary user and on disk stays root, so that it works below a directory closed to all others.
Where namespaces are forbidden, the account ``nobody`` is used if it can reach the files. No
permission of a directory that is not ours may ever be changed to make it reachable.
"""

import os
import pwd
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from otpsvc.embedded.errors import EmbeddedError

_ACCOUNT = "nobody"


@dataclass(frozen=True)
class Identity:
    """``own``: unchanged. ``namespace``: seen as uid and gid. ``account``: turned into them."""

    kind: Literal["own", "namespace", "account"]
    uid: int
    gid: int

    @property
    def file_owner(self) -> tuple[int, int]:
        """The user and group ids that its files have on disk."""
        if self.kind == "account":
            return self.uid, self.gid
        return os.geteuid(), os.getegid()


IdentityProbe = Callable[[Identity], bool]


def choose_identity(works: IdentityProbe, must_reach: Iterable[Path]) -> Identity:
    """Return how to run PostgreSQL here.

    ``works`` tries to run a program under an identity; ``must_reach`` are the paths that an
    account of its own would have to reach. Raises EmbeddedError, saying what to do, when no way
    is left.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0 and _has_name(uid):
        return Identity("own", uid, gid)
    ordinary = _ordinary_account()
    if ordinary is not None:
        namespace = Identity("namespace", ordinary.pw_uid, ordinary.pw_gid)
        if works(namespace):
            return namespace
    if uid != 0:
        raise EmbeddedError(
            f"PostgreSQL needs a user with a name and uid {uid} has none here, and user "
            f"namespaces are not allowed: add it to /etc/passwd or run as another user."
        )
    if ordinary is None:
        raise EmbeddedError(_advice("and there is no account 'nobody' to run it as"))
    account = Identity("account", ordinary.pw_uid, ordinary.pw_gid)
    for path in must_reach:
        blocking = first_closed_parent(path, account)
        if blocking is not None:
            raise EmbeddedError(_advice(f"and the account '{ordinary.pw_name}' cannot pass through {blocking}"))
    if not works(account):
        raise EmbeddedError(_advice(f"and switching to '{ordinary.pw_name}' is not allowed"))
    return account


def first_closed_parent(path: Path, account: Identity) -> Path | None:
    """Return the topmost directory above ``path`` that ``account`` may not pass through."""
    for parent in reversed(path.parents):
        found = parent.stat()
        if found.st_uid == account.uid:
            passable = found.st_mode & stat.S_IXUSR
        elif found.st_gid == account.gid:
            passable = found.st_mode & stat.S_IXGRP
        else:
            passable = found.st_mode & stat.S_IXOTH
        if not passable:
            return parent
    return None


def _advice(reason: str) -> str:
    return (
        "PostgreSQL does not run as root: user namespaces are not allowed here "
        f"{reason}. Run as an ordinary user, or allow user namespaces, or move the program and "
        "its data (OTPSVC_DATA_DIR) below directories that everyone may pass through."
    )


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _ordinary_account() -> pwd.struct_passwd | None:
    try:
        account = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        return None
    return account if account.pw_uid > 0 else None
