"""What is known of each sender that was asked to carry one message, and who may still be asked.

The words are those of `ClaimedMessage.asked`. Nothing in here calls anybody or knows a clock.
"""

from collections.abc import Iterator, Sequence

from otpsvc.messages.lease import SILENT, Lease
from otpsvc.messages.router import Step, Way
from otpsvc.senders.contract import RejectionKind

BEGUN, ACCEPTED, SENT, DELIVERED = "begun", "accepted", "sent", "delivered"
_FAILED, _REJECTED = "failed:", "rejected:"


class Asked:
    """The senders of one message and their states; `text` decides which of them are too small for it.

    The open question, whether `lease.begun_by` has the message, is looked up there each time.
    """

    def __init__(self, way: Way, lease: Lease, text: str) -> None:
        self._way = way
        self._lease = lease
        self._states = dict(lease.claimed.asked)
        self._text = text

    def of(self, sender: str) -> str:
        """Return the state of a sender, empty if it was never asked or may be asked again."""
        return self._states.get(sender, "")

    def failure(self, sender: str) -> RejectionKind | None:
        """Return why the message failed on its way with `sender`; None if nobody has said that it did."""
        state = self.of(sender)
        return _kind(state.removeprefix(_FAILED)) if state.startswith(_FAILED) else None

    def has_failed(self) -> bool:
        """Say whether the message failed on its way with anybody."""
        return any(state.startswith(_FAILED) for state in self._states.values())

    def last_reason(self) -> RejectionKind | None:
        """Return one reason for which the message was refused or failed; None if it never was."""
        reasons = [state.partition(":")[2] for state in self._states.values() if state.startswith((_FAILED, _REJECTED))]
        return _kind(reasons[-1]) if reasons else None

    def step(self, sender: str) -> Step | None:
        """Return the step of a sender that is on the way now."""
        return next((step for step in self._way.steps if step.sender.name == sender), None)

    def note(self, sender: str, state: str) -> None:
        """Write down what is known now; empty: surely not sent, and it may be asked again."""
        if state:
            self._states[sender] = state
        else:
            self._states.pop(sender, None)

    def reject(self, sender: str, kind: RejectionKind) -> None:
        """Write down that a sender refused the message for good."""
        self._states[sender] = f"{_REJECTED}{kind.value}"

    def fail(self, sender: str, kind: RejectionKind) -> None:
        """Write down that the message failed on its way with a sender that had taken it."""
        self._states[sender] = f"{_FAILED}{kind.value}"

    def in_doubt(self) -> Sequence[str]:
        """Name the senders that may have the message and have not said that it failed."""
        return [name for name in self._holders() if not self.of(name).startswith(_FAILED)]

    def others(self) -> Iterator[Step]:
        """Yield in their order the steps that may be asked, looking again each time it goes on."""
        for step in self._way.steps:
            if self._may_ask(step):
                yield step

    def can_follow(self) -> bool:
        """Say whether anybody could be asked after the one that is asked now, or was last."""
        return any(self._may_ask(step) and self.fits(step) for step in self._way.steps)

    def has_other(self, step: Step) -> bool:
        """Say whether anybody could be asked instead of the one of `step`."""
        return any(self._may_ask(other) and self.fits(other) for other in self._way.steps if other is not step)

    def fits(self, step: Step) -> bool:
        """Say whether the text is short enough for a sender."""
        longest = step.sender.capabilities.longest_text
        return longest is None or len(self._text) <= longest

    def _may_ask(self, step: Step) -> bool:
        # One that is `begun` and in no question was begun and surely not called.
        if step.sender.name == self._lease.begun_by or self.of(step.sender.name) not in {"", BEGUN}:
            return False
        return len(self._holders()) < self._way.route.max_senders

    def _holders(self) -> list[str]:
        """Name those that came to have the message, or may have: no more of them than the route allows."""
        had = [
            name
            for name, state in self._states.items()
            if state in {ACCEPTED, SENT, DELIVERED, SILENT} or state.startswith(_FAILED)
        ]
        question = self._lease.begun_by
        return [*had, question] if question and question not in had else had


def _kind(word: str) -> RejectionKind:
    try:
        return RejectionKind(word)
    except ValueError:
        return RejectionKind.GATEWAY_ERROR
