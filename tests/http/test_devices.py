"""A client's phones over HTTP, the phone's side too: from a pairing to the end of a device, and whose it is."""

import base64
import itertools
from typing import Any

import httpx
import msgspec
import pytest

from otpsvc.devices.policy import Budget
from otpsvc.http.v1.wire_devices import BudgetPatch, DevicePatch, PairingAnswer
from otpsvc.ids import new_device_id
from tests.http.cable import Cable
from tests.http.service import Caller, Service, error_of, running, settings_for

PAIRING_FIELDS = {
    "success", "server_url", "api_url", "login", "password", "code", "expires_at", "code_expires_at", "qr_svg",
    "warning",
}  # fmt: skip
SIMS = [
    {"slotIndex": 0, "simNumber": 1, "phoneNumber": "********4567", "carrierName": "Orange", "iccid": "***1111"},
    {"slotIndex": 1, "simNumber": 2},
]
ACTIONS = ("confirm", "enable", "disable", "rotate-token")

_names = (f"Pixel {number}" for number in itertools.count(1))


def paired(service: Service, *, caller: Caller | None = None, **body: Any) -> dict[str, Any]:
    answer = service.post("/v1/devices/pairings", body, caller=caller)
    assert answer.status_code == 201, answer.text
    pairing: dict[str, Any] = answer.json()
    assert pairing.keys() == PAIRING_FIELDS
    return pairing


class Phone:
    """A phone that has registered with its login, as far as the calls on devices can tell."""

    def __init__(self, service: Service, pairing: dict[str, Any]) -> None:
        self.service = service
        self.pairing = pairing
        self.name = next(_names)
        answer = self.register()
        assert answer.status_code == 201, answer.text
        self.id, self.token = answer.json()["id"], answer.json()["token"]

    def register(self) -> httpx.Response:
        pair = f"{self.pairing['login']}:{self.pairing['password']}"
        return self._call("POST", "device", f"Basic {base64.b64encode(pair.encode()).decode()}")

    def pull(self, token: str | None = None) -> int:
        return self._call("GET", "message", f"Bearer {token or self.token}").status_code

    def _call(self, method: str, path: str, authorization: str) -> httpx.Response:
        body = {"name": self.name, "simCards": SIMS} if method == "POST" else None
        return self.service.http.request(
            method, f"/mobile/v1/{path}", json=body, headers={"Authorization": authorization}
        )


@pytest.fixture
def phone(service: Service) -> Phone:
    return Phone(service, paired(service))


def shown(service: Service, device_id: str, *, caller: Caller | None = None) -> dict[str, Any]:
    answer = service.get(f"/v1/devices/{device_id}", caller=caller)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body.pop("success") is True
    return body


def listed(service: Service, *, caller: Caller | None = None) -> dict[str, dict[str, Any]]:
    answer = service.get("/v1/devices", caller=caller)
    assert answer.status_code == 200, answer.text
    return {entry["device_id"]: entry for entry in answer.json()["devices"]}


def act(service: Service, device_id: str, action: str, *, caller: Caller | None = None) -> httpx.Response:
    return service.post(f"/v1/devices/{device_id}/{action}", content=b"", caller=caller)


def change(service: Service, device_id: str, *, caller: Caller | None = None, **body: Any) -> httpx.Response:
    headers = {**(caller or service.tester).headers, "Content-Type": "application/json"}
    return service.http.patch(f"/v1/devices/{device_id}", json=body, headers=headers)


# -- pairing


def test_a_pairing_tells_where_and_how(service: Service) -> None:
    pairing = paired(service)
    address = f"http://127.0.0.1:{service.port}"
    assert (pairing["server_url"], pairing["api_url"]) == (address, f"{address}/mobile/v1")
    assert "https" in pairing["warning"]
    assert len(pairing["code"]) == 6
    assert pairing["code_expires_at"] < pairing["expires_at"]
    assert pairing["qr_svg"].startswith("<svg")
    assert pairing["login"] != paired(service)["login"]


def test_a_pairing_names_the_public_address(own_stores: tuple[str, str]) -> None:
    settings = settings_for(*own_stores, OTPSVC_HTTP_PUBLIC_URL="https://otp.example.com")
    with running(settings) as public:
        pairing = paired(public)
    assert (pairing["server_url"], pairing["warning"]) == ("https://otp.example.com", None)
    assert pairing["api_url"] == "https://otp.example.com/mobile/v1"


@pytest.mark.usefixtures("unimpressed")
def test_an_address_that_is_none_is_refused(service: Service) -> None:
    for host in ("a b", "x/y", "<script>", "a@b"):
        answer = service.post("/v1/devices/pairings", {}, headers={"Host": host})
        error_of(answer, 400, "VALIDATION_ERROR")
        assert "qr_svg" not in answer.text


def test_a_pairing_needs_no_body_and_no_unknown_field(service: Service) -> None:
    bare = service.http.post("/v1/devices/pairings", headers=service.tester.headers)
    assert bare.status_code == 201
    assert bare.headers["cache-control"] == "no-store"
    error_of(service.post("/v1/devices/pairings", {"name": "x"}), 400, "VALIDATION_ERROR")


def test_what_opens_a_door_is_in_no_repr() -> None:
    fields = dict.fromkeys(PAIRING_FIELDS, "secret") | {"login": "phone-abcdef"}
    assert "secret" not in repr(PairingAnswer(**fields))  # type: ignore[arg-type]  # only its repr is looked at
    assert "secret" not in repr(DevicePatch(passphrase="secret"))


# -- the life of a device


def test_from_a_pairing_to_a_phone_that_may_send(service: Service, phone: Phone) -> None:
    entry = shown(service, phone.id)
    assert entry == listed(service)[phone.id]
    assert (entry["name"], entry["mode"], entry["status"]) == (phone.name, "test", "pending")
    assert entry["confirmed_at"] is None
    first, second = entry["sims"]
    assert first["phone_number"].endswith("4567")
    assert first["phone_number"].strip("*") == "4567"
    assert (first["carrier"], first["number"], first["messages_used"], first["recipients_used"]) == ("Orange", 1, 0, 0)
    assert (second["slot"], second["phone_number"], second["carrier"]) == (1, None, None)
    assert entry["budget"] == msgspec.to_builtins(Budget())
    for _ in range(2):
        answer = act(service, phone.id, "confirm")
        assert answer.json()["status"] == "active"
        assert answer.json()["confirmed_at"] is not None
    assert phone.pull() == 200
    entry = shown(service, phone.id)
    assert (entry["is_online"], entry["disconnect_reason"], entry["waiting"]) == (True, None, 0)
    assert entry["last_pulled_at"] is not None


def test_a_phone_may_be_confirmed_beforehand(service: Service) -> None:
    phone = Phone(service, paired(service, confirms_by_itself=True))
    assert shown(service, phone.id)["status"] == "active"


def test_a_phone_is_confirmed_as_it_was_seen_or_not_at_all(service: Service, phone: Phone) -> None:
    seen = shown(service, phone.id)["version"]
    phone.name = "Evil"
    assert phone.register().status_code == 201
    path = f"/v1/devices/{phone.id}/confirm"
    details = error_of(service.post(path, {"version": seen}), 409, "CONFLICT")["details"]
    assert details == {"status": "pending", "version": seen + 1}
    assert shown(service, phone.id)["status"] == "pending"
    unfit: list[Any] = [{"version": 0}, {"version": "1"}, {"name": "x"}, []]
    for body in unfit:
        error_of(service.post(path, body), 400, "VALIDATION_ERROR")
    for _ in range(2):
        answer = service.post(path, {"version": seen + 1}).json()
        assert (answer["status"], answer["name"]) == ("active", "Evil")


def test_an_open_pairing_is_listed_without_its_secrets_and_closed(service: Service) -> None:
    pairing, other = paired(service), paired(service)
    answer = service.get("/v1/devices/pairings")
    entries = {entry["login"]: entry for entry in answer.json()["pairings"]}
    assert {pairing["login"], other["login"]} <= entries.keys()
    entry = entries[pairing["login"]]
    assert entry.keys() == {"login", "created_at", "expires_at"}
    assert entry["expires_at"] == pairing["expires_at"]
    for secret in (pairing["password"], pairing["code"]):
        assert secret not in answer.text
    path = f"/v1/devices/pairings/{pairing['login']}"
    for caller in (service.liver, service.stranger):
        assert service.get("/v1/devices/pairings", caller=caller).json()["pairings"] == []
        error_of(service.delete(path, caller=caller), 404, "RESOURCE_NOT_FOUND")
    closed = {"success": True, "login": pairing["login"], "status": "closed"}
    assert service.delete(path).json() == closed
    error_of(service.delete(path), 404, "RESOURCE_NOT_FOUND")
    error_of(service.delete("/v1/devices/pairings/%00"), 404, "RESOURCE_NOT_FOUND")
    with pytest.raises(AssertionError, match="PAIRING_REFUSED"):
        Phone(service, pairing)
    Phone(service, other)
    error_of(service.delete(f"/v1/devices/pairings/{other['login']}"), 404, "RESOURCE_NOT_FOUND")


def test_nothing_that_opens_a_door_is_told_again(service: Service, phone: Phone) -> None:
    answers = [service.get("/v1/devices"), service.get(f"/v1/devices/{phone.id}"), act(service, phone.id, "confirm")]
    answers += [change(service, phone.id, passphrase="open sesame"), act(service, phone.id, "rotate-token")]
    for answer in answers:
        assert answer.status_code == 200
        for secret in (phone.token, "open sesame", *(phone.pairing[name] for name in ("login", "password", "code"))):
            assert secret not in answer.text


def test_a_phone_that_is_switched_off_stays_out_until_it_is_switched_on(service: Service, phone: Phone) -> None:
    act(service, phone.id, "confirm")
    assert phone.pull() == 200
    assert act(service, phone.id, "disable").json()["status"] == "disabled"
    assert (phone.pull(), phone.register().status_code) == (401, 401)
    error_of(act(service, phone.id, "confirm"), 409, "CONFLICT")
    assert act(service, phone.id, "enable").json()["status"] == "active"
    assert phone.pull() == 200
    again = phone.register().json()
    assert again["id"] == phone.id
    assert phone.pull(again["token"]) == 200


def test_a_token_that_was_rotated_is_worthless_and_the_login_gets_another(service: Service, phone: Phone) -> None:
    act(service, phone.id, "confirm")
    assert act(service, phone.id, "rotate-token").status_code == 200
    assert phone.pull() == 401
    again = phone.register().json()
    assert again["id"] == phone.id
    assert (phone.pull(again["token"]), phone.pull()) == (200, 401)


def test_a_deleted_phone_is_gone_for_good(service: Service, phone: Phone) -> None:
    act(service, phone.id, "confirm")
    answer = service.delete(f"/v1/devices/{phone.id}")
    assert answer.json() == {"success": True, "device_id": phone.id, "status": "deleted"}
    assert (phone.pull(), phone.register().status_code) == (401, 401)
    assert phone.id not in listed(service)
    error_of(service.get(f"/v1/devices/{phone.id}"), 404, "INVALID_DEVICE_ID")
    error_of(service.delete(f"/v1/devices/{phone.id}"), 404, "INVALID_DEVICE_ID")
    for action in ACTIONS:
        error_of(act(service, phone.id, action), 404, "INVALID_DEVICE_ID")


# -- changes


def test_absent_stays_and_null_takes_away(service: Service, phone: Phone) -> None:
    quiet = {"start": "22:00", "end": "07:00", "zone": "Europe/Rome"}
    budget = {"messages_per_window": 5, "quiet": quiet, "is_spare": True}
    changed = change(service, phone.id, name="Counter", budget=budget, passphrase="open sesame").json()
    assert (changed["name"], changed["has_passphrase"]) == ("Counter", True)
    assert changed["budget"] == {**msgspec.to_builtins(Budget()), **budget}
    # Nothing said, nothing changed.
    assert change(service, phone.id).json() == changed
    assert change(service, phone.id, budget={}).json()["budget"] == changed["budget"]
    awake = change(service, phone.id, budget={"quiet": None}).json()
    assert awake["budget"] == changed["budget"] | {"quiet": None}
    assert awake["has_passphrase"] is True
    bare = change(service, phone.id, budget=None, passphrase=None).json()
    assert (bare["name"], bare["has_passphrase"]) == ("Counter", False)
    assert bare["budget"] == msgspec.to_builtins(Budget())


@pytest.mark.usefixtures("unimpressed")
@pytest.mark.parametrize(
    "body",
    [
        {"name": None}, {"name": ""}, {"name": "  "}, {"name": "x" * 101}, {"name": "a\nb"}, {"name": 7},
        {"passphrase": ""}, {"passphrase": "x" * 129}, {"passphrase": "a\x00"}, {"status": "active"},
        {"budget": {"messages_per_window": 0}}, {"budget": {"messages_per_window": 10_001}},
        {"budget": {"window_s": 59}}, {"budget": {"recipients_per_day": None}}, {"budget": {"price": 1}},
        {"budget": {"quiet": {"start": "22:00"}}}, {"budget": {"quiet": {"start": "24:00", "end": "07:00"}}},
        {"budget": {"quiet": {"start": "22:00", "end": "07:00", "zone": "Mars/Olympus"}}},
    ],
)  # fmt: skip
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(
    service: Service, phone: Phone, body: dict[str, Any]
) -> None:
    before = shown(service, phone.id)
    answer = change(service, phone.id, **({"name": "New", "passphrase": "new"} | body))
    details = error_of(answer, 400, "VALIDATION_ERROR")["details"]
    assert details["reason"]
    assert shown(service, phone.id) == before


def test_the_bounds_of_a_change_are_those_of_a_budget() -> None:
    """They stand twice: here they stop a change before any part of it is made."""
    of_change = msgspec.json.schema(BudgetPatch)["$defs"]["BudgetPatch"]["properties"]
    of_budget = msgspec.json.schema(Budget)["$defs"]["Budget"]["properties"]
    assert of_change.keys() == of_budget.keys()
    for field in ("messages_per_window", "window_s", "recipients_per_day"):
        bounds = [{key: schema[field][key] for key in ("minimum", "maximum")} for schema in (of_change, of_budget)]
        assert bounds[0] == bounds[1], field


# -- whose it is


@pytest.mark.parametrize("other", ["stranger", "liver"])
def test_another_client_and_the_other_mode_neither_see_nor_touch_it(service: Service, phone: Phone, other: str) -> None:
    caller = getattr(service, other)
    act(service, phone.id, "confirm")
    before = shown(service, phone.id)
    assert phone.id not in listed(service, caller=caller)
    answers = [
        service.get(f"/v1/devices/{phone.id}", caller=caller),
        change(service, phone.id, caller=caller, name="x"),
    ]
    answers += [act(service, phone.id, action, caller=caller) for action in ACTIONS]
    answers += [service.delete(f"/v1/devices/{phone.id}", caller=caller)]
    unknown = service.get(f"/v1/devices/{new_device_id()}", caller=caller)
    for answer in answers:
        assert error_of(answer, 404, "INVALID_DEVICE_ID") | {"request_id": ""} == error_of(
            unknown, 404, "INVALID_DEVICE_ID"
        ) | {"request_id": ""}
    assert shown(service, phone.id) == before
    assert phone.pull() == 200


@pytest.mark.usefixtures("unimpressed")
@pytest.mark.parametrize("device_id", ["dev_", "dev_" + "i" * 26, "msg_00000000000000000000000000", "x" * 500, "%00"])
def test_an_id_that_is_none_looks_like_one_that_is_unknown(service: Service, device_id: str) -> None:
    error_of(service.get(f"/v1/devices/{device_id}"), 404, "INVALID_DEVICE_ID")
    error_of(change(service, device_id, name="x"), 404, "INVALID_DEVICE_ID")
    error_of(act(service, device_id, "confirm"), 404, "INVALID_DEVICE_ID")


def test_who_does_not_say_who_it_is_gets_nothing(service: Service, phone: Phone) -> None:
    nobody = Caller(service.tester.client_id, "")
    for answer in (
        service.get("/v1/devices", caller=nobody),
        service.post("/v1/devices/pairings", {}, caller=nobody),
        service.delete(f"/v1/devices/{phone.id}", caller=nobody),
    ):
        assert answer.status_code in (400, 401)
    assert phone.id in listed(service)


# -- while a store is away


def test_without_redis_the_list_says_what_it_does_not_know(wired: Service, redis_cable: Cable) -> None:
    phone = Phone(wired, paired(wired))
    redis_cable.cut()
    try:
        entry = shown(wired, phone.id)
        assert (entry["is_online"], entry["waiting"], entry["disconnect_reason"]) == (None, None, None)
        assert entry["sims"][0]["messages_used"] is None
        assert entry["name"] == phone.name
        # What must be true at once in every process is not promised.
        error_of(act(wired, phone.id, "disable"), 503, "SERVICE_UNAVAILABLE")
    finally:
        redis_cable.plug_in()
