"""Of an answer that may hold secrets only those are passed over that it is for."""

import json

from tests.leaks.dues import without_dues

PULL = "GET /mobile/v1/message 200"


def body(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def test_what_was_asked_for_is_cut_out() -> None:
    pairing = body(login="phone-abcdef", password="m7kq2wxe9abrtc", code="271828", server_url="http://a")
    assert without_dues("POST /v1/devices/pairings 201", pairing) == (
        b'{"login":"phone-abcdef",(its due),(its due),"server_url":"http://a"}'
    )
    message = body(message='your "code" 271828', textMessage={"text": "271828"}, phoneNumbers=["+447911123987"], id="m")
    assert without_dues(PULL, message) == b'{(its due),"textMessage":{(its due)},(its due),"id":"m"}'


def test_nothing_else_is() -> None:
    answer = body(password="m7kq2wxe9abrtc", error={"details": {"code": "271828", "token": "dt_"}})
    for call in ("GET /v1/devices/pairings 200", "POST /v1/devices/pairings 400", "POST /mobile/v1/device 401"):
        assert without_dues(call, answer) == answer
    assert b"dt_" in without_dues("POST /v1/devices/pairings 201", answer)
    sealed = body(message="271828", phoneNumbers=["+447911123987"], isEncrypted=True)
    assert without_dues(PULL, sealed) == sealed
