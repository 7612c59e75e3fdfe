"""A gateway that makes its own code, from the send to the verified number, beside one that carries ours."""

import pytest

from otpsvc.testing import Fault
from tests.delivery.conftest import Open
from tests.delivery.stand import Gateway, Stand
from tests.gateways.notificore import API_KEY, NotificoreTwoFactorGateway


def tables(owner: NotificoreTwoFactorGateway, other: Gateway) -> str:
    return (
        '[delivery]\nlease_s = 6\nstep_timeout_s = 3\n[routes.sms]\n"*" = ["owner", "first"]\nreceipt_timeout_s = 1\n'
        f'[senders.owner]\ntype = "notificore-2fa"\nurl = "{owner.base}"\nallow_private = true\napi_key = "{API_KEY}"\n'
        'sender = "Acme"\ntemplate_id = 7\ntimeout_s = 1\n' + other.table()
    )


async def carried(service: Stand) -> dict[str, str]:
    sent = await service.send()
    await service.comes_to(sent, "sent")
    return sent


async def test_the_code_of_the_gateway_verifies_and_ours_was_never_sent(opened: Open) -> None:
    async with (
        NotificoreTwoFactorGateway() as owner,
        Gateway("first") as other,
        opened(tables(owner, other)) as service,
    ):
        sent = await carried(service)
        (session,) = owner.sessions.values()
        wrong = "".join(str((int(digit) + 1) % 10) for digit in session.code)
        answer = (await service.verify(sent["otp_id"], wrong)).json()
        assert (answer["valid"], answer["attempts_remaining"]) == (False, 2)
        assert (await service.verify(sent["otp_id"], session.code)).json()["valid"] is True
        assert (await service.verify(sent["otp_id"], session.code)).status_code == 404
        assert other.requests == []
        history = await service.history(sent, "otp.verified")
        assert [entry["event"] for entry in history] == ["otp.sent", "message.sent", "otp.rejected", "otp.verified"]


async def test_three_wrong_guesses_end_it_whatever_the_gateway_would_still_allow(opened: Open) -> None:
    async with (
        NotificoreTwoFactorGateway() as owner,
        Gateway("first") as other,
        opened(tables(owner, other)) as service,
    ):
        sent = await carried(service)
        (session,) = owner.sessions.values()
        wrong = "".join(str((int(digit) + 1) % 10) for digit in session.code)
        left = [(await service.verify(sent["otp_id"], wrong)).json()["attempts_remaining"] for _ in range(3)]
        assert left == [2, 1, 0]
        answer = await service.verify(sent["otp_id"], session.code)
        assert answer.json()["error"]["code"] == "OTP_MAX_ATTEMPTS"


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.HTML_500])
async def test_where_it_is_away_the_next_sender_carries_our_own_code(opened: Open, fault: Fault) -> None:
    async with (
        NotificoreTwoFactorGateway() as owner,
        Gateway("first") as other,
        opened(tables(owner, other)) as service,
    ):
        owner.misbehave(*[fault] * (1 if fault is Fault.REFUSE else 6))
        sent = await carried(service)
        code = other.taken[0][1].split()[0]
        assert (await service.verify(sent["otp_id"], code)).json()["valid"] is True


async def test_a_gateway_that_gives_no_answer_is_not_asked_again_at_once(opened: Open) -> None:
    async with (
        NotificoreTwoFactorGateway() as owner,
        Gateway("first") as other,
        opened(tables(owner, other)) as service,
    ):
        sent = await carried(service)
        (session,) = owner.sessions.values()
        key = {"Idempotency-Key": "the-same"}
        owner.misbehave(Fault.REFUSE)
        lost = await service.verify(sent["otp_id"], session.code, **key)
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert lost.headers["retry-after"] == "10"
        await owner.restore()
        n_asked = len(owner.requests)
        early = await service.verify(sent["otp_id"], session.code, **key)
        assert (early.status_code, early.json()["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert 1 <= int(early.headers["retry-after"]) <= 10
        assert len(owner.requests) == n_asked
        assert (await service.verify(sent["otp_id"], session.code)).json()["valid"] is True
