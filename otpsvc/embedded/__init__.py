"""A private Valkey and a private PostgreSQL for ``otpsvc dev`` and the tests.

They live as long as the process that started them, answer on unix sockets only and keep their
data in one private directory. Nothing here may be used by ``serve`` or ``worker``: those are
given addresses of stores that a team runs on purpose. Only the standard library is used.
"""

from otpsvc.embedded.errors import EmbeddedError
from otpsvc.embedded.stores import RunningStores, Stores, start_stores

__all__ = ["EmbeddedError", "RunningStores", "Stores", "start_stores"]
