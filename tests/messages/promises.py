"""What delivery promises, checked against what the gateways really got and what stands in the record."""

from itertools import combinations

from otpsvc.messages.model import MessageStatus
from otpsvc.messages.policy import Route
from otpsvc.senders.contract import ReceiptStatus
from tests.messages.mortal import MIN_LIFE_S, OPEN, RECEIPT_S, TAKEN, Call, Reply, World

MAY_HAVE = OPEN | TAKEN


def check(world: World) -> None:
    """Hold every promise about one message that has come to its end."""
    for call in world.calls:
        assert call.life_s >= MIN_LIFE_S, world.calls
    check_each_sender(world)
    check_those_who_followed(world)
    check_end(world)


def check_each_sender(world: World) -> None:
    """A gateway that recognises nothing is called no more once it may have the message."""
    for gateway in world.gateways:
        assert gateway.n_taken <= 1, world.calls
        calls = [call for call in world.calls if call.gateway is gateway]
        if not gateway.is_idempotent:
            assert [call for call in calls[:-1] if call.reply in MAY_HAVE] == [], world.calls
    holders = {call.gateway.name for call in world.calls if call.reply in MAY_HAVE}
    assert len(holders) <= world.rules.get("max_senders", Route(steps=()).max_senders), world.calls


def check_those_who_followed(world: World) -> None:
    """Past one that may have it goes a message only by the rule, after the deadline, and with a word about it."""
    for earlier, later in combinations(world.calls, 2):
        if earlier.gateway is later.gateway or earlier.reply not in MAY_HAVE:
            continue
        name = earlier.gateway.name
        told_at, told = world.told.get(name, (float("inf"), None))
        if told is ReceiptStatus.FAILED and told_at <= later.at:
            continue
        assert not (told in {ReceiptStatus.SENT, ReceiptStatus.DELIVERED} and told_at < later.at), world.calls
        assert world.rules.get("on_unknown", "next") == "next", world.calls
        # An answer that was heard at last has a wait of its own.
        waits = [
            later.at - call.begun_at - patience_s(world, call)
            for call in world.calls[: world.calls.index(later)]
            if call.gateway.name == name and call.reply in MAY_HAVE
        ]
        assert max(waits) >= 0, world.calls
        assert (name, "silent", True) in world.record.tried, (world.calls, world.record.tried)


def patience_s(world: World, call: Call) -> float:
    """For how long the receipt of a call must have been waited for."""
    step = world.steps.get(call.gateway.name)
    if step is not None and step.receipt_timeout_s is not None:
        return step.receipt_timeout_s
    if call.reply is Reply.TAKES and call.gateway.has_receipts:
        return RECEIPT_S
    return float(world.rules.get("receipt_timeout_s", Route(steps=()).receipt_timeout_s))


def check_end(world: World) -> None:
    """The record's last word is true."""
    n_texts = sum(gateway.n_taken for gateway in world.gateways)
    n_failed = sum(status is ReceiptStatus.FAILED for _, status in world.told.values())
    status = world.record.status
    word = next(word for told, word in reversed(world.record.events) if told is status)
    n_duplicates = sum(may for _, _, may in world.record.tried)
    match status:
        case MessageStatus.SENT | MessageStatus.DELIVERED:
            assert n_texts >= 1, world.calls
        case MessageStatus.FAILED if word != "unknown_outcome":
            # Who was passed may have it, and the history says so; of the others all have failed.
            assert n_texts <= n_failed + n_duplicates, (world.calls, world.record)
        case MessageStatus.EXPIRED | MessageStatus.CANCELLED:
            assert n_texts == 0, world.calls
    assert n_texts - n_failed <= 1 + n_duplicates, (world.calls, world.record)
