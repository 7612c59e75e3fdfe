"""Forgetting a number over HTTP: what is erased, what stays, and whose."""

from typing import Any

import pytest

from tests.http.cable import Cable
from tests.http.service import Caller, Service, error_of, new_number


def forget(service: Service, to: str, *, caller: Caller | None = None) -> dict[str, Any]:
    answer = service.post("/v1/numbers/forget", {"to": to}, caller=caller)
    assert answer.status_code == 200, answer.text
    assert to not in answer.text
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"success", "otps", "messages"}
    assert body["success"] is True
    return body


def sent(service: Service, number: str, *, caller: Caller | None = None, **body: Any) -> dict[str, Any]:
    answer = service.send(number, caller=caller, **body)
    service.message(answer.json()["message_id"])
    service.history(answer.json()["otp_id"], "message.sent", caller=caller)
    answered: dict[str, Any] = answer.json()
    return answered


@pytest.mark.parametrize("is_purged", [False, True], ids=["living", "past"])
def test_what_named_the_number_does_so_no_more(service: Service, *, is_purged: bool) -> None:
    number = new_number()
    one = sent(service, number, metadata={"a": 1}, template="For Ann: {{code}}")
    if is_purged:
        service.purge(one["otp_id"], one["message_id"])
    # However it is written.
    assert forget(service, f"00{number[1:3]} {number[3:]}") == {
        "success": True, "otps": 0 if is_purged else 1, "messages": 1,
    }  # fmt: skip
    otp = service.get(f"/v1/otp/{one['otp_id']}")
    assert (otp.json()["to"], otp.json()["metadata"]) == ("", None)
    message = service.get(f"/v1/messages/{one['message_id']}")
    assert (message.json()["to"], message.json()["message"], message.json()["metadata"]) == ("", "", None)
    assert message.json()["status"] == "sent"
    for answer in (otp, message):
        assert number[-4:] not in answer.text
        assert "Ann" not in answer.text


def test_a_pending_code_ends(service: Service) -> None:
    number = new_number()
    answer = service.send(number)
    otp_id, code = answer.json()["otp_id"], service.code(answer)
    forget(service, number)
    error_of(service.verify(otp_id, code), 404, "OTP_NOT_FOUND")
    assert service.get(f"/v1/otp/{otp_id}").json()["status"] == "cancelled"
    assert service.history(otp_id, "otp.cancelled")[-1]["reason"] == "forgotten"
    service.purge(otp_id)
    past = service.get(f"/v1/otp/{otp_id}").json()
    assert (past["status"], past["to"], past["metadata"]) == ("cancelled", "", None)


def test_it_hands_out_no_new_codes(service: Service) -> None:
    number = new_number()
    for purpose in range(10):
        assert service.send(number, purpose=f"purpose_{purpose}").status_code == 200
    forget(service, number)
    error_of(service.send(number), 429, "OTP_RATE_LIMIT")


@pytest.mark.parametrize("other", ["stranger", "liver"])
def test_what_others_have_of_the_number_stays(service: Service, other: str) -> None:
    number, caller = new_number(), getattr(service, other)
    theirs = sent(service, number, caller=caller, metadata={"a": 1})
    assert forget(service, number) == {"success": True, "otps": 0, "messages": 0}
    otp = service.get(f"/v1/otp/{theirs['otp_id']}", caller=caller).json()
    assert (otp["status"], otp["to"], otp["metadata"]) == ("pending", theirs["to"], {"a": 1})
    service.purge(theirs["message_id"])
    message = service.get(f"/v1/messages/{theirs['message_id']}", caller=caller).json()
    assert (message["to"], message["metadata"]) == (theirs["to"], {"a": 1})


def test_a_number_that_nobody_knows_and_a_second_time(service: Service) -> None:
    number = new_number()
    nothing = {"success": True, "otps": 0, "messages": 0}
    assert forget(service, number) == nothing
    sent(service, number)
    forget(service, number)
    service.written()
    twice = forget(service, number)
    assert twice["success"] is True
    assert service.send(number).status_code == 200


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_without_postgresql_nothing_is_touched(wired: Service, database_cable: Cable, how: str) -> None:
    number = new_number()
    one = sent(wired, number)
    getattr(database_cable, how)()
    error_of(wired.post("/v1/numbers/forget", {"to": number}), 503, "SERVICE_UNAVAILABLE")
    otp = wired.get(f"/v1/otp/{one['otp_id']}").json()
    assert (otp["status"], otp["to"]) == ("pending", one["to"])
    database_cable.plug_in()
