"""A phone played by hand, call by call: it does what no app would do, and every answer to it is kept."""

import base64
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.leaks.phones import Secrets
from tests.leaks.stack import Stack
from tests.programs import PATIENCE_S

BASE = "/mobile/v1"
SIMS = [{"slotIndex": 0, "simNumber": 1}]


def basic(login: str, password: str) -> str:
    """Write login and password as a header has them."""
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


class PlayedPhone:
    """A phone that registers with login and password as soon as it is made; `close` hangs up."""

    def __init__(self, stack: Stack, login: str, password: str, *, sims: list[dict[str, Any]] | None = None) -> None:
        self.browser = stack.browser()
        self._stack = stack
        self._secrets: Secrets = stack.park.secrets
        self._body = {"name": "played", "simCards": sims or SIMS}
        self._login = login, password
        self.id = self.token = ""
        assert self.registers().status_code == 201

    def close(self) -> None:
        """Hang up."""
        self.browser.close()

    def registers(self) -> httpx.Response:
        """Register, for the first time or again."""
        shown = {"Authorization": basic(*self._login)}
        answer = self.browser.post(f"{BASE}/device", json=self._body, headers=shown)
        if answer.status_code == 201:
            self.id, self.token = answer.json()["id"], answer.json()["token"]
            self._secrets.note_token(self.token)
            self.browser.headers["Authorization"] = f"Bearer {self.token}"
        return answer

    def pull(self) -> list[dict[str, Any]]:
        """Pull; what was given in clear becomes a secret."""
        answer = self.browser.get(f"{BASE}/message")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        for one in found:
            if one["phoneNumbers"] and not one["isEncrypted"]:
                self._secrets.note_sms(one["phoneNumbers"][0], one["textMessage"]["text"])
        return found

    def pull_one(self, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Pull until a message comes; an empty one where none comes in time."""
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at:
            if found := self.pull():
                return found[0]
            time.sleep(0.1)
        return {}

    def says(self, message: dict[str, Any], state: str, error: str = "", **more: Any) -> int:
        """Report on a message that was pulled; return the status of the answer."""
        number = message["phoneNumbers"][0]
        report = {
            "id": message["id"],
            "state": state,
            "recipients": [{"phoneNumber": number, "state": state, "error": error or None}],
            "states": {state: "2026-01-01T00:00:00.000+00:00"},
            **more,
        }
        return self.browser.patch(f"{BASE}/message", json=[report]).status_code

    def calls(self) -> set[int]:
        """Make every call that a phone can make with its token; return the statuses of the answers."""
        browser = self.browser
        answers = [browser.get(f"{BASE}/{path}") for path in ("device", "message", "messages", "settings", "webhooks")]
        answers += [
            browser.patch(f"{BASE}/device", json={"id": self.id, "simCards": self._body["simCards"]}),
            browser.patch(f"{BASE}/message", json=[]),
        ]
        return {answer.status_code for answer in answers}

    @contextlib.contextmanager
    def listening(self) -> Iterator[Iterator[str]]:
        """Keep the stream of events open for the body of a `with`, and give its lines; they are kept too."""
        heard: list[str] = []
        url = f"{self._stack.url}{BASE}/events"

        def lines(answer: httpx.Response) -> Iterator[str]:
            for line in answer.iter_lines():
                heard.append(line)
                yield line

        try:
            with (
                httpx.Client(headers=self.browser.headers, timeout=PATIENCE_S) as client,
                client.stream("GET", url) as answer,
            ):
                assert answer.status_code == 200
                yield lines(answer)
        finally:
            self._stack.keep(f"GET {BASE}/events", "\n".join(heard).encode())
