"""What would let a worker start and then do wrong is said at the start, in one line that names the key."""

import asyncio
import re
from typing import Any

import pytest

from otpsvc.app_delivery import check_senders
from otpsvc.clock import SystemClock
from otpsvc.errors import ConfigurationError
from otpsvc.settings import load
from tests.delivery.conftest import Open
from tests.delivery.stand import Gateway, until


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('[delivery]\nlease_s = 6\nsenders = ["first"]\n', "delivery.lease_s"),
        ('[routes.sms]\n"*" = [{ sender = "first", timeout_s = 60 }]\n', "delivery.lease_s"),
        ('[routes.voice]\n"*" = ["first"]\n', "routes.voice"),
    ],
)
async def test_settings_that_cannot_work(
    opened: Open, tmp_path_factory: pytest.TempPathFactory, settings: str, words: str
) -> None:
    gateway = Gateway("first")
    tables = settings + gateway.table(timeout_s=5, url="https://hook.example/send")
    path = tmp_path_factory.mktemp("settings") / "otpsvc.toml"
    path.write_text(tables)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=re.escape(words)) as caught:
        check_senders(load(path, {}, needs=()), SystemClock())
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        async with opened(tables):
            pass


@pytest.mark.parametrize(("step_timeout_s", "seconds"), [(3, 10), (12, 13)])
async def test_a_worker_that_stops_lets_the_longest_call_end(
    opened: Open, monkeypatch: pytest.MonkeyPatch, step_timeout_s: float, seconds: float
) -> None:
    drains: list[float] = []

    async def run(*parts: Any, stop: asyncio.Event, drain_s: float, **more: Any) -> None:
        drains.append(drain_s)
        await stop.wait()

    monkeypatch.setattr("otpsvc.app_delivery.run_worker", run)
    first = Gateway("first")
    tables = f'[delivery]\nstep_timeout_s = {step_timeout_s}\nsenders = ["first"]\n'
    async with opened(tables + first.table(url="https://hook.example/send")):
        await until(lambda: drains, "the worker")
    assert drains == [seconds]


async def test_a_sender_that_waits_longer_than_its_step_is_told_of(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    first = Gateway("first")
    tables = '[delivery]\nstep_timeout_s = 4\nsenders = ["first"]\n'
    async with first, opened(tables + first.table(timeout_s=5, url="https://hook.example/send")):
        assert "senders.first.timeout_s (5 s) should be below delivery.step_timeout_s (4 s)" in caplog.text
