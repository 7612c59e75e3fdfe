"""Everything that can happen to a code on its way through the client's own phones, and to what lets these in."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import redis

from otpsvc.handset.link import Login
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.temper import Temper
from otpsvc.phone_encryption import decrypted
from tests.leaks.desk import PHONES_THEN_FIRST, Desk
from tests.leaks.flows import Flows
from tests.leaks.phones import Notebook
from tests.leaks.played_phone import BASE, SIMS, PlayedPhone, basic
from tests.leaks.stack import code_in
from tests.programs import PATIENCE_S, wait_until

# An address of this machine that no phone calls from: what is tried too often there holds nobody else up.
_STRANGERS = "127.0.0.9"
_TRIES = 12
_ASK_EVERY_S = 0.5


class PhoneFlows:
    """The callers of `flows`, whose codes go out through phones."""

    def __init__(self, flows: Flows) -> None:
        self.flows = flows
        self.stack = flows.stack
        self._desks: list[Desk] = []
        self.office = self.desk()
        self.regular, _ = self.office.phone_by_login(temper=Temper(seed=1, doubles=0.2, delays=0.2, late_s=0.5))
        self.office.change(self.regular.device_id, budget={"messages_per_window": 10_000, "recipients_per_day": 10_000})

    def close(self) -> None:
        """Hang up, and switch all phones off."""
        for desk in self._desks:
            desk.close()
        self.stack.park.switch_off()

    def desk(self) -> Desk:
        """Give a client of its own."""
        desk = Desk(self.flows)
        self._desks.append(desk)
        return desk

    # -- the flows

    def delivers(self) -> None:
        """By an enrolment code, confirmed by a person; then pinned, registered again, and under a new password."""
        desk = self.desk()
        pairing = desk.pairing(confirms_by_itself=False)
        phone, notebook = desk.phone(Login(code=pairing["code"]))
        desk.tell(phone.device_id, "confirm")
        for headers in ({}, {"X-Device-ID": phone.device_id}):
            sent = desk.send(**headers)
            code = desk.code_of(sent["message_id"])
            assert not desk.verify(sent["otp_id"], self.flows.guess())
            assert desk.verify(sent["otp_id"], code)
            desk.comes_to(sent["message_id"], "delivered")
            desk.browser.get(f"/v1/otp/{sent['otp_id']}")
            desk.looks(phone.device_id, code, notebook.token, notebook.password)
            self._pins_nonsense(desk, code, notebook)
            self._registers_again(desk, phone, notebook)
        self._changes_its_password(desk, notebook)

    def _registers_again(self, desk: Desk, phone: SimulatedPhone, notebook: Notebook) -> None:
        token = notebook.token
        desk.tell(phone.device_id, "rotate-token")
        wait_until(lambda: notebook.token != token and phone.is_connected, "another registration")
        desk.is_online(phone.device_id)

    def _pins_nonsense(self, desk: Desk, code: str, notebook: Notebook) -> None:
        """What callers take for the id of a phone."""
        number = desk.number()
        for device_id in (code, number, notebook.token, notebook.password, self.regular.device_id):
            for language in ("en", "fr"):
                headers = {"X-Device-ID": device_id, "Accept-Language": language}
                answer = desk.browser.post("/v1/otp", json={"to": number}, headers=headers)
                assert answer.json()["error"]["code"] == "INVALID_DEVICE_ID", answer.text
        nobodys = self.flows.browser.post("/v1/otp", json={"to": number})
        assert nobodys.json()["error"]["code"] == "NO_DEVICE_AVAILABLE", nobodys.text

    def _changes_its_password(self, desk: Desk, notebook: Notebook) -> None:
        new, wrong = secrets.token_hex(10), secrets.token_hex(10)
        desk.secrets.credentials.update((new, wrong))
        shown = {"Authorization": f"Bearer {notebook.token}"}
        with self.stack.browser() as browser:
            for current, chosen, status in ((wrong, new, 401), (notebook.password, "short", 400),
                                            (notebook.password, new, 204)):  # fmt: skip
                body = {"currentPassword": current, "newPassword": chosen}
                answer = browser.patch(f"{BASE}/user/password", json=body, headers=shown)
                assert answer.status_code == status, answer.text

    def encrypts(self) -> None:
        """Under a passphrase, and under one that is not the phone's."""
        desk = self.desk()
        passphrase = desk.passphrase()
        for typed, end in ((passphrase, "delivered"), (desk.passphrase(), "failed")):
            pairing = desk.pairing()
            played = PlayedPhone(self.stack, pairing["login"], pairing["password"])
            assert played.pull() == []
            desk.change(played.id, passphrase=passphrase)
            refused = desk.browser.patch(f"/v1/devices/{played.id}", json={"passphrase": f"{passphrase}\n"})
            assert refused.status_code == 400
            if end == "delivered":
                self._reads_what_is_encrypted(desk, played, passphrase)
            played.close()
            phone, _ = desk.phone(Login(pairing["login"], pairing["password"]), passphrase=typed)
            sent = desk.send()
            desk.comes_to(sent["message_id"], end)
            self.stack.park.switch_off(phone)
            desk.browser.delete(f"/v1/devices/{phone.device_id}")

    def _reads_what_is_encrypted(self, desk: Desk, played: PlayedPhone, passphrase: str) -> None:
        sent = desk.send()
        message = played.pull_one()
        assert message["isEncrypted"]
        text = decrypted(message["textMessage"]["text"], passphrase)
        desk.secrets.note_sms(decrypted(message["phoneNumbers"][0], passphrase), text)
        for state in ("Processed", "Sent", "Delivered"):
            assert played.says(message, state, text) == 204
        assert desk.verify(sent["otp_id"], code_in(text))

    def is_taken_over(self) -> None:
        """From a phone that goes, from one that does not come, and from one that says nothing once it has pulled."""
        desk = self.desk()
        first, (second, _) = desk.played_phone(), desk.phone_by_login()
        desk.change(second.device_id, budget={"is_spare": True})
        with first.listening() as lines:
            next(lines)
            gone = desk.send()
            for line in lines:
                if "MessageEnqueued" in line:
                    break
        desk.code_of(gone["message_id"])
        assert first.pull() == []
        silent = desk.send()
        message = first.pull_one()
        not_pulled = desk.send()
        for sent in (gone, not_pulled, silent):
            code = desk.code_of(sent["message_id"])
            desk.comes_to(sent["message_id"], "delivered")
            desk.browser.get(f"/v1/otp/{sent['otp_id']}")
            late, error = {**message, "id": sent["message_id"]}, f"{code} to {message['phoneNumbers'][0]}"
            for state in ("Processed", "Failed", "Sent"):
                assert first.says(late, state, error) == 204
            assert desk.verify(sent["otp_id"], code)
        desk.looks(first.id, second.device_id)

    def fails_aloud(self) -> None:
        """Two phones that fail and say what, then a careless sender; and reports that no app would write."""
        desk = self.desk()
        phones = [desk.broken_phone(), desk.broken_phone()]
        for _ in range(3):
            sent = desk.send(desk.number(PHONES_THEN_FIRST))
            code = self.stack.code_of(sent["message_id"])
            assert desk.verify(sent["otp_id"], code)
            sent = desk.send()
            desk.comes_to(sent["message_id"], "failed")
            desk.browser.get(f"/v1/otp/{sent['otp_id']}")
        desk.looks(*(phone.device_id for phone in phones))
        self.stack.park.switch_off(*phones)
        for phone in phones:
            desk.browser.delete(f"/v1/devices/{phone.device_id}")
        self._reports_nonsense(desk)

    def _reports_nonsense(self, desk: Desk) -> None:
        phone = desk.played_phone()
        assert phone.pull() == []
        sent = desk.send()
        message = phone.pull_one()
        text, number = message["textMessage"]["text"], message["phoneNumbers"][0]
        code = code_in(text)
        for name in (code, number, text, phone.token):
            assert phone.says({**message, "id": name}, "Failed", text) == 204
            assert phone.says(message, name, text) == 204
            assert phone.says(message, "Processed", name, states={"Processed": name, name: name}) == 204
            assert phone.says(message, "Processed", recipients=name) == 400
            assert phone.says(message, "Processed", states=[name]) == 400
            phone.browser.get(f"{BASE}/message/{name}")
            phone.browser.get(f"{BASE}/message", params={"order": name, "token": phone.token})
            phone.browser.patch(f"{BASE}/device", json={"id": name, "name": text, "simCards": [name]})
            phone.browser.patch(f"{BASE}/device", json={"id": name, "simCards": SIMS})
        phone.browser.patch(f"{BASE}/message", content=f'[{{"id": "{code}", "state": "{number}"')
        phone.browser.patch(f"{BASE}/message", json={"id": code, "state": text})
        for state in ("Sent", "Failed", "Delivered"):
            assert phone.says(message, state, text) == 204
        desk.comes_to(sent["message_id"], "delivered")

    def is_put_out(self) -> None:
        """Disabled with a message in its inbox, let in again, and deleted."""
        desk = self.desk()
        phone = desk.played_phone()
        assert phone.pull() == []
        sent = desk.send(desk.number(PHONES_THEN_FIRST))
        desk.has_waiting(phone.id)
        desk.tell(phone.id, "disable")
        assert phone.calls() == {401}
        assert phone.registers().status_code == 401
        number = desk.number()
        pinned = desk.browser.post("/v1/otp", json={"to": number}, headers={"X-Device-ID": phone.id})
        assert pinned.json()["error"]["code"] in {"DEVICE_OFFLINE", "INVALID_DEVICE_ID"}
        self.stack.code_of(sent["message_id"])
        desk.tell(phone.id, "enable")
        assert phone.registers().status_code == 201
        assert phone.calls() == {200, 204}
        assert desk.browser.delete(f"/v1/devices/{phone.id}").status_code == 200
        assert phone.calls() == {401}
        assert phone.registers().status_code == 401
        assert desk.browser.post("/v1/otp", json={"to": number}).json()["error"]["code"] == "NO_DEVICE_AVAILABLE"
        desk.looks(phone.id)

    def is_forgotten(self) -> None:
        """With its message in a phone's inbox."""
        desk = self.desk()
        phone, number = desk.played_phone(), desk.number()
        assert phone.pull() == []
        sent = desk.send(number)
        desk.has_waiting(phone.id)
        forgotten = desk.browser.post("/v1/numbers/forget", json={"to": number})
        assert forgotten.status_code == 200, forgotten.text
        self.flows.forgotten.append(sent["otp_id"])
        phone.pull()

    def is_a_stranger(self) -> None:
        """Somebody tries codes and passwords, and shows each secret where another belongs."""
        desk = self.desk()
        pairing, phone = desk.pairing(), desk.played_phone()
        wrong_code, wrong = f"{secrets.randbelow(10**6):06}", secrets.token_hex(10)
        desk.secrets.codes.add(wrong_code)
        desk.secrets.credentials.add(wrong)
        login, password, code = pairing["login"], pairing["password"], pairing["code"]
        forged = phone.token[:-8] + phone.token[:-9:-1]
        shown = [f"Code {wrong_code}", basic(login, wrong), f"Code {password}", f"Code {phone.token}", f"Bearer {code}",
                 basic(login, code), basic(password, login), f"Bearer {password}", f"Bearer {forged}",
                 f"Basic {password}", password]  # fmt: skip
        body = {"name": "stranger", "simCards": SIMS}
        with self.stack.browser(address=_STRANGERS) as browser:
            for authorization in shown:
                headers = {"Authorization": authorization}
                assert browser.post(f"{BASE}/device", json=body, headers=headers).status_code in {401, 429}
                for path in ("device", "user/code", "message", f"device/{password}", f"user/{code}"):
                    answer = browser.get(f"{BASE}/{path}", headers=headers)
                    assert answer.status_code in {401, 404, 429}, f"{path}: {answer.text}"
                browser.get(f"{BASE}/message", params={"token": phone.token, "password": password, "code": code})
            tries = [
                browser.post(f"{BASE}/device", json=body, headers={"Authorization": shown[1]}) for _ in range(_TRIES)
            ]
            assert tries[-1].status_code == 429
            browser.post(f"{BASE}/device", json={"name": [password], "code": code}, headers={"Authorization": shown[0]})
        self._asks_for_another_code(desk, login, password, code)

    def _asks_for_another_code(self, desk: Desk, login: str, password: str, code: str) -> None:
        shown = {"Authorization": basic(login, password)}
        with self.stack.browser() as browser:
            renewed = browser.get(f"{BASE}/user/code", headers=shown)
            assert renewed.status_code == 200, renewed.text
            desk.secrets.codes.add(renewed.json()["code"])
            used = browser.post(f"{BASE}/device", json={"simCards": SIMS}, headers={"Authorization": f"Code {code}"})
            assert used.status_code == 401
        for path in (password, code, f"{login}/confirm", f"{password}/rotate-token"):
            desk.browser.get(f"/v1/devices/{path}")
            desk.browser.post(f"/v1/devices/{path}", json={"passphrase": password, "code": code})
        desk.browser.post("/v1/devices/pairings", json={"password": password, "confirms_by_itself": code})
        desk.looks()
        for name, status in ((password, 404), (code, 404), (login, 200)):
            assert desk.browser.delete(f"/v1/devices/pairings/{name}").status_code == status

    def finds_its_inbox_broken(self) -> None:
        """A key of the wrong type where a phone pulls and where messages are offered."""
        desk = self.desk()
        phone = desk.played_phone()
        assert phone.pull() == []
        with redis.Redis.from_url(self.stack.stores.redis_url) as client:
            raw: Any = client  # the library's types allow for both its clients
            (name,) = raw.scan_iter(f"*:device:{phone.id}", count=10_000)
            inbox = name.replace(b":device:", b":inbox:")
            raw.set(inbox, "no zset")
            assert phone.browser.get(f"{BASE}/message").status_code == 500
            sent = desk.send(desk.number(PHONES_THEN_FIRST))
            time.sleep(1)  # for a worker to meet it; whether one does is no part of what is asserted
            raw.delete(inbox)
        # By now it may have gone to the next sender.
        if message := phone.pull_one(patience_s=2):
            assert phone.says(message, "Sent") == 204
        desk.comes_to(sent["message_id"], "sent", "delivered")

    def all(self) -> list[Callable[[], None]]:
        return [
            self.delivers, self.encrypts, self.is_taken_over, self.fails_aloud, self.is_put_out, self.is_forgotten,
            self.is_a_stranger, self.finds_its_inbox_broken,
        ]  # fmt: skip

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Live through all flows at once, beside the body of a `with`."""
        with ThreadPoolExecutor(len(self.all())) as pool:
            lives = [pool.submit(flow) for flow in self.all()]
            yield
            for life in lives:
                life.result(2 * PATIENCE_S)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Ask for codes that go out through a phone, whatever happens, for the body of a `with`."""
        stop = threading.Event()

        def ask() -> None:
            with self.stack.browser(self.office.shop) as browser:
                while not stop.wait(_ASK_EVERY_S):
                    with contextlib.suppress(httpx.HTTPError):
                        browser.post("/v1/otp", json={"to": self.office.number()})

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
