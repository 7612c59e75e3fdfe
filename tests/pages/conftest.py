"""The service whose pages are looked at: one per module, as for the HTTP tests."""

from tests.http.conftest import own_stores, service, watched_log

__all__ = ["own_stores", "service", "watched_log"]
