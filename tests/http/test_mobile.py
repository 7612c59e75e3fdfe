"""`/mobile/v1`: how a phone gets in, what is kept of what it says, and who stays out."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.http.mobile_phone import Answer, basic
from tests.http.mobile_service import act, new_phone, paired, pairing, phone_settings, serving, shown
from tests.http.service import Service

pytestmark = pytest.mark.usefixtures("unimpressed")

DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")
TOKEN_CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/device", None),
    ("PATCH", "/device", {"id": "dev_x"}),
    ("GET", "/message", None),
    ("GET", "/messages", None),
    ("PATCH", "/message", []),
    ("PATCH", "/messages", []),
    ("GET", "/events", None),
    ("GET", "/webhooks", None),
    ("GET", "/settings", None),
    ("PATCH", "/user/password", {"currentPassword": "a", "newPassword": "b"}),
]


@pytest.fixture(scope="module")
def service(own_stores: tuple[str, str]) -> Iterator[Service]:
    with serving(phone_settings(*own_stores, OTPSVC_HTTP_BODY_TIMEOUT_S=0.4)) as started:
        yield started


def login_of(opened: dict[str, Any]) -> str:
    return basic(opened["login"], opened["password"])


def refusal(answer: Answer) -> dict[str, Any]:
    """What tells one refusal from another."""
    error: dict[str, Any] = answer.json()["error"]
    return {"status": answer.status} | {name: error[name] for name in ("code", "message", "details", "retryable")}


# -- registering


async def test_a_phone_registers_with_the_code_and_gets_a_password_of_its_own(service: Service) -> None:
    opened, phone = pairing(service), new_phone(service)
    answer = await phone.register(f"Code {opened['code']}")
    assert answer.status == 201
    assert answer.json().keys() == {"id", "token", "login", "password"}
    assert answer.json()["login"] == opened["login"]
    assert answer.headers["cache-control"] == "no-store"
    assert shown(service, phone)["status"] == "active"
    again = await phone.register(basic(opened["login"], answer.json()["password"]))
    assert again.status == 201


async def test_a_code_lets_one_phone_in(service: Service) -> None:
    opened, first, second = pairing(service), new_phone(service), new_phone(service)
    answers = [await phone.register(f"Code {opened['code']}") for phone in (first, second)]
    assert [answer.status for answer in answers] == [201, 401]
    assert answers[1].code == "PAIRING_REFUSED"


async def test_a_phone_registers_with_its_login(service: Service) -> None:
    opened, phone = pairing(service), new_phone(service)
    answer = await phone.register(login_of(opened))
    assert answer.status == 201
    assert answer.json().keys() == {"id", "token", "login"}
    assert (await phone.call("GET", "/message")).json() == []


async def test_a_phone_that_comes_again_keeps_its_id_and_its_old_token_dies(service: Service) -> None:
    opened, phone = pairing(service), new_phone(service)
    await phone.register(login_of(opened))
    first_id, first_token = phone.id, phone.authorization
    assert (await phone.register(login_of(opened))).status == 201
    assert (phone.id, phone.authorization == first_token) == (first_id, False)
    assert (await phone.call("GET", "/message", authorization=first_token)).code == "DEVICE_UNAUTHORISED"
    assert (await phone.call("GET", "/message")).status == 200


async def test_whatever_opens_no_door_looks_the_same(service: Service) -> None:
    opened = pairing(service)
    login, password = opened["login"], opened["password"]
    unknown = "phone-zzzzzz" if login != "phone-zzzzzz" else "phone-yyyyyy"
    wrong = [
        "",
        "Bearer secret",
        "Bearer",
        f"Digest {login}",
        "Basic",
        "Basic !!!",
        "Basic éé",
        "Basic /w==",
        "Basic " + "A" * 5000,
        "Basic cGhvbmU=",
        basic("", password),
        basic(login + "\x00", password),
        basic("é", password),
        basic(login, ""),
        basic(login, password + "x"),
        basic(login, "x" * 10_000),
        basic(unknown, password),
        "Code",
        "Code 12345",
        "Code abcdef",
        "Code " + "1" * 5000,
        f"Code {(int(opened['code']) + 1) % 1_000_000:06d}",
    ]
    answers = [await new_phone(service).register(each) for each in wrong]
    assert {answer.status for answer in answers} == {401}
    assert all(refusal(answer) == refusal(answers[0]) for answer in answers)
    assert answers[0].code == "PAIRING_REFUSED"
    assert (await new_phone(service).register(login_of(opened))).status == 201


async def test_who_tries_too_often_is_told_to_wait(service: Service) -> None:
    phone = new_phone(service)
    answers = [await phone.register(basic("phone-wwwwww", "wrong")) for _ in range(11)]
    assert [answer.status for answer in answers] == [401] * 10 + [429]
    assert answers[-1].code == "RATE_LIMIT_EXCEEDED"
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_a_second_phone_cannot_use_the_login_of_the_first(service: Service) -> None:
    opened = pairing(service)
    first, second = new_phone(service), new_phone(service)
    await first.register(login_of(opened))
    await second.register(login_of(opened), name="Another")
    # It is the same device, and who had it before is out.
    assert second.id == first.id
    assert (await first.call("GET", "/message")).status == 401


# -- what is kept of what it says


async def test_what_a_phone_says_is_cut_cleaned_and_masked(service: Service) -> None:
    sims = [
        {"slotIndex": 0, "simNumber": 1, "phoneNumber": "+33612345678", "carrierName": "c" * 300, "iccid": "8933" * 5},
        {"slotIndex": 1, "simNumber": 2, "phoneNumber": "*******4321", "carrierName": "\x00\x1b[31m", "iccid": None},
        {"slotIndex": 2, "simNumber": 3, "phoneNumber": "1234", "unknown": {"a": [1]}},
        {"slotIndex": 3, "simNumber": 4, "phoneNumber": "9" * 5000, "iccid": ""},
        {"slotIndex": 4, "simNumber": 5},
    ]
    phone = await paired(service, name="\x1b[31mPixel\x00" + "n" * 300, simCards=sims, pushToken="x", more=1)
    device = shown(service, phone)
    assert len(device["name"]) == 100
    assert device["name"].isprintable()
    kept = [(sim["slot"], sim["number"], sim["phone_number"], sim["carrier"], sim["iccid"]) for sim in device["sims"]]
    assert kept == [
        (0, 1, "********5678", "c" * 100, "*" * 16 + "8933"),
        (1, 2, "*******4321", "[31m", None),
        (2, 3, "****", None, None),
        (3, 4, "*" * 36 + "9999", None, None),
    ]


ODD = {
    "nothing": {},
    "nulls": {"name": None, "pushToken": None, "simCards": None},
    "an empty name": {"name": "\u0000 ", "simCards": []},
    "SIMs that no message could name": {
        "name": "x",
        "simCards": [{"slotIndex": -1, "simNumber": 1}, {"slotIndex": 10**30, "simNumber": -5}],
    },
    "one slot twice": {"name": "x", "simCards": [{"slotIndex": 0, "simNumber": 1}, {"slotIndex": 0, "simNumber": 2}]},
    "other scripts": {"name": "Телефон 📱", "simCards": [{"slotIndex": 0, "simNumber": 1, "carrierName": "Мегафон"}]},
}


@pytest.mark.parametrize("kind", ODD)
async def test_an_odd_phone_is_let_in(service: Service, kind: str) -> None:
    opened, phone = pairing(service), new_phone(service)
    answer = await phone.call("POST", "/device", ODD[kind], authorization=login_of(opened))
    assert answer.status == 201, answer.body
    phone.id = answer.json()["id"]
    device = shown(service, phone)
    assert device["name"]
    assert len(device["sims"]) <= 1


async def test_a_phone_tells_its_sims_anew(service: Service) -> None:
    phone = await paired(service, simCards=[{"slotIndex": 0, "simNumber": 1, "carrierName": "Old"}])
    sims = [{"slotIndex": 1, "simNumber": 2, "carrierName": "New", "phoneNumber": "+33687654321"}]
    answer = await phone.call("PATCH", "/device", {"id": phone.id, "pushToken": "x", "simCards": sims})
    assert (answer.status, answer.body) == (204, b"")
    assert (await phone.call("PATCH", "/device", {"id": phone.id})).status == 204
    device = shown(service, phone)
    assert device["name"] == "Pixel"
    assert [(sim["slot"], sim["carrier"], sim["phone_number"]) for sim in device["sims"]] == [
        (1, "New", "********4321")
    ]


async def test_another_devices_id_is_forbidden(service: Service) -> None:
    phone, other = await paired(service), await paired(service)
    for device_id in (other.id, "dev_x", ""):
        sims = [{"slotIndex": 0, "simNumber": 1, "carrierName": "Orange"}]
        answer = await phone.call("PATCH", "/device", {"id": device_id, "simCards": sims})
        assert (answer.status, answer.code) == (403, "INSUFFICIENT_SCOPE")
    for one in (other, phone):
        assert [sim["carrier"] for sim in shown(service, one)["sims"]] == [None]


# -- what it may ask


async def test_anybody_may_ask_for_his_own_address(service: Service) -> None:
    nobody = new_phone(service)
    answer = await nobody.call("GET", "/device")
    assert (answer.status, answer.json()) == (200, {"externalIp": nobody.address})


async def test_a_phone_sees_itself(service: Service) -> None:
    phone = await paired(service)
    answer = (await phone.call("GET", "/device")).json()
    device = answer.pop("device")
    assert answer == {"externalIp": phone.address}
    assert (device["id"], device["name"]) == (phone.id, "Pixel")
    assert DATE.fullmatch(device["createdAt"])


async def test_it_is_asked_to_call_nobody_and_to_change_nothing(service: Service) -> None:
    phone = await paired(service)
    assert (await phone.call("GET", "/webhooks")).json() == []
    assert (await phone.call("GET", "/settings")).json() == {}


async def test_a_login_asks_for_another_code(service: Service) -> None:
    opened, phone = pairing(service), new_phone(service)
    answer = await phone.call("GET", "/user/code", authorization=login_of(opened))
    assert answer.status == 200
    assert answer.json().keys() == {"code", "validUntil"}
    assert DATE.fullmatch(answer.json()["validUntil"])
    assert (await phone.register(f"Code {answer.json()['code']}")).status == 201
    # Nothing opens the door a second time.
    used = await phone.call("GET", "/user/code", authorization=login_of(opened))
    assert (used.status, used.code) == (401, "PAIRING_REFUSED")
    for wrong in ("", phone.authorization, f"Code {opened['code']}"):
        assert (await phone.call("GET", "/user/code", authorization=wrong)).code == "PAIRING_REFUSED"


async def test_a_phone_changes_its_password(service: Service) -> None:
    phone = await paired(service)
    login, old, new = phone.registered["login"], phone.registered["password"], "correct horse battery"

    async def change(current: str, wanted: str) -> Answer:
        return await phone.call("PATCH", "/user/password", {"currentPassword": current, "newPassword": wanted})

    refused = await change("not it", new)
    assert (refused.status, refused.code) == (401, "PAIRING_REFUSED")
    assert (await change(old, "short")).code == "VALIDATION_ERROR"
    assert (await change(old, new)).status == 204
    assert (await phone.call("GET", "/message")).status == 200
    assert (await new_phone(service).register(basic(login, old))).status == 401
    assert (await new_phone(service).register(basic(login, new))).status == 201


# -- who stays out


@pytest.mark.parametrize("word", ["disable", "delete", "rotate-token"])
async def test_a_device_that_is_out_stays_out_of_every_call(service: Service, word: str) -> None:
    phone = await paired(service)
    for method, path, body in TOKEN_CALLS:
        if path not in ("/events", "/user/password") and method == "GET":
            assert (await phone.call(method, path, body)).status == 200
    act(service, phone, word)
    for method, path, body in TOKEN_CALLS:
        answer = await phone.call(method, path, body)
        assert (answer.status, answer.code) == (401, "DEVICE_UNAUTHORISED"), (method, path)
    again = await phone.register(basic(phone.registered["login"], phone.registered["password"]))
    assert again.status == (201 if word == "rotate-token" else 401)


async def test_a_device_that_is_enabled_again_registers_again(service: Service) -> None:
    phone = await paired(service)
    act(service, phone, "disable")
    act(service, phone, "enable")
    assert (await phone.register(basic(phone.registered["login"], phone.registered["password"]))).status == 201
    assert (await phone.call("GET", "/message")).status == 200


async def test_no_other_token_gets_in(service: Service) -> None:
    phone, stranger = await paired(service), new_phone(service)
    token = phone.registered["token"]
    wrong = [
        "Bearer",
        "Bearer x",
        f"Basic {token}",
        f"Bearer {token}x",
        f"Bearer {token[:-1]}",
        f"Bearer {token[:-1]}{'0' if token[-1] != '0' else '1'}",
        f"Bearer {token.upper()}",
        "Bearer dt_" + "0" * 60,
        "Bearer " + "x" * 10_000,
        basic(phone.registered["login"], phone.registered["password"]),
    ]
    for authorization in wrong:
        for method, path, body in TOKEN_CALLS:
            answer = await stranger.call(method, path, body, authorization=authorization)
            assert (answer.status, answer.code) == (401, "DEVICE_UNAUTHORISED"), (method, path)
    for method, path, body in TOKEN_CALLS[1:]:
        assert (await stranger.call(method, path, body)).status == 401


async def test_a_phone_that_nobody_has_confirmed_may_wait(service: Service) -> None:
    opened, phone = pairing(service, confirms_by_itself=False), new_phone(service)
    await phone.register(login_of(opened))
    assert shown(service, phone)["status"] == "pending"
    assert (await phone.call("GET", "/message")).json() == []
    async with phone.listen() as line:
        assert line.status == 200
    act(service, phone, "confirm")
    assert shown(service, phone)["status"] == "active"
    assert (await phone.call("GET", "/message")).status == 200
