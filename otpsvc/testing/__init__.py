"""What authors of senders and our own tests share: a clock to move by hand, messages to send, a sender that records.

Nothing in here belongs into a running service.
"""

from otpsvc.testing.clocks import ManualClock
from otpsvc.testing.queues import MemoryQueue
from otpsvc.testing.senders import RecordingSender, outbound_message, sender_context

__all__ = ("ManualClock", "MemoryQueue", "RecordingSender", "outbound_message", "sender_context")
