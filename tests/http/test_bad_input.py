"""Whatever body is sent, it is answered in our own shape, without a 5xx or a traceback, and changes nothing."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otpsvc.ids import new_otp_id
from tests.http.attacks import BODIES, FORGET, RESEND, SEND, VERIFY, VERIFY_OTP, good_body, path_of, refused
from tests.http.service import Service, error_of, new_number

pytestmark = pytest.mark.usefixtures("unimpressed")

VALUES: dict[str, Any] = {
    "null": None, "true": True, "number": 5, "fraction": 6.5, "text": "text", "array": [], "object": {}, "negative": -1,
    "zero": 0, "huge": 1 << 200, "almost": 6.0, "empty": "", "digits": "6",
}  # fmt: skip
NUMBER = b'"to":"+33612345678"'


BROKEN = {
    "nothing": b"", "space": b" ", "half": b'{"to":', "open": b"{", "word": b"hello",
    "single quotes": b"{'to': 'x'}",
    "comma": b'{"to":"+33612345678",}', "comment": b"{" + NUMBER + b"} // x", "two": b"{" + NUMBER + b"}{}",
    "NaN": b'{"metadata":{"a":NaN}}',
    "infinity": b'{"metadata":{"a":-Infinity}}', "hex": b'{"length":0x6}', "leading zero": b'{"length":06}',
    "UTF-8": b'{"to":"\xff\xfe"}', "overlong": b'{"to":"\xc0\xaf"}', "BOM": b"\xef\xbb\xbf{" + NUMBER + b"}",
    "UTF-16": '{"to":"+33612345678"}'.encode("utf-16"), "lone surrogate": b'{"to":"\\ud800"}',
    "half a pair": b'{"to":"\\udc00\\ud800"}', "surrogate as bytes": b'{"to":"\xed\xa0\x80"}', "NUL": b"\x00",
    "raw NUL": b'{"to":"\x00"}', "raw line": b'{"to":"a\nb"}', "form": b"to=%2B33612345678",
    "gzip": b"\x1f\x8b\x08\x00",
}  # fmt: skip


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
def test_what_is_not_json(service: Service, pending: str, operation: str) -> None:
    for name, body in BROKEN.items():
        if operation == RESEND and not body:
            continue  # a resend needs no body
        error = refused(service.post(path_of(operation, pending), content=body))
        # Another operation may see first that it has no such field.
        assert error["code"] == "INVALID_JSON" or (operation != SEND and error["code"] == "VALIDATION_ERROR"), name


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
@pytest.mark.parametrize("body", [None, [], "text", 1, True, [{"to": "+33612345678"}]])
def test_what_is_no_object(service: Service, pending: str, operation: str, body: Any) -> None:
    error_of(service.post(path_of(operation, pending), body), 400, "VALIDATION_ERROR")


def wrong_values() -> list[Any]:
    """Every field of every body with every value that its type does not take."""
    cases = []
    for operation, struct_type in BODIES.items():
        for field in msgspec.structs.fields(struct_type):
            for name, value in VALUES.items():
                try:
                    msgspec.convert(value, field.type)
                except msgspec.ValidationError:
                    cases.append(pytest.param(operation, field.name, value, id=f"{operation}-{field.name}-{name}"))
    return cases


@pytest.mark.usefixtures("unchanged")
def test_every_field_with_every_wrong_type(service: Service, pending: str) -> None:
    cases = wrong_values()
    assert len(cases) > 100
    for case in cases:
        operation, field, value = case.values
        answer = service.post(path_of(operation, pending), {**good_body(operation, pending), field: value})
        error = error_of(answer, 400, "VALIDATION_ERROR")
        assert error["details"]["field"] == field, case.id
        assert error["details"]["reason"], case.id


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
def test_fields_that_do_not_exist_or_are_missing(service: Service, pending: str, operation: str) -> None:
    path, good = path_of(operation, pending), good_body(operation, pending)
    for unknown in ("To", "to ", "code_lenght", "__class__", "é", "a`b", "x" * 5000, "success"):
        details = error_of(service.post(path, {**good, unknown: 1}), 400, "VALIDATION_ERROR")["details"]
        assert details["field"] == unknown
    for field in msgspec.structs.fields(BODIES[operation]):
        if field.required:
            lacking = {name: value for name, value in good.items() if name != field.name}
            details = error_of(service.post(path, lacking), 400, "VALIDATION_ERROR")["details"]
            assert details["field"] == field.name


ABSURD_SENDS: list[tuple[str, bytes, str]] = [
    ("VALIDATION_ERROR", b'{%s,"length":0}', "code_length"),
    ("VALIDATION_ERROR", b'{%s,"length":3}', "code_length"),
    ("VALIDATION_ERROR", b'{%s,"code_length":11}', "code_length"),
    ("VALIDATION_ERROR", b'{%s,"code_length":-6}', "code_length"),
    ("VALIDATION_ERROR", b'{%s,"code_length":' + b"9" * 5000 + b"}", "code_length"),
    ("VALIDATION_ERROR", b'{%s,"code_length":1e400}', "code_length"),
    ("VALIDATION_ERROR", b'{%s,"ttl_s":59}', "ttl_s"),
    ("VALIDATION_ERROR", b'{%s,"expiry":1801}', "ttl_s"),
    ("VALIDATION_ERROR", b'{%s,"expiry_minutes":31}', "ttl_s"),
    ("VALIDATION_ERROR", b'{%s,"expiry_minutes":-5}', "ttl_s"),
    ("VALIDATION_ERROR", b'{%s,"expiry_minutes":' + b"9" * 40 + b"}", "ttl_s"),
    ("VALIDATION_ERROR", b'{%s,"metadata":{"a":1e400}}', "metadata[...]"),
    ("VALIDATION_ERROR", b'{%s,"metadata":{"a":"' + b"x" * 1024 + b'"}}', "metadata"),
    ("VALIDATION_ERROR", b'{%s,"purpose":"Login"}', "purpose"),
    ("VALIDATION_ERROR", b'{%s,"purpose":""}', "purpose"),
    ("VALIDATION_ERROR", b'{%s,"purpose":"a:b"}', "purpose"),
    ("VALIDATION_ERROR", b'{%s,"purpose":"login\\n"}', "purpose"),
    ("VALIDATION_ERROR", b'{%s,"purpose":"' + b"a" * 33 + b'"}', "purpose"),
    ("VALIDATION_ERROR", b'{%s,"session":""}', "session"),
    ("VALIDATION_ERROR", b'{%s,"session":"' + b"s" * 129 + b'"}', "session"),
    ("VALIDATION_ERROR", b'{%s,"locale":"../../etc/passwd"}', "locale"),
    ("VALIDATION_ERROR", b'{%s,"locale":"fr\\n"}', "locale"),
    ("VALIDATION_ERROR", b'{%s,"end_user_ip":"localhost"}', "end_user_ip"),
    ("VALIDATION_ERROR", b'{%s,"end_user_ip":"127.0.0.1/8"}', "end_user_ip"),
    ("VALIDATION_ERROR", b'{%s,"end_user_ip":"999.1.1.1"}', "end_user_ip"),
    ("VALIDATION_ERROR", b'{%s,"webhook_url":"http://169.254.169.254/"}', "webhook_url"),
    ("INVALID_PHONE_NUMBER", b'{"to":""}', "to"),
    ("INVALID_PHONE_NUMBER", b'{"to":"+"}', "to"),
    ("INVALID_PHONE_NUMBER", b'{"to":"0612345678"}', "to"),
    ("INVALID_PHONE_NUMBER", b'{"to":"+33612345678 ext 4"}', "to"),
    ("INVALID_PHONE_NUMBER", b'{"to":"+336\\u000012345678"}', "to"),
    ("INVALID_PHONE_NUMBER", b'{"to":"' + b"9" * 10_000 + b'"}', "to"),
    ("INVALID_PHONE_NUMBER", b'{"to":"+33612345678,+33612345679"}', "to"),
    ("INVALID_TEMPLATE", b'{%s,"template":"\\u0000{{code}}"}', "template"),
    ("INVALID_TEMPLATE", b'{%s,"template":"nothing"}', "template"),
    ("MESSAGE_TOO_LONG", b'{%s,"template":"{{code}}' + b"x" * 5000 + b'"}', "template"),
]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("path", ["/v1/otp", "/v1/sms/send-otp"])
def test_absurd_sends(service: Service, path: str) -> None:
    for code, body, field in ABSURD_SENDS:
        answer = service.post(path, content=body.replace(b"%s", NUMBER))
        assert error_of(answer, 400, code)["details"]["field"] == field, body[:80]


@pytest.mark.usefixtures("unchanged")
def test_absurd_numbers_to_forget(service: Service) -> None:
    numbers = [body for code, body, _ in ABSURD_SENDS if code == "INVALID_PHONE_NUMBER"]
    assert len(numbers) > 5
    for body in numbers:
        answer = service.post("/v1/numbers/forget", content=body)
        assert error_of(answer, 400, "INVALID_PHONE_NUMBER")["details"]["field"] == "to", body[:80]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("to", ["+33899123456", "+1900 555 0123", "+44 9098 790000"])
def test_numbers_that_earn_their_owner_money_are_refused(service: Service, to: str) -> None:
    details = error_of(service.send(to), 400, "INVALID_PHONE_NUMBER")["details"]
    assert details["reason"] in {"not_allowed_type", "not_valid"}


def test_no_answer_repeats_a_value_that_was_sent(service: Service) -> None:
    secret = "s3cret-6f1d"
    for field in ("to", "purpose", "template", "locale", "end_user_ip", "webhook_url", "code_length", "metadata"):
        answer = service.post("/v1/otp", {"to": "+33612345678", field: secret})
        refused(answer)
        assert secret not in answer.text
    for body in ({"to": secret}, {"to": "+33612345678", "x": secret}):
        answer = service.post("/v1/numbers/forget", body)
        refused(answer)
        assert secret not in answer.text


@pytest.mark.usefixtures("unchanged")
def test_nesting_of_any_depth(service: Service) -> None:
    """At the parser's own limit too, where a value can be read that could not be written again."""
    for depth in [*range(100, 1100, 45), *range(960, 1010, 3), 3000, 8000]:
        for opens, closes in ((b"[", b"]"), (b'{"a":', b"}")):
            body = b'{"to":"nobody","metadata":{"a":' + opens * depth + b"1" + closes * depth + b"}}"
            refused(service.post("/v1/otp", content=body))
            refused(service.post("/v1/otp", content=opens * depth))


def test_metadata_that_was_taken_comes_back(service: Service) -> None:
    kept: list[dict[str, Any]] = [{"a": 2**64 - 1, "b": -(2**63), "c": 0.1}, {"": {"é\u0000\U0001f600": [[]]}}, {}]
    for metadata in kept:
        sent = service.send(metadata=metadata)
        assert service.get(f"/v1/otp/{sent.json()['otp_id']}").json()["metadata"] == metadata


def test_integers_beyond_64_bits_in_metadata_are_no_fault(service: Service) -> None:
    sent = service.send(metadata={"a": 1 << 200})
    assert sent.status_code in {200, 400}
    if sent.status_code == 200:
        seen = service.get(f"/v1/otp/{sent.json()['otp_id']}")
        assert seen.json()["metadata"] == {"a": float(1 << 200)}


def test_of_two_fields_of_one_name_the_same_one_counts_everywhere(service: Service) -> None:
    first, second = new_number(), new_number()
    sent = service.post("/v1/otp", content=f'{{"to":"{first}","to":"{second}"}}'.encode())
    if sent.status_code == 400:
        return
    carried = service.message(sent.json()["message_id"])["to"]
    assert sent.json()["to"][-4:] == carried[-4:]
    assert not service.http.get("/dev/inbox.json", params={"to": first if carried == second else second}).json()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
field_names = st.sampled_from(
    sorted({field.name for struct_type in BODIES.values() for field in msgspec.structs.fields(struct_type)})
)
any_bytes = st.binary(max_size=60)
any_json = st.dictionaries(field_names | st.text(max_size=6), json_values, max_size=5).map(
    lambda body: json.dumps(body).encode()
)
cut_json = st.tuples(any_json, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    operation=st.sampled_from([SEND, VERIFY, VERIFY_OTP, RESEND, FORGET]),
    body=any_json | any_bytes | cut_json,
    accept=st.sampled_from(["application/json", "application/problem+json"]),
)
def test_any_body_at_all(service: Service, operation: str, body: bytes, accept: str) -> None:
    """On an id that is nobody's, so that even an accepted body can only end in a refusal; or a valid number."""
    unknown = new_otp_id(partition=0, slot=b"\x00\x00", profile=1).text
    answer = service.post(path_of(operation, unknown), content=body, headers={"Accept": accept})
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert operation in {SEND, FORGET}
    elif accept == "application/json":
        refused(answer)
    else:
        assert answer.headers["content-type"] == accept
        assert answer.json()["status"] == answer.status_code
