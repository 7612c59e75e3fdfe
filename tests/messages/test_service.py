"""The status of a message: the living first, then the history, and one answer for all that is not the caller's."""

from typing import Any

import pytest

from otpsvc.clients.model import Principal
from otpsvc.errors import ApiError, problem
from otpsvc.ids import MessageId, new_message_id
from otpsvc.messages.model import MessageView
from otpsvc.messages.service import MessageService
from otpsvc.otp.policy import Policy

ID = new_message_id(partition=0)
OWNER = Principal("client_100000000001", "live", "key", Policy())


class Records:
    """Records by client, mode and id, as a store holds them."""

    def __init__(self, *views: MessageView, fails_with: ApiError | None = None) -> None:
        self.views = {("client_100000000001", "live", view.message_id): view for view in views}
        self.fails_with = fails_with
        self.asked: list[MessageId] = []

    async def find(self, client_id: str, mode: str, message_id: MessageId) -> MessageView | None:
        self.asked.append(message_id)
        if self.fails_with is not None:
            raise self.fails_with
        return self.views.get((client_id, mode, message_id.text))


def view(**changes: Any) -> MessageView:
    fields: dict[str, Any] = {
        "message_id": ID.text, "otp_id": "otp_00000000000000000000000000", "status": "queued", "channel": "sms",
        "parts": 1, "to": "+336****78", "text": "****** is your code", "reason": None, "sender": None, "tries": 0,
        "created_at": 1, "sent_at": None, "delivered_at": None, "ended_at": None, "expires_at": 2, "metadata": "",
    }  # fmt: skip
    return MessageView(**fields | changes)


async def test_the_living_is_asked_first_and_believed() -> None:
    living, history = Records(view(status="sent")), Records(view(status="queued"))
    assert (await MessageService(living, history).status(OWNER, ID.text)).status == "sent"
    assert (living.asked, history.asked) == ([ID], [])


async def test_what_the_living_has_let_go_is_in_the_history() -> None:
    assert (
        await MessageService(Records(), Records(view(status="delivered"))).status(OWNER, ID.text)
    ).status == "delivered"


@pytest.mark.parametrize(
    ("caller", "message_id"),
    [
        (OWNER, new_message_id(partition=0).text),
        (Principal("client_200000000002", "live", "key", Policy()), ID.text),
        (Principal("client_100000000001", "test", "key", Policy()), ID.text),
        (OWNER, ""),
        (OWNER, ID.text.upper()),
        (OWNER, ID.text + "0"),
        (OWNER, "otp" + ID.text[3:]),
        (OWNER, "msg_*"),
    ],
    ids=["unknown", "other client", "other mode", "empty", "capitals", "too long", "an OTP's", "a pattern"],
)
async def test_what_is_not_the_callers_looks_unknown(caller: Principal, message_id: str) -> None:
    service = MessageService(Records(view()), Records(view()))
    with pytest.raises(ApiError) as told:
        await service.status(caller, message_id)
    assert (told.value.code, told.value.kind.status, told.value.details) == ("MESSAGE_NOT_FOUND", 404, {})


@pytest.mark.parametrize("living_is_away", [False, True])
async def test_a_store_that_is_away_is_not_mistaken_for_an_unknown_message(living_is_away: bool) -> None:
    away = Records(fails_with=problem("SERVICE_UNAVAILABLE"))
    stores = (away, Records(view())) if living_is_away else (Records(), away)
    with pytest.raises(ApiError, match="SERVICE_UNAVAILABLE"):
        await MessageService(*stores).status(OWNER, ID.text)


async def test_with_the_history_away_the_living_still_answers() -> None:
    away = Records(fails_with=problem("SERVICE_UNAVAILABLE"))
    assert (await MessageService(Records(view()), away).status(OWNER, ID.text)).message_id == ID.text
