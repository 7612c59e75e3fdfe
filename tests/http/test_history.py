"""What `GET /v1/otp/{otp_id}` tells of the past: step by step, and all of it when the living record is gone."""

import re
from datetime import datetime
from typing import Any

import pytest

from otpsvc.ids import new_otp_id
from tests.http.cable import Cable
from tests.http.service import Service, error_of, new_number, wrong


def told(entries: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The entries without what differs from run to run: the event, and its details."""
    return [
        (entry["event"], {name: entry[name] for name in entry.keys() - {"event", "at", "message_id"}})
        for entry in entries
    ]


def test_from_accepted_to_verified(service: Service) -> None:
    number = new_number()
    sent = service.send(number)
    otp_id, code = sent.json()["otp_id"], service.code(sent)
    service.history(otp_id, "message.sent")
    service.verify(otp_id, wrong(code))
    service.verify(otp_id, code)
    entries = service.history(otp_id, "otp.verified")
    assert told(entries) == [
        ("otp.sent", {}),
        ("message.sent", {"sender": "inbox"}),
        ("otp.rejected", {"attempt": 1}),
        ("otp.verified", {"attempt": 2}),
    ]
    times = [datetime.fromisoformat(entry["at"]) for entry in entries]
    assert times == sorted(times)
    seen = service.get(f"/v1/otp/{otp_id}")
    assert (entries[0]["at"], entries[-1]["at"]) == (seen.json()["created_at"], seen.json()["ended_at"])
    assert {entry["message_id"] for entry in entries} == {sent.json()["message_id"]}
    assert number not in seen.text
    assert code not in re.sub(r'"(otp_id|message_id|at|\w+_at)":"[^"]*"', "", seen.text)


def verified(service: Service) -> str:
    sent = service.send(purpose="login", metadata={"a": [None, "\u0000"]})
    otp_id, code = str(sent.json()["otp_id"]), service.code(sent)
    service.history(otp_id, "message.sent")
    service.verify(otp_id, wrong(code))
    service.verify(otp_id, code)
    return otp_id


def locked(service: Service) -> str:
    sent = service.send(code_length=8)
    otp_id, code = str(sent.json()["otp_id"]), service.code(sent)
    service.history(otp_id, "message.sent")
    for _ in range(3):
        service.verify(otp_id, wrong(code))
    return otp_id


def cancelled(service: Service) -> str:
    sent = service.send()
    otp_id = str(sent.json()["otp_id"])
    service.history(otp_id, "message.sent")
    service.delete(f"/v1/otp/{otp_id}")
    return otp_id


def superseded(service: Service) -> str:
    number = new_number()
    otp_id = str(service.send(number).json()["otp_id"])
    service.history(otp_id, "message.sent")
    service.send(number)
    return otp_id


def resent(service: Service) -> str:
    otp_id = str(service.send(metadata={}).json()["otp_id"])
    service.history(otp_id, "message.sent")
    for _ in range(2):
        again = service.post(f"/v1/otp/{otp_id}/resend", {})
        service.message(again.json()["message_id"])
        service.history(otp_id, "message.sent")
    service.delete(f"/v1/otp/{otp_id}")
    return otp_id


@pytest.mark.parametrize("life", [verified, locked, cancelled, superseded, resent])
def test_the_history_alone_tells_the_same_when_the_record_is_gone(service: Service, life: Any) -> None:
    otp_id = life(service)
    service.written()
    living = service.get(f"/v1/otp/{otp_id}").json()
    assert living["history"][0]["event"] == "otp.sent"
    assert living["ended_at"] is not None
    service.purge(otp_id, living["message_id"])
    assert service.get(f"/v1/otp/{otp_id}").json() == living
    error_of(service.verify(otp_id, "000000"), 404, "OTP_NOT_FOUND")
    error_of(service.delete(f"/v1/otp/{otp_id}"), 404, "OTP_NOT_FOUND")


def test_one_whose_record_is_lost_counts_as_expired(service: Service) -> None:
    sent = service.send()
    otp_id = sent.json()["otp_id"]
    service.code(sent)
    service.history(otp_id, "message.sent")
    service.purge(otp_id)
    seen = service.get(f"/v1/otp/{otp_id}").json()
    assert (seen["status"], seen["attempts_remaining"], seen["ended_at"]) == ("expired", 3, None)


@pytest.mark.parametrize("is_purged", [False, True], ids=["living", "past"])
def test_nobody_else_sees_it(service: Service, *, is_purged: bool) -> None:
    otp_id = verified(service)
    service.written()
    if is_purged:
        service.purge(otp_id)
    made_up = new_otp_id(partition=0, slot=b"\x00\x00", profile=1).text
    for caller in (service.stranger, service.liver):
        foreign = error_of(service.get(f"/v1/otp/{otp_id}", caller=caller), 404, "OTP_NOT_FOUND")
        nothing = error_of(service.get(f"/v1/otp/{made_up}", caller=caller), 404, "OTP_NOT_FOUND")
        del foreign["request_id"], nothing["request_id"]
        assert foreign == nothing
    assert service.get(f"/v1/otp/{otp_id}").json()["status"] == "verified"


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_without_postgresql_there_is_no_history_but_an_answer(wired: Service, database_cable: Cable, how: str) -> None:
    living = wired.send().json()["otp_id"]
    past = cancelled(wired)
    wired.purge(past)
    getattr(database_cable, how)()
    for _ in range(2):
        seen = wired.get(f"/v1/otp/{living}")
        assert (seen.status_code, seen.json()["status"], seen.json()["history"]) == (200, "pending", None)
    error_of(wired.get(f"/v1/otp/{past}"), 503, "SERVICE_UNAVAILABLE")
    error_of(wired.get("/v1/otp/none"), 404, "OTP_NOT_FOUND")
    database_cable.plug_in()
    assert wired.history(living, "message.sent")[0]["event"] == "otp.sent"
    assert wired.get(f"/v1/otp/{past}").json()["status"] == "cancelled"
