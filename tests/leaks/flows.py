"""Everything that can happen to a code, as callers make it happen; each flow has numbers of its own."""

import itertools
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import redis

from otpsvc import phone
from tests.leaks.careless_sender import HABITS
from tests.leaks.stack import Shop, Stack

_ACCEPTS = HABITS.index("accepts")
# Countries whose own language or way of writing differs, as calling code, first digits and how many follow them.
_COUNTRIES = (("44", "7911", 6), ("33", "751", 6), ("39", "3121", 6), ("7", "9121", 6))
_PROBLEM = {"Accept": "application/problem+json"}
_LANGUAGES = ("en", "fr", "it", "ru")

Body = dict[str, Any]


class Flows:
    """The callers: two shops and somebody without a key. Remembers every secret that it used."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.shop, self.other = stack.shop(), stack.shop("test", cooldown_s=30)
        self.browser, self.stranger = stack.browser(self.shop), stack.browser()
        self.second = stack.browser(self.other)
        self.numbers: set[str] = set()
        self.guesses: set[str] = set()
        self.sessions: set[str] = set()
        self.addresses: set[str] = set()
        self.forgotten: list[str] = []
        self._countries = itertools.cycle(_COUNTRIES)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Hang up."""
        for browser in (self.browser, self.second, self.stranger):
            browser.close()

    def number(self, habit: int = _ACCEPTS) -> str:
        """Give a number that nobody has used, with which the careless sender has this habit."""
        ends = [end for end in range(100) if end % len(HABITS) == habit]
        while True:
            with self._lock:
                code, first, length = next(self._countries)
                free = "".join(secrets.choice("0123456789") for _ in range(length - 2))
                number = f"+{code}{first}{free}{secrets.choice(ends):02d}"
                try:
                    is_new = phone.normalise(number) == number and number not in self.numbers
                except phone.InvalidNumber:
                    continue
                if is_new:
                    self.numbers.add(number)
                    return number

    def guess(self, length: int = 10) -> str:
        """Give a guess that is as secret as a code: people mistype by one digit."""
        guess = "".join(secrets.choice("0123456789") for _ in range(length))
        self.guesses.add(guess)
        return guess

    def address(self) -> str:
        """Give an address (of those kept for tests) that nobody has."""
        address = f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}.{secrets.randbelow(156) + 100}"
        self.addresses.add(address)
        return address

    def send(self, number: str, **body: Any) -> Body:
        sent = self.browser.post("/v1/otp", json={"to": number, **body})
        assert sent.status_code == 200, sent.text
        answer: Body = sent.json()
        return answer

    def sent_with_code(self, number: str | None = None, **body: Any) -> tuple[str, str]:
        sent = self.send(number or self.number(), **body)
        return sent["otp_id"], self.stack.code_of(sent["message_id"])

    def verify(self, otp_id: str, code: str, **more: Any) -> httpx.Response:
        return self.browser.post(f"/v1/otp/{otp_id}/verify", json={"code": code, **more})

    # -- the flows

    def succeeds(self) -> None:
        number = self.number()
        otp_id, code = self.sent_with_code(number, metadata={"order": 7}, purpose="login")
        assert self.verify(otp_id, self.guess()).json()["valid"] is False
        assert self.verify(otp_id, code, to=number).json()["valid"] is True
        assert self.verify(otp_id, code).status_code == 404
        self.browser.get(f"/v1/otp/{otp_id}")

    def locks(self) -> None:
        otp_id, code = self.sent_with_code()
        for _ in range(3):
            assert self.verify(otp_id, self.guess()).status_code == 200
        assert self.verify(otp_id, code).status_code == 429
        self.browser.post(f"/v1/otp/{otp_id}/resend", json={})

    def expires(self) -> None:
        """Its life is cut short in the store: the shortest there is would keep the suite for a minute."""
        otp_id, code = self.sent_with_code(ttl_s=60)
        self.age(otp_id)
        assert self.verify(otp_id, code).json()["error"]["code"] == "OTP_EXPIRED"
        self.browser.post(f"/v1/otp/{otp_id}/resend", json={})

    def age(self, otp_id: str) -> None:
        with redis.Redis.from_url(self.stack.stores.redis_url) as client:
            raw: Any = client
            (name,) = raw.scan_iter(f"*:otp:{otp_id}", count=10_000)
            raw.hset(name, "expires_at", 1)
            for ends in raw.scan_iter("*:ends", count=10_000):
                for member in raw.zrange(ends, 0, -1):
                    if otp_id.encode() in member:
                        raw.zadd(ends, {member: 1})

    def resends(self) -> None:
        number = self.number()
        otp_id, before = self.sent_with_code(number)
        again = self.browser.post(f"/v1/otp/{otp_id}/resend", json={}).json()
        after = self.stack.code_of(again["message_id"])
        assert self.verify(otp_id, self.guess(), to=number).status_code == 200
        assert self.verify(otp_id, secrets.choice([before, after])).json()["valid"] is True

    def is_throttled(self) -> None:
        number = self.number()
        for n in range(10):
            self.send(number, locale=_LANGUAGES[n % 4])
        assert self.browser.post("/v1/otp", json={"to": number}).status_code == 429
        assert self.browser.post("/v1/otp", json={"to": number}, headers=_PROBLEM).status_code == 429

    def is_locked_out(self) -> None:
        number = self.number()
        for _ in range(4):
            otp_id, _ = self.sent_with_code(number)
            for _ in range(3):
                self.verify(otp_id, self.guess())
        assert self.browser.post("/v1/otp", json={"to": number}).json()["error"]["code"] == "OTP_LOCKED_OUT"

    def cools_down(self) -> None:
        number = self.number()
        assert self.second.post("/v1/otp", json={"to": number}).status_code == 200
        assert self.second.post("/v1/otp", json={"to": number}).status_code == 429

    def is_cancelled(self) -> None:
        otp_id, code = self.sent_with_code()
        assert self.browser.delete(f"/v1/otp/{otp_id}").status_code == 200
        assert self.verify(otp_id, code).status_code == 404

    def is_superseded(self) -> None:
        number = self.number()
        otp_id, code = self.sent_with_code(number)
        self.send(number)
        assert self.verify(otp_id, code).status_code == 404

    def belongs_to_somebody_else(self) -> None:
        number = self.number()
        otp_id, code = self.sent_with_code(number, session=number, end_user_ip=self.address())
        for browser, more in ((self.second, {}), (self.browser, {"to": self.number()}),
                              (self.browser, {"session": code}), (self.browser, {"purpose": "other"})):  # fmt: skip
            assert browser.post(f"/v1/otp/{otp_id}/verify", json={"code": code, **more}).status_code == 404

    def has_a_session(self) -> None:
        """What tells one person from another is kept as a keyed hash: the session, and the address of the person."""
        number, session = self.number(), secrets.token_hex(12)
        self.sessions.add(session)
        otp_id, code = self.sent_with_code(number, session=session, end_user_ip=self.address())
        assert self.verify(otp_id, self.guess(), session=session).json()["valid"] is False
        self.browser.post(f"/v1/otp/{otp_id}/resend", json={"session": session, "end_user_ip": self.address()})
        assert self.verify(otp_id, code, session=f"{session}x").status_code == 404
        assert self.verify(otp_id, code, session=session).json()["valid"] is True

    def is_repeated(self) -> None:
        """People take the number for an Idempotency-Key, and the code."""
        number = self.number()
        keys = {"Idempotency-Key": number}
        first, again = (self.browser.post("/v1/otp", json={"to": number}, headers=keys).json() for _ in range(2))
        assert first["otp_id"] == again["otp_id"]
        code = self.stack.code_of(first["message_id"])
        body, path = {"code": self.guess()}, f"/v1/otp/{first['otp_id']}/verify"
        for _ in range(2):
            assert self.browser.post(path, json=body, headers={"Idempotency-Key": code}).status_code == 200
        assert self.browser.post(path, json={"code": code}, headers={"Idempotency-Key": code}).status_code == 422
        assert self.browser.post("/v1/otp", json={"to": self.number()}, headers=keys).status_code == 422

    def speaks_zimsend(self) -> None:
        number = self.number()
        sent = self.browser.post("/v1/sms/send-otp", json={"to": number, "length": 10}).json()
        code = self.stack.code_of(sent["message_id"])
        self.browser.get(f"/v1/sms/status/{sent['message_id']}")
        for guess in (self.guess(), code):
            body = {"otp_id": sent["otp_id"], "code": guess, "phone": number}
            assert self.browser.post("/v1/sms/verify-otp", json=body).status_code == 200

    def has_a_short_code(self) -> None:
        number = self.number()
        otp_id, code = self.sent_with_code(number, code_length=6, template="{{code}} is your word, do not share it.")
        self.verify(otp_id, self.guess(6))
        self.verify(otp_id, code)

    def is_forgotten(self) -> None:
        number = self.number()
        otp_id, code = self.sent_with_code(number)
        forgotten = self.browser.post("/v1/numbers/forget", json={"to": number})
        assert forgotten.status_code == 200, forgotten.text
        self.forgotten.append(otp_id)
        assert self.browser.get(f"/v1/otp/{otp_id}").json()["to"] == ""
        assert self.verify(otp_id, code).status_code == 404

    def is_clumsy(self) -> None:
        """Codes and numbers where none belong, and every other error of a request."""
        number = self.number()
        otp_id, code = self.sent_with_code(number)
        verify, asked = f"/v1/otp/{otp_id}/verify", {"code": code, "to": number}
        for more in ({}, _PROBLEM, {"Accept-Language": secrets.choice(_LANGUAGES)}):
            self.browser.post(f"{verify}/{code}", json=asked, headers=more)
            self.browser.post("/v1/otp/verify", params=asked, json=asked, headers=more)
            self.browser.get(f"/v1/otp/{number}", headers=more)
            self.browser.get(f"/v1/otp/{code}/verify", params=asked, headers=more)
            self.browser.put(verify, params=asked, json=asked, headers={**more, "Cookie": f"code={code}"})
            self.browser.post(verify, json={"code": int(code)}, headers=more)
            self.browser.post(verify, json={"code": f"{code}1"}, headers=more)
            self.browser.post(verify, json={"code": f"my code is {code}"}, headers=more)
            self.browser.post(verify, json={"code": code, "to": f"{number}99999"}, headers=more)
            self.browser.post(verify, json={"code": code, "purpose": code}, headers=more)
            self.browser.post(verify, content=f'{{"code": {code}', headers={**more, "Content-Type": "application/json"})
            self.browser.post(verify, content=f"code={code}&to={number}", headers=more)
            self.browser.post(verify, json={"code": [code], "to": {"number": number}}, headers=more)
            self.browser.post(verify, json={"code": code, "note": code * 2000}, headers=more)
            for body in ({"to": f"call {number}"}, {"to": [number]}, {"to": number, "ttl_s": number},
                         {"to": number, "template": f"{code} {{{{code}}}} {{{{code}}}}"},
                         {"to": number, "locale": number}, {"to": number, "end_user_ip": number},
                         {"to": number, "purpose": f"p{number}"}, {"to": number, "session": number * 20}):  # fmt: skip
                assert self.browser.post("/v1/otp", json=body, headers=more).status_code == 400, body
            for page in ("inbox", "inbox.json", "phone", "phone/events", "demo"):
                assert self.stranger.get(f"/dev/{page}", headers=more).status_code == 404
            self.stranger.post("/v1/otp", json={"to": number}, headers=more)
            wrong = Shop(self.shop.client_id, self.shop.key[:-4] + "0000")
            self.stranger.post("/v1/otp", json={"to": number}, headers={**more, **wrong.headers})
            self.stranger.post(verify, json=asked, headers={**more, "X-API-Key": code, "X-Client-ID": number})

    def meets_every_habit(self) -> None:
        for habit in range(len(HABITS)):
            self.send(self.number(habit))

    def all(self) -> list[Callable[[], None]]:
        return [
            self.succeeds, self.locks, self.expires, self.resends, self.is_throttled, self.is_locked_out,
            self.cools_down, self.is_cancelled, self.is_superseded, self.belongs_to_somebody_else, self.has_a_session,
            self.is_repeated,
            self.speaks_zimsend, self.has_a_short_code, self.is_forgotten, self.is_clumsy, self.meets_every_habit,
        ]  # fmt: skip

    def run(self, rounds: int, *, callers: int = 4, more: Sequence[Callable[[], None]] = ()) -> None:
        """Live through all flows so many times, and through `more`, some at once."""
        with ThreadPoolExecutor(callers) as pool:
            for _ in pool.map(lambda flow: flow(), [*self.all(), *more] * rounds):
                pass
