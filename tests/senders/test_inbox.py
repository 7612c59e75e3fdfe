"""The inbox keeps the newest messages in memory, each once, and prints none."""

from datetime import UTC, datetime

from otpsvc.senders.contract import Accepted, NoSettings
from otpsvc.senders.inbox import KEPT_MESSAGES, InboxSender
from otpsvc.testing import ManualClock, outbound_message, sender_context


def make() -> tuple[InboxSender, ManualClock]:
    clock = ManualClock()
    return InboxSender("inbox", NoSettings(), sender_context(clock=clock)), clock


async def test_what_was_sent_can_be_read_newest_first() -> None:
    inbox, clock = make()
    await inbox.send(outbound_message(message_id="m1", to="+33611111111", text="first"))
    clock.advance(5)
    await inbox.send(outbound_message(message_id="m2", to="+33622222222", text="second"))
    clock.advance(5)
    await inbox.send(outbound_message(message_id="m3", to="+33611111111", text="third"))

    assert [entry.text for entry in inbox.list()] == ["third", "second", "first"]
    assert [entry.message_id for entry in inbox.list("+33611111111")] == ["m3", "m1"]
    assert inbox.list("+33633333333") == []
    assert inbox.list()[2].sent_at == datetime.fromtimestamp(clock.time() - 10, UTC)


async def test_the_same_message_twice_is_kept_once() -> None:
    inbox, _ = make()
    assert inbox.capabilities.is_idempotent
    for _ in range(2):
        assert isinstance(await inbox.send(outbound_message(message_id="m1")), Accepted)
    assert len(inbox.list()) == 1


async def test_only_the_newest_are_kept() -> None:
    inbox, _ = make()
    for number in range(KEPT_MESSAGES + 5):
        await inbox.send(outbound_message(message_id=f"m{number}"))
    kept = inbox.list()
    assert len(kept) == KEPT_MESSAGES
    assert (kept[0].message_id, kept[-1].message_id) == (f"m{KEPT_MESSAGES + 4}", "m5")


async def test_nothing_of_it_prints_a_code_or_number() -> None:
    inbox, _ = make()
    await inbox.send(outbound_message(to="+33698765432", text="987654"))
    printed = f"{inbox!r} {inbox.list()!r}"
    assert "987654" not in printed
    assert "698765432" not in printed
