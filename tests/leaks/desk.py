"""A client with phones of its own, and what it does with them: pair, confirm, change, send a code, look."""

import secrets
import time
from typing import Any

from otpsvc.handset.link import Login
from otpsvc.handset.phone import Phone
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.wire import SimCard
from tests.leaks.flows import Flows
from tests.leaks.phones import Notebook
from tests.leaks.played_phone import PlayedPhone
from tests.leaks.stack import Stack, code_in
from tests.programs import wait_until

PHONES, PHONES_THEN_FIRST = "+33616", "+33617"
# Every call is searched for in the end: to look more often would cost more than it tells.
_LOOK_EVERY_S = 0.2

Body = dict[str, Any]


class Desk:
    """A client with phones of its own. `close` hangs up for it and for the phones that are played."""

    def __init__(self, flows: Flows) -> None:
        self.flows = flows
        self.stack: Stack = flows.stack
        self.secrets = flows.stack.park.secrets
        self.shop = flows.stack.shop()
        self.browser = flows.stack.browser(self.shop)
        self._played: list[PlayedPhone] = []

    def close(self) -> None:
        """Hang up."""
        for one in self._played:
            one.close()
        self.browser.close()

    def number(self, prefix: str = PHONES) -> str:
        """Give a number that nobody has used, which the careless sender takes without a word."""
        number = f"{prefix}{secrets.randbelow(10**4):04}{15 * secrets.randbelow(7):02}"
        if number in self.flows.numbers:
            return self.number(prefix)
        self.flows.numbers.add(number)
        return number

    def send(self, number: str = "", **headers: str) -> Body:
        """Ask for a code, which must be granted."""
        sent = self.browser.post("/v1/otp", json={"to": number or self.number()}, headers=headers)
        assert sent.status_code == 200, sent.text
        answer: Body = sent.json()
        return answer

    def code_of(self, message_id: str) -> str:
        """Wait for a message to arrive from a phone, and give the code in it."""
        park = self.stack.park
        wait_until(lambda: message_id in park.arrived(), f"{message_id} from a phone")
        return code_in(park.arrived()[message_id])

    def comes_to(self, message_id: str, *statuses: str) -> None:
        """Wait until the message has one of these statuses."""
        found: Body = {}

        def is_there() -> bool:
            found.update(self.browser.get(f"/v1/messages/{message_id}").json())
            time.sleep(0 if found["status"] in statuses else _LOOK_EVERY_S)
            return found["status"] in statuses

        wait_until(is_there, f"{message_id} to be {statuses}: {found}")

    def has_waiting(self, device_id: str) -> None:
        """Wait until a message lies in this phone's inbox."""
        self._shows(device_id, "waiting")

    def is_online(self, device_id: str) -> None:
        """Wait until the service takes this phone for one that is there: its stream is open a moment before."""
        self._shows(device_id, "is_online")

    def _shows(self, device_id: str, field: str) -> None:
        def is_there() -> bool:
            shown = bool(self.browser.get(f"/v1/devices/{device_id}").json()[field])
            time.sleep(0 if shown else _LOOK_EVERY_S)
            return shown

        wait_until(is_there, f"{device_id} to have {field}")

    def verify(self, otp_id: str, code: str) -> bool:
        """Guess a code."""
        answer = self.browser.post(f"/v1/otp/{otp_id}/verify", json={"code": code})
        return bool(answer.json().get("valid"))

    def pairing(self, *, confirms_by_itself: bool = True) -> Body:
        """Open a pairing; what it shows becomes a secret."""
        answer = self.browser.post("/v1/devices/pairings", json={"confirms_by_itself": confirms_by_itself})
        assert answer.status_code == 201, answer.text
        pairing: Body = answer.json()
        self.secrets.codes.add(pairing["code"])
        self.secrets.credentials.add(pairing["password"])
        return pairing

    def passphrase(self) -> str:
        """Make up a passphrase, which becomes a secret."""
        passphrase = " ".join(secrets.token_hex(4) for _ in range(3))
        self.secrets.credentials.add(passphrase)
        return passphrase

    def sims(self) -> tuple[SimCard, ...]:
        """A SIM of which its phone tells everything, against its habit."""
        number, iccid = self.number("+33618"), "8933" + "".join(secrets.choice("0123456789") for _ in range(15))
        self.secrets.numbers.add(number)
        self.secrets.codes.add(iccid)
        return (SimCard(slot_index=0, sim_number=1, phone_number=number, carrier_name="Orange F", iccid=iccid),)

    def phone(self, login: Login, **more: Any) -> tuple[SimulatedPhone, Notebook]:
        """Switch on a phone that registers, and wait until it is there."""
        phone, notebook = self.stack.park.phone(self.stack.url, login, sims=self.sims(), **more)
        wait_until(lambda: phone.is_connected, "a phone")
        self.is_online(phone.device_id)
        return phone, notebook

    def phone_by_login(self, **more: Any) -> tuple[SimulatedPhone, Notebook]:
        """Pair a phone by login and password, and switch it on."""
        pairing = self.pairing()
        return self.phone(Login(pairing["login"], pairing["password"]), **more)

    def broken_phone(self) -> Phone:
        """Pair and switch on a phone that fails and says too much."""
        pairing = self.pairing()
        phone = self.stack.park.broken_phone(
            self.stack.url, Login(pairing["login"], pairing["password"]), sims=self.sims()
        )
        wait_until(phone.connected.is_set, "a phone")
        self.is_online(phone.device_id)
        return phone

    def played_phone(self) -> PlayedPhone:
        """Pair a phone that is played by hand."""
        pairing = self.pairing()
        phone = PlayedPhone(self.stack, pairing["login"], pairing["password"])
        self._played.append(phone)
        return phone

    def change(self, device_id: str, **fields: Any) -> None:
        """Change a device."""
        assert self.browser.patch(f"/v1/devices/{device_id}", json=fields).status_code == 200

    def tell(self, device_id: str, word: str) -> None:
        """Confirm, disable, … a device."""
        answer = self.browser.post(f"/v1/devices/{device_id}/{word}")
        assert answer.status_code == 200, answer.text

    def looks(self, *device_ids: str) -> None:
        """Look at all phones and open pairings, and at some phones closely."""
        for path in ("devices", "devices/pairings"):
            assert self.browser.get(f"/v1/{path}").status_code == 200
        for device_id in device_ids:
            self.browser.get(f"/v1/devices/{device_id}")
