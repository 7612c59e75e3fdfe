"""The house of the dispatcher's tests, and the rule that none of them leaks."""

import logging
from collections.abc import Iterator

import pytest

from tests.messages.house import CODE, NUMBER, House


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture(autouse=True)
def nothing_leaks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """In every test here: no log line holds the code or the number."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        printed = logging.Formatter("%(message)s %(exc_info)s").format(record)
        assert CODE not in printed
        assert NUMBER[-7:] not in printed
