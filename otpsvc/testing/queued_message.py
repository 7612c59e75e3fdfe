"""One message as the queue in memory keeps it, and every change that a worker or a receipt can make to it.

The same rules as in redis/lua/message_*.lua, written a second time on purpose: tests let both live through the same
days and compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from otpsvc.messages.model import UNKNOWN_OUTCOME, ClaimedMessage, MessageStatus, ReceiptFact, Tried

_WAITING = (MessageStatus.QUEUED, MessageStatus.PROCESSING)
_MAY_BE_ASKED_AGAIN = ("retry_later", "held_open", "held_rate", "held_crowd", "held_demoted")
# What may come again at every lease is told of the first times only; calls that were made are counted apart.
_TOLD_TRIES, _TOLD_CALLS = 5, 10


@dataclass
class QueuedMessage:
    """A record and all that was written to it.

    `events` holds (status, reason or sender) in order, `tried` (sender, outcome, whether it may have been sent twice).
    `asked` has a state per sender. `settled_by` is the token under which the record was last written, so that a repeat
    is known as one. `has_text` says whether it could still be sent.
    """

    claimed: ClaimedMessage
    due_at: float
    status: MessageStatus = MessageStatus.QUEUED
    token: str | None = None
    settled_by: str | None = None
    sender: str = ""
    provider_id: str | None = None
    events: list[tuple[MessageStatus, str]] = field(default_factory=list)
    tried: list[tuple[str, str, bool]] = field(default_factory=list)
    asked: dict[str, str] = field(default_factory=dict)
    provider_ids: dict[str, str | None] = field(default_factory=dict)
    begun_at: float = 0.0
    hopeless_by: str = ""
    told_failed: str = ""
    n_put_off: int = 0
    has_text: bool = True
    _duplicated: set[str] = field(default_factory=set)

    @property
    def is_waiting(self) -> bool:
        """Say whether it has a place among the due."""
        has_question = bool(self.claimed.begun_by or self.claimed.awaiting or self.token)
        return self.status in _WAITING or (self.status is MessageStatus.SENT and has_question)

    @property
    def is_settled_by_receipt(self) -> bool:
        """Say whether a receipt has told enough for nobody else to be called."""
        question = self.claimed.begun_by or self.claimed.awaiting
        return bool(self._answered_by()) or bool(question and self.hopeless_by == question)

    def may_be_leased(self, *, now: float, unwanted: MessageStatus | None) -> bool:
        """Look at a due message before it is handed out: end or let go one that nobody is to be asked for any more."""
        begun_by = self.claimed.begun_by
        if answered := self._answered_by():
            self._become_sent(answered)
            return False
        if begun_by and self._has_failed(begun_by):
            self._gateway_failed(begun_by, now=now)
            if not self.is_waiting:
                return False
        if unwanted is None:
            return True
        if self.status is MessageStatus.SENT:
            self._leave()
        elif doubtful := self._in_doubt():
            self._end(MessageStatus.FAILED, UNKNOWN_OUTCOME, sender=doubtful)
        else:
            self._end(unwanted, unwanted.value)
        return False

    def lease(self, token: str, *, now: float, lease_s: float) -> ClaimedMessage:
        """Hand it out under a token."""
        self.token = token
        begun_ms_ago = int((now - self.begun_at) * 1000) if self.claimed.begun_by else 0
        self._write(
            token=token,
            life_ms=int(self.claimed.expires_at_ms - now * 1000),
            tries=self.claimed.tries + 1,
            begun_ms_ago=begun_ms_ago,
            asked=dict(self.asked),
        )
        if self.status is not MessageStatus.SENT:
            self.status = MessageStatus.PROCESSING
        self.due_at = now + lease_s
        return self.claimed

    def settles(self, token: str, tried: Sequence[Tried]) -> bool:
        """Take what a worker says was tried, if its lease still holds."""
        if self.token != token:
            return False
        self.settled_by = token
        self._take_tried(tried, may_duplicate=False, was=dict(self.asked))
        return True

    def begin(self, sender: str, tried: Sequence[Tried], *, now: float, may_duplicate: bool) -> None:
        """Write down who is called."""
        before = self.claimed.begun_by or self.claimed.awaiting
        was = dict(self.asked)
        if before not in ("", sender) and self.asked.get(before, "").partition(":")[0] not in ("failed", "rejected"):
            self.asked[before] = "silent"
        self._take_tried(tried, may_duplicate=may_duplicate, was=was)
        self.asked[sender] = "begun"
        self.provider_ids.pop(sender, None)
        if self.claimed.begun_by != sender:
            self.begun_at = now
        self._write(begun_by=sender, awaiting="")

    def accept(self, sender: str, provider_id: str | None, *, now: float, receipt_in_s: float | None) -> None:
        """Take the word of a sender that it has the message."""
        self.provider_ids[sender] = provider_id
        if self._has_failed(sender):
            self._gateway_failed(sender, now=now)
            return
        if self.asked.get(sender) != "sent":
            self.asked[sender] = "accepted"
        self._tell_sent(sender)
        if receipt_in_s is None or "sent" in self.asked.values():
            self._let_go()
        else:
            self.token = None
            self._write(begun_by="", awaiting=sender)
            self.due_at = now + receipt_in_s

    def keep(self, *, now: float) -> None:
        """Ask nobody else."""
        question = self.claimed.begun_by or self.claimed.awaiting
        if answered := self._answered_by():
            self._become_sent(answered)
        elif question and self._has_failed(question):
            self._gateway_failed(question, now=now)
        elif self.status is MessageStatus.SENT:
            self._leave()
        else:
            self._end(MessageStatus.FAILED, UNKNOWN_OUTCOME, sender=self._in_doubt())

    def finish(self, status: MessageStatus, reason: str, *, now: float) -> None:
        """Take the word of a worker that it will not be sent, unless receipts know better."""
        begun_by = self.claimed.begun_by
        is_sure = status is MessageStatus.FAILED and reason != UNKNOWN_OUTCOME
        if answered := self._answered_by():
            self._become_sent(answered)
        elif begun_by and self._has_failed(begun_by) and not is_sure:
            self._gateway_failed(begun_by, now=now)
        elif self.status is MessageStatus.SENT and not (
            is_sure and self._has_failed(self.sender) and not self._may_have()
        ):
            self._leave()
        else:
            doubtful = self._in_doubt() if reason == UNKNOWN_OUTCOME else ""
            self._end(status, reason, sender=doubtful or self.sender)

    def give_back(self, reason: str, begun_by: str, *, now: float, due_in_s: float) -> None:
        """Take it back for later, unless a receipt has settled the question meanwhile."""
        begun_before = self.claimed.begun_by
        if begun_before != begun_by and self.asked.get(begun_before) == "begun":
            del self.asked[begun_before]
        if answered := self._answered_by():
            self._become_sent(answered)
            return
        if begun_by and self._has_failed(begun_by):
            self._gateway_failed(begun_by, now=now)
            return
        self._make_due(reason, due_at=now + due_in_s)
        awaiting = self.claimed.awaiting
        if self.status is MessageStatus.SENT and not begun_by:
            awaiting = awaiting or self.sender
        self._write(begun_by=begun_by, awaiting=awaiting)

    def take_receipt(self, sender: str, fact: ReceiptFact, *, now: float) -> str:
        """Change what a receipt changes; return `applied`, `repeated` or `foreign`."""
        state = self.asked.get(sender)
        if state is None:
            return "foreign"
        word, _, _ = state.partition(":")
        has_ended = not (self.is_waiting or self.status is MessageStatus.SENT)
        if has_ended and not self._is_late_truth(fact, word):
            return "repeated"
        match fact.status:
            case "accepted" | "dispatched" if word in ("begun", "silent"):
                self.asked[sender] = "accepted"
                if self.token is None and self._answered_by() == sender:
                    self._become_sent(sender)
            case "sent" if word not in ("sent", "failed"):
                self.asked[sender] = "sent"
                if self.token is None and (self.is_waiting or has_ended):
                    self._become_sent(sender)
            case "delivered":
                self.asked[sender] = "delivered"
                self.settled_by = self.token or self.settled_by
                self._end(MessageStatus.DELIVERED, "", sender=sender)
            case "failed" | "expired" | "cancelled" if word not in ("failed", "rejected"):
                self.asked[sender] = f"failed:{fact.kind or 'undeliverable'}"
                if not fact.next_may_try:
                    self.hopeless_by = sender
                self._take_failure(sender, now=now)
            case _:
                return "repeated"
        return "applied"

    def _take_failure(self, sender: str, *, now: float) -> None:
        if self.token is not None:
            is_awaited = sender == self.claimed.awaiting != self.claimed.begun_by
            if is_awaited and self.hopeless_by != sender:
                self.told_failed = sender
                self.tried.append((sender, self._kind(sender), False))
            return
        if sender in (self.claimed.begun_by, self.claimed.awaiting):
            self._gateway_failed(sender, now=now)
        elif not self.is_waiting and self._has_failed(self.sender):
            self._end_failed(sender)

    def _is_late_truth(self, fact: ReceiptFact, word: str) -> bool:
        """Say whether this is good news about an end of which nobody knew."""
        is_open = self.events[-1] == (MessageStatus.FAILED, UNKNOWN_OUTCOME)
        return is_open and fact.status in ("sent", "delivered") and word not in ("failed", "rejected")

    def _take_tried(self, tried: Sequence[Tried], *, may_duplicate: bool, was: dict[str, str]) -> None:
        told = {name for name in self._duplicated if was.get(name, "begun") != "begun"}
        for name, word in ((one.sender, one.outcome) for one in tried):
            has_failed = word == "silent" and self._has_failed(name)
            outcome = self._kind(name) if has_failed else word
            is_silent = outcome == "silent"
            is_duplicate = is_silent and may_duplicate
            is_told = is_silent and (name in told or (was.get(name) == "silent" and not is_duplicate))
            is_told = is_told or (has_failed and (name in told or self.told_failed == name))
            is_call = outcome == "retry_later"
            is_news = outcome not in _MAY_BE_ASKED_AGAIN or self.claimed.tries <= _TOLD_TRIES
            if (is_news or (is_call and self.n_put_off < _TOLD_CALLS)) and not is_told:
                self.tried.append((name, outcome, is_duplicate))
                self.n_put_off += is_call
                if has_failed:
                    self.told_failed = name
            if is_duplicate:
                told.add(name)
                self._duplicated.add(name)
            if self._has_failed(name) or self.asked.get(name) == "sent" or name == self._answered_by():
                continue
            if outcome in _MAY_BE_ASKED_AGAIN:
                self.asked.pop(name, None)
            else:
                self.asked[name] = "silent" if is_silent else f"rejected:{outcome}"

    def _answered_by(self) -> str:
        """Name the sender that has the message for sure, as a receipt says of a question that was open."""
        begun_by = self.claimed.begun_by
        if begun_by and self.asked.get(begun_by) in ("accepted", "sent"):
            return begun_by
        enough = ("sent",) if self.status is MessageStatus.SENT else ("sent", "accepted")
        return min((name for name, state in self.asked.items() if state in enough), default="")

    def _may_have(self) -> bool:
        """Say whether some gateway has taken it and has not said that it failed."""
        return any(
            state in ("accepted", "sent") or (state == "silent" and name in self.provider_ids)
            for name, state in self.asked.items()
        )

    def _in_doubt(self) -> str:
        """Name a sender that may have it without anybody's knowing, the open question before all others."""
        begun_by = self.claimed.begun_by
        if begun_by and ":" not in self.asked.get(begun_by, ""):
            return begun_by
        return min((name for name, state in self.asked.items() if state in ("begun", "silent")), default="")

    def _has_failed(self, sender: str) -> bool:
        return self.asked.get(sender, "").startswith("failed:")

    def _kind(self, sender: str) -> str:
        return self.asked[sender].partition(":")[2]

    def _gateway_failed(self, sender: str, *, now: float) -> None:
        if self.hopeless_by == sender:
            self._end_failed(sender)
            return
        if self.told_failed != sender:
            self.tried.append((sender, self._kind(sender), False))
        if self.status is not MessageStatus.SENT:
            self.status = MessageStatus.QUEUED
        self.token = None
        self.due_at = now
        self._write(begun_by="", awaiting=sender)

    def _end_failed(self, sender: str) -> None:
        """End it because a sender said that it failed; others that were asked before may have it yet."""
        if answered := self._answered_by():
            self._become_sent(answered)
        elif self._may_have():
            self._let_go()
        elif doubtful := self._in_doubt():
            self._end(MessageStatus.FAILED, UNKNOWN_OUTCOME, sender=doubtful)
        else:
            self._end(MessageStatus.FAILED, self._kind(sender), sender=sender)

    def _become_sent(self, sender: str) -> None:
        if self.status is not MessageStatus.SENT or sender == self.claimed.begun_by:
            self._tell_sent(sender)
        self._let_go()

    def _tell_sent(self, sender: str) -> None:
        self.status = MessageStatus.SENT
        self.sender, self.provider_id = sender, self.provider_ids.get(sender)
        self.events.append((MessageStatus.SENT, sender))

    def _leave(self) -> None:
        """End the waiting for a message that was sent: it stays so, unless who had it last said that it failed."""
        if self._has_failed(self.sender):
            self._end_failed(self.sender)
        else:
            self._let_go()

    def _make_due(self, reason: str, *, due_at: float) -> None:
        if self.status is not MessageStatus.SENT:
            self.status = MessageStatus.QUEUED
        self.token = None
        self.due_at = due_at
        if self.claimed.tries <= _TOLD_TRIES:
            self.events.append((MessageStatus.QUEUED, reason))

    def _end(self, status: MessageStatus, word: str, *, sender: str = "") -> None:
        self.status = status
        if sender:
            self.sender, self.provider_id = sender, self.provider_ids.get(sender)
        self.events.append((status, sender if status is MessageStatus.DELIVERED else word))
        self._let_go()

    def _let_go(self) -> None:
        self.token = None
        self.has_text = False
        self._write(begun_by="", awaiting="")

    def _write(self, **changes: object) -> None:
        self.claimed = msgspec.structs.replace(self.claimed, **changes)
