"""The pages as a real browser shows them under their own security policy."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.http.service import Service
from tests.pages.chromium import FLAGS, chromium, needs_chromium

TIMEOUT_S = 60

pytestmark = needs_chromium

Look = Callable[..., tuple[str, str]]


@pytest.fixture
def look(service: Service, tmp_path: Path) -> Look:
    """Open a page and give what it then looks like, and what the browser complained about.

    `scripts_ms` is how much of the browser's own time its scripts get. A page that reloads itself must have none.
    """

    def open_page(path: str, *, scripts_ms: int = 0) -> tuple[str, str]:
        command = [
            chromium(), "--headless", *FLAGS, "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={tmp_path / 'profile'}",
            *([f"--virtual-time-budget={scripts_ms}"] if scripts_ms else []),
            "--dump-dom", f"http://127.0.0.1:{service.port}{path}",
        ]  # fmt: skip
        shown = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        complaints = [line for line in shown.stderr.splitlines() if ":CONSOLE" in line]
        return shown.stdout, "\n".join(complaints)

    return open_page


def test_the_api_page_shows_every_operation(look: Look) -> None:
    page, complaints = look("/docs", scripts_ms=8000)
    for path in ("/v1/otp", "/v1/sms/send-otp", "/v1/sms/verify-otp"):
        assert f'data-path="{path}"' in page
    for method in ("post", "get", "delete"):
        assert f"opblock-{method}" in page
    assert "SendBody" in page
    assert "Could not resolve reference" not in page
    assert "Content Security Policy" not in complaints
    assert "Uncaught" not in complaints


def test_the_inbox_shows_texts_as_texts(service: Service, look: Look) -> None:
    template = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> {{code}}"
    code = service.code(service.send(template=template))
    page, _ = look("/dev/inbox")
    assert code in page
    assert "<title>otpsvc inbox</title>" in page
    assert "&lt;script&gt;" in page


def test_the_list_of_errors_is_styled(look: Look) -> None:
    page, complaints = look("/docs/errors#OTP_NOT_FOUND")
    assert 'id="OTP_NOT_FOUND"' in page
    assert "Content Security Policy" not in complaints
