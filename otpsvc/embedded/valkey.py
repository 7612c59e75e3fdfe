"""How the private Valkey is run and how one sees that it answers.

It must never listen on a port, evict a key, or write a snapshot file beside its append-only file.
"""

import signal
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

SOCKET_NAME = "redis.sock"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)


def server_command(program: Path, data_dir: Path, socket_dir: Path, *, durable: bool) -> list[str]:
    """Return the command line; ``durable`` writes to disk at least once a second."""
    settings = {
        "port": "0",
        "unixsocket": str(socket_dir / SOCKET_NAME),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec" if durable else "no",
        "maxmemory-policy": "noeviction",
        "databases": "16",
        "daemonize": "no",
        "logfile": "",
        # The command line is how a later run recognises a server that was left behind.
        "set-proc-title": "no",
    }
    command = [str(program)]
    for name, value in settings.items():
        command += [f"--{name}", value]
    return command


def url(socket_dir: Path) -> str:
    """Return the address in the form that redis-py reads."""
    return f"unix://{quote(str(socket_dir / SOCKET_NAME))}?db=0"


def is_ready(socket_dir: Path) -> bool:
    """Say whether the server answers; while it still loads its data it does not."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(1.0)
        connection.connect(str(socket_dir / SOCKET_NAME))
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False
