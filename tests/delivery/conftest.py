"""Stands over this test's own stores, and a watch on what they log."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.stand import Stand, stand

Open = Callable[..., AbstractAsyncContextManager[Stand]]


@pytest.fixture
def opened(tmp_path: Path, redis_url: str, database_url: str) -> Open:
    """Open a stand with these tables of the settings."""

    def open_stand(tables: str, **more: Any) -> AbstractAsyncContextManager[Stand]:
        return stand(tmp_path, redis_url, database_url, tables, **more)

    return open_stand


@pytest.fixture(autouse=True)
def no_text_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.WARNING, "httpx")
    yield
    for record in caplog.get_records("call"):
        assert "verification code" not in record.getMessage()
        assert "+3361" not in record.getMessage()
        assert not record.exc_info, record.getMessage()
