"""A relay between the service and one of its stores: plugged in, cut, or silent."""

import contextlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


class Cable:
    """Carries connections from a socket of its own to the server's; threads of its own do the carrying."""

    def __init__(self, server_socket: Path, directory: Path) -> None:
        self._server_socket = server_socket
        self._socket = directory / server_socket.name
        self._listener: socket.socket | None = None
        self._ends: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._flows = threading.Event()
        self.directory = directory
        self.plug_in()

    def plug_in(self) -> None:
        """Carry from now on, what waited too."""
        self._flows.set()
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._socket))
            self._listener.listen(64)
            self._start(self._accept, self._listener)

    def hang(self) -> None:
        """Say nothing any more, but leave every connection open."""
        self._flows.clear()

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        if self._listener is not None:
            self._socket.unlink()
            self._shut(self._listener)
            self._listener = None
        for end in list(self._ends):
            self._shut(end)
        self._flows.set()

    def remove(self) -> None:
        """Cut it for good and wait for its threads."""
        self.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, work: object, *arguments: object) -> None:
        assert callable(work)
        thread = threading.Thread(target=work, args=arguments, name="cable", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _shut(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
        self._ends.discard(end)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._server_socket))
            self._ends |= {near, far}
            self._start(self._copy, near, far)
            self._start(self._copy, far, near)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._flows.wait()
                target.sendall(data)
        self._shut(source)
        self._shut(target)


@contextlib.contextmanager
def plugged_in(server_socket: Path) -> Iterator[Cable]:
    """A cable for the body of a `with`."""
    directory = Path(tempfile.mkdtemp(prefix="cable-"))
    cable = Cable(server_socket, directory)
    try:
        yield cable
    finally:
        cable.remove()
        shutil.rmtree(directory)
