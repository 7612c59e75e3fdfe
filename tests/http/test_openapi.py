"""The description of the API says what the API does, and its page needs nobody else's files."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from otpsvc import __version__
from otpsvc.errors import CATALOGUE
from otpsvc.http.v1 import wire, wire_devices, wire_numbers
from otpsvc.ids import new_message_id
from tests.http.schemas import faults, resolve
from tests.http.service import Caller, Service, new_number, wrong
from tests.http.test_devices_described import BODIES as DEVICE_BODIES

OPERATIONS = {
    ("/v1/otp", "post"): wire.SendBody,
    ("/v1/sms/send-otp", "post"): wire.SendBody,
    ("/v1/otp/{otp_id}/verify", "post"): wire.VerifyBody,
    ("/v1/sms/verify-otp", "post"): wire.VerifyOtpBody,
    ("/v1/otp/{otp_id}/resend", "post"): wire.ResendBody,
    ("/v1/otp/{otp_id}", "get"): None,
    ("/v1/otp/{otp_id}", "delete"): None,
    ("/v1/messages/{message_id}", "get"): None,
    ("/v1/sms/status/{message_id}", "get"): None,
    ("/v1/numbers/forget", "post"): wire_numbers.ForgetBody,
    **DEVICE_BODIES,
}


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    answer = service.http.get("/docs/openapi.json")
    assert answer.status_code == 200
    assert "json" in answer.headers["content-type"]
    read: dict[str, Any] = answer.json()
    return read


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_it_is_a_whole_openapi_document(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"] == "otpsvc"
    assert document["info"]["version"] == __version__
    assert {(path, method) for path, method, _ in operations(document)} == set(OPERATIONS)
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for path, _, operation in operations(document):
        assert operation["summary"]
        assert operation["description"]
        assert operation["responses"]
        in_path = {entry["name"] for entry in operation.get("parameters", ()) if entry["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]


def test_its_paths_are_in_the_same_order_everywhere(document: dict[str, Any]) -> None:
    assert list(document["paths"]) == sorted(document["paths"])


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert len(found) > 5
    for reference in found:
        assert isinstance(resolve(document, reference), dict)
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}" in found, f"{name} is described and not used"


def test_every_operation_asks_for_both_headers(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    for _, _, operation in operations(document):
        (needed,) = operation["security"]
        named = {schemes[scheme]["name"] for scheme in needed}
        assert named == {"X-API-Key", "X-Client-ID"}
        assert all(schemes[scheme]["in"] == "header" for scheme in needed)


def test_the_bodies_are_those_that_are_read(document: dict[str, Any]) -> None:
    optional = {wire.ResendBody, wire_devices.PairBody, wire_devices.ConfirmBody}
    for path, method, operation in operations(document):
        struct_type = OPERATIONS[path, method]
        if struct_type is None:
            assert "requestBody" not in operation
            continue
        body = operation["requestBody"]
        schema = resolve(document, body["content"]["application/json"]["schema"]["$ref"])
        fields = msgspec.structs.fields(struct_type)
        assert set(schema["properties"]) == {field.name for field in fields}
        assert set(schema["required"]) == {field.name for field in fields if field.required}
        assert schema["additionalProperties"] is False
        assert body.get("required", False) is (struct_type not in optional)


def test_every_error_that_is_described_exists(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if status in {"200", "201"}:
                continue
            codes = response["description"].split(" or ")
            assert {CATALOGUE[code].status for code in codes} == {int(status)}
            assert len(set(codes)) == len(codes)


# -- the real answers


class Described:
    """Calls the service and holds each answer against what the document says of that operation."""

    def __init__(self, service: Service, document: dict[str, Any]) -> None:
        self.service = service
        self.document = document
        self.seen: set[tuple[str, str, str]] = set()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        otp_id: str = "",
        message_id: str = "",
        caller: Caller | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        given = {**(caller or self.service.tester).headers, **(headers or {})}
        content = None if body is None else msgspec.json.encode(body)
        if content is not None:
            given.setdefault("Content-Type", "application/json")
        address = path.format(otp_id=otp_id, message_id=message_id)
        answer = self.service.http.request(method, address, content=content, headers=given)
        operation = self.document["paths"][path][method]
        response = operation["responses"][str(answer.status_code)]
        media_type = answer.headers["content-type"]
        assert faults(self.document, response["content"][media_type]["schema"], answer.json()) == []
        assert set(response.get("headers", ())) <= {name.title().replace("Id", "ID") for name in answer.headers}
        if answer.status_code != 200 and "error" in answer.json():
            code = answer.json()["error"]["code"]
            assert code in response["description"].split(" or "), f"{method} {path} does not say that it answers {code}"
            self.seen.add((path, method, code))
        else:
            self.seen.add((path, method, str(answer.status_code)))
        return answer


def try_sends(described: Described, spelling: str) -> None:
    number = new_number()
    key = {"Idempotency-Key": spelling}
    described.call("post", spelling, {"to": number}, headers=key)
    described.call("post", spelling, {"to": number, "purpose": "login"}, headers=key)
    described.call("post", spelling, {"to": "nobody"})
    described.call("post", spelling, {"to": number, "template": "nothing"})
    described.call("post", spelling, {"to": number, "template": "{code}" + "x" * 1600})
    described.call("post", spelling, {})
    described.call("post", spelling, {"to": "x" * 20_000})
    described.call("post", spelling, {}, headers={"Content-Type": "text/plain"})
    for _ in range(2):
        described.call("post", spelling, {"to": number}, caller=described.service.stranger)
    for _ in range(10):
        described.call("post", spelling, {"to": number})
    described.call("post", spelling, {}, headers={"X-API-Key": ""})
    described.call("post", spelling, {}, headers={"X-API-Key": "x"})
    described.call("post", spelling, {}, headers={"X-Client-ID": "x"})
    described.call("post", spelling, {}, headers={"Accept": "application/problem+json"})


def try_verifies(described: Described, spelling: str) -> None:
    service = described.service

    def verify(otp_id: str, code: str, **more: Any) -> httpx.Response:
        headers = more.pop("headers", None)
        body = {"code": code, **more, **({"otp_id": otp_id} if "sms" in spelling else {})}
        return described.call("post", spelling, body, otp_id=otp_id, headers=headers)

    sent = described.call("post", "/v1/otp", {"to": new_number(), "metadata": {"a": [1]}})
    otp_id, code = sent.json()["otp_id"], service.code(sent)
    verify(otp_id, wrong(code), headers={"Idempotency-Key": "k"})
    verify(otp_id, code, headers={"Idempotency-Key": "k"})
    verify(otp_id, "x")
    verify(otp_id, code, to="x")
    verify(otp_id, code, to=new_number())
    assert verify(otp_id, code).json()["valid"] is True
    other = described.call("post", "/v1/otp", {"to": new_number()})
    for _ in range(3):
        assert verify(other.json()["otp_id"], wrong(service.code(other))).status_code == 200
    assert verify(other.json()["otp_id"], service.code(other)).status_code == 429


def try_the_other_calls(described: Described) -> None:
    one = "/v1/otp/{otp_id}"
    sent = described.call("post", "/v1/otp", {"to": new_number()})
    otp_id = sent.json()["otp_id"]
    described.call("get", one, otp_id=otp_id)
    for _ in range(6):
        described.call("post", f"{one}/resend", otp_id=otp_id)
    described.call("post", f"{one}/resend", {"session": ""}, otp_id=otp_id)
    described.call("delete", one, otp_id=otp_id)
    described.call("post", f"{one}/resend", otp_id=otp_id)
    done = described.call("post", "/v1/otp", {"to": new_number()})
    body = {"code": described.service.code(done)}
    described.call("post", f"{one}/verify", body, otp_id=done.json()["otp_id"])
    described.call("get", one, otp_id=done.json()["otp_id"])
    described.call("delete", one, otp_id=done.json()["otp_id"])
    for method in ("get", "delete"):
        described.call(method, one, otp_id="unknown")
        described.call(method, one, otp_id="unknown", headers={"X-API-Key": "x"})


def try_the_past(described: Described) -> None:
    """Look at an OTP and its message, living, past and forgotten; forget its number."""
    service, number = described.service, new_number()
    sent = described.call("post", "/v1/otp", {"to": number, "metadata": {"a": 1}})
    otp_id, message_id = sent.json()["otp_id"], sent.json()["message_id"]
    described.call("post", "/v1/otp/{otp_id}/verify", {"code": wrong(service.code(sent))}, otp_id=otp_id)
    service.history(otp_id, "otp.rejected")

    def look() -> None:
        assert described.call("get", "/v1/otp/{otp_id}", otp_id=otp_id).json()["history"]
        for spelling in ("/v1/messages/{message_id}", "/v1/sms/status/{message_id}"):
            described.call("get", spelling, message_id=message_id)
            described.call("get", spelling, message_id=new_message_id(partition=0).text)
            described.call("get", spelling, message_id=message_id, headers={"X-API-Key": ""})

    look()
    forget = "/v1/numbers/forget"
    for body in ({"to": number}, {"to": "nobody"}, {}, {"to": "x" * 20_000}):
        described.call("post", forget, body)
    described.call("post", forget, {}, headers={"Content-Type": "text/plain"})
    described.call("post", forget, {}, headers={"X-Client-ID": "x"})
    service.purge(otp_id, message_id)
    look()


def test_every_operation_answers_as_described(service: Service, document: dict[str, Any]) -> None:
    described = Described(service, document)
    for spelling in ("/v1/otp", "/v1/sms/send-otp"):
        try_sends(described, spelling)
    for spelling in ("/v1/otp/{otp_id}/verify", "/v1/sms/verify-otp"):
        try_verifies(described, spelling)
    try_the_other_calls(described)
    try_the_past(described)
    for path, method in OPERATIONS.keys() - DEVICE_BODIES.keys():  # those have a file of their own
        outcomes = {outcome for *where, outcome in described.seen if where == [path, method]}
        assert "200" in outcomes, (path, method)
        assert outcomes - {"200"}, (path, method)


# -- the page


def test_the_page_and_all_that_it_loads_come_from_us(service: Service) -> None:
    waiting, seen = ["/docs", "/docs/errors"], set()
    while waiting:
        path = waiting.pop()
        answer = service.http.get(path)
        seen.add(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert "unsafe-eval" not in policy
        assert "script-src 'self';" in policy
        if answer.headers["content-type"].startswith("text/html"):
            loads = re.findall(r'(?:src|href)="([^"]*)"', answer.text)
            assert all(re.fullmatch(r"/[^/].*", address) for address in loads)
            assert "<script>" not in answer.text
            waiting += [address for address in loads if address not in seen]
    assert {"/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/docs/assets/start.js"} <= seen


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("swagger-ui-bundle.js", "text/javascript"), ("start.js", "text/javascript"), ("swagger-ui.css", "text/css")],
)
def test_the_assets_have_their_types(service: Service, name: str, media_type: str) -> None:
    answer = service.http.get(f"/docs/assets/{name}")
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content


def test_the_start_script_reads_our_description(service: Service) -> None:
    assert "/docs/openapi.json" in service.http.get("/docs/assets/start.js").text
    assert "SwaggerUIBundle" in service.http.get("/docs/assets/swagger-ui-bundle.js").text
