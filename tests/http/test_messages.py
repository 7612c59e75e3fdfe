"""One message as its owner may look at it, in both spellings, while it lives and when only the history has it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from otpsvc.http.v1.wire_messages import MessageAnswer
from otpsvc.ids import new_message_id, parse_message_id
from otpsvc.messages.model import ReceiptFact
from tests.http.cable import Cable
from tests.http.service import Service, error_of, new_number, running, settings_for
from tests.otp.house import CLIENT, open_house
from tests.redis.lived import book_of

FIELDS = {
    "success", "message_id", "otp_id", "status", "to", "message", "priority", "channel", "parts", "sender", "reason",
    "error", "created_at", "queued_at", "sent_at", "delivered_at", "ended_at", "expires_at", "metadata",
}  # fmt: skip
ZIMSENDS = {
    "success", "message_id", "status", "to", "message", "priority", "created_at", "queued_at", "sent_at",
    "delivered_at", "metadata",
}  # fmt: skip


@pytest.fixture(scope="module")
def idle(own_stores: tuple[str, str]) -> Iterator[Service]:
    """A service without a worker: messages stay queued."""
    with running(settings_for(*own_stores), delivers=False) as started:
        yield started


def sent_message(service: Service, **body: Any) -> tuple[dict[str, Any], str]:
    """Send a code, wait until its message has gone out and is written; give the answer of the send, and the code."""
    sent = service.send(**body)
    code = service.code(sent)
    service.history(sent.json()["otp_id"], "message.sent")
    return sent.json(), code


def test_a_sent_message_in_zimsends_shape_and_more(service: Service) -> None:
    number = new_number()
    sent, code = sent_message(service, to=number, template="Hi: {{code}}, {not} yours?", metadata={"cart": [1, "é"]})
    answer = service.get(f"/v1/sms/status/{sent['message_id']}")
    message = answer.json()
    assert answer.status_code == 200
    assert message.keys() == FIELDS
    assert message.keys() >= ZIMSENDS
    assert message["success"] is True
    assert (message["message_id"], message["otp_id"]) == (sent["message_id"], sent["otp_id"])
    assert (message["status"], message["priority"], message["channel"]) == ("sent", 1, "sms")
    assert (message["sender"], message["reason"]) == ("inbox", None)
    assert message["to"] == sent["to"]
    assert message["message"] == "Hi: ••••••, {not} yours?"
    assert message["parts"] == 1
    assert message["metadata"] == {"cart": [1, "é"]}
    assert message["queued_at"] == message["created_at"] <= message["sent_at"] < message["expires_at"]
    assert message["expires_at"] == sent["expires_at"]
    assert (message["delivered_at"], message["ended_at"]) == (None, None)
    assert number not in answer.text
    assert code not in re.sub(r'"(otp_id|message_id|\w+_at)":"[^"]*"', "", answer.text)


def test_our_spelling_gives_the_same(service: Service) -> None:
    sent, _ = sent_message(service)
    ours = service.get(f"/v1/messages/{sent['message_id']}")
    assert ours.status_code == 200
    assert ours.content == service.get(f"/v1/sms/status/{sent['message_id']}").content


def test_without_metadata_and_in_several_parts(service: Service) -> None:
    sent, _ = sent_message(service, template="{{code}}" + "é" * 300)
    message = service.get(f"/v1/messages/{sent['message_id']}").json()
    assert message["metadata"] is None
    assert message["parts"] > 1


def test_the_history_gives_the_same_answer_when_the_record_is_gone(service: Service) -> None:
    sent, _ = sent_message(service, metadata={"a": {"\u0000": None}})
    path = f"/v1/messages/{sent['message_id']}"
    living = service.get(path).json()
    service.purge(sent["message_id"])
    assert service.get(path).json() == living
    service.purge(sent["otp_id"])
    assert service.get(path).json() == living


@pytest.mark.parametrize("is_purged", [False, True], ids=["living", "past"])
def test_nobody_else_sees_it(service: Service, *, is_purged: bool) -> None:
    sent, _ = sent_message(service)
    known, made_up = sent["message_id"], new_message_id(partition=0).text
    if is_purged:
        service.purge(known)
    for caller in (service.stranger, service.liver):
        for spelling in ("/v1/messages", "/v1/sms/status"):
            foreign = error_of(service.get(f"{spelling}/{known}", caller=caller), 404, "MESSAGE_NOT_FOUND")
            nothing = error_of(service.get(f"{spelling}/{made_up}", caller=caller), 404, "MESSAGE_NOT_FOUND")
            del foreign["request_id"], nothing["request_id"]
            assert foreign == nothing
    assert service.get(f"/v1/messages/{known}").status_code == 200


def test_one_that_waits_and_one_that_was_cancelled(idle: Service) -> None:
    sent = idle.send().json()
    path = f"/v1/messages/{sent['message_id']}"
    waiting = idle.get(path).json()
    assert (waiting["status"], waiting["sender"], waiting["reason"]) == ("queued", None, None)
    assert (waiting["sent_at"], waiting["ended_at"]) == (None, None)
    assert idle.delete(f"/v1/otp/{sent['otp_id']}").status_code == 200
    ended = idle.get(path).json()
    assert (ended["status"], ended["reason"], ended["sent_at"]) == ("cancelled", "cancelled", None)
    assert ended["ended_at"] >= ended["created_at"]
    idle.history(sent["otp_id"], "otp.cancelled")
    idle.purge(sent["message_id"])
    assert idle.get(path).json() == ended


async def test_one_that_was_sent_has_no_reason_for_not_being_sent(redis_url: str) -> None:
    """Its receipt says that it failed, and the next sender is looked for: the history tells of `sent` alone."""
    async with open_house(redis_url) as house:
        sent = await house.send()
        (claimed,) = await house.claim()
        assert await house.queue.begin(claimed.message_id, claimed.token, sender="a")
        await house.queue.record_sent(claimed.message_id, claimed.token, sender="a", provider_id="g-1", receipt_in_s=20)
        failed = ReceiptFact(status="failed", kind="undeliverable")
        assert await book_of(house).apply(claimed.message_id, "a", failed) == "applied"
        view = await house.records.find(CLIENT, "test", parse_message_id(sent.message_id))
        assert view is not None
        answer = MessageAnswer.of(view)
        assert (answer.status, answer.reason, answer.error) == ("sent", None, None)


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_without_postgresql_a_living_message_is_told_and_a_past_one_cannot_be(
    wired: Service, database_cable: Cable, how: str
) -> None:
    (kept, _), (purged, _) = sent_message(wired), sent_message(wired)
    wired.purge(purged["message_id"])
    getattr(database_cable, how)()
    assert wired.get(f"/v1/messages/{kept['message_id']}").json()["status"] == "sent"
    for message_id in (purged["message_id"], new_message_id(partition=0).text):
        error = error_of(wired.get(f"/v1/messages/{message_id}"), 503, "SERVICE_UNAVAILABLE")
        assert error["retryable"] is True
    database_cable.plug_in()
