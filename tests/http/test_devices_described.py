"""The description of the device calls says what they answer: each real answer is held against it."""

from typing import Any

import pytest

from otpsvc.http.v1 import wire_devices
from tests.http.schemas import faults, resolve
from tests.http.service import Caller, Service
from tests.http.test_devices import Phone, paired

ONE = "/v1/devices/{device_id}"
BODIES = {
    ("/v1/devices/pairings", "post"): wire_devices.PairBody,
    ("/v1/devices/pairings", "get"): None,
    ("/v1/devices/pairings/{login}", "delete"): None,
    ("/v1/devices", "get"): None,
    (ONE, "get"): None,
    (ONE, "patch"): wire_devices.DevicePatch,
    (ONE, "delete"): None,
    (f"{ONE}/confirm", "post"): wire_devices.ConfirmBody,
    (f"{ONE}/enable", "post"): None,
    (f"{ONE}/disable", "post"): None,
    (f"{ONE}/rotate-token", "post"): None,
}


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    read: dict[str, Any] = service.http.get("/docs/openapi.json").json()
    return read


class Held:
    """Calls, and holds each answer against what the document says of that call."""

    def __init__(self, service: Service, document: dict[str, Any]) -> None:
        self.service = service
        self.document = document
        self.done: set[tuple[str, str]] = set()
        self.refused: set[str] = set()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        device_id: str = "",
        login: str = "phone-x",
        caller: Caller | None = None,
    ) -> Any:
        given = (caller or self.service.tester).headers
        address = path.format(device_id=device_id, login=login)
        answer = self.service.http.request(method, address, json=body, headers=given)
        response = self.document["paths"][path][method]["responses"][str(answer.status_code)]
        schema = response["content"][answer.headers["content-type"]]["schema"]
        told = answer.json()
        assert faults(self.document, schema, told) == [], (method, path)
        if answer.is_success:
            self.done.add((path, method))
        else:
            code = told["error"]["code"]
            assert code in response["description"].split(" or "), f"{method} {path} does not say that it answers {code}"
            self.refused.add(code)
        for entry in told.get("devices", [told]):
            for inner, struct in (("sims", "SimEntry"), ("budget", "BudgetEntry")):
                for value in [entry[inner]] if inner == "budget" and inner in entry else entry.get(inner, []):
                    assert faults(self.document, self.document["components"]["schemas"][struct], value) == []
        return told


def test_every_call_answers_as_described(service: Service, document: dict[str, Any]) -> None:
    held = Held(service, document)
    opened = held.call("post", "/v1/devices/pairings")
    held.call("get", "/v1/devices/pairings")
    for _ in range(2):
        held.call("delete", "/v1/devices/pairings/{login}", login=opened["login"])
    held.call("post", "/v1/devices/pairings", {"confirms_by_itself": None})
    held.call("post", "/v1/devices/pairings", {"x": 1})
    device_id = Phone(service, paired(service)).id
    held.call("post", f"{ONE}/confirm", {"version": 99}, device_id=device_id)
    held.call("post", f"{ONE}/confirm", {"version": 0}, device_id=device_id)
    for action in ("confirm", "disable", "confirm", "enable", "rotate-token"):
        held.call("post", f"{ONE}/{action}", device_id=device_id)
    held.call("patch", ONE, {"name": "x", "passphrase": "y", "budget": {"is_spare": True}}, device_id=device_id)
    held.call("patch", ONE, {"name": None}, device_id=device_id)
    held.call("get", "/v1/devices")
    held.call("get", ONE, device_id=device_id)
    held.call("delete", ONE, device_id=device_id)
    nobody = Caller(service.tester.client_id, "x")
    for path, method in BODIES:
        held.call(method, path, {} if method == "patch" else None, device_id=device_id, caller=nobody)
        if "device_id" in path:
            held.call(method, path, {} if method == "patch" else None, device_id=device_id)
    assert held.done == set(BODIES)
    assert {"CONFLICT", "INVALID_DEVICE_ID", "VALIDATION_ERROR", "INVALID_API_KEY"} <= held.refused


def test_all_device_calls_are_described_with_their_bodies(document: dict[str, Any]) -> None:
    found = {
        (path, method): operation
        for path, item in document["paths"].items()
        if path.startswith("/v1/devices")
        for method, operation in item.items()
    }
    assert found.keys() == BODIES.keys()
    for where, operation in found.items():
        assert operation["summary"]
        assert operation["description"]
        struct = BODIES[where]
        if struct is None:
            assert "requestBody" not in operation
            continue
        schema = resolve(document, operation["requestBody"]["content"]["application/json"]["schema"]["$ref"])
        assert set(schema["properties"]) == set(struct.__struct_fields__)
        assert schema["additionalProperties"] is False
    assert "201" in found["/v1/devices/pairings", "post"]["responses"]


def test_the_phones_own_calls_are_no_part_of_the_api(document: dict[str, Any]) -> None:
    assert [path for path in document["paths"] if path.startswith("/mobile")] == []
