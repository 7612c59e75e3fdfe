"""What authors of senders and our own tests share.

A conformance suite and a double of a gateway to run it on, a clock to move by hand, messages to send, a sender that
records. Nothing in here belongs into a running service.
"""

from otpsvc.testing.clocks import ManualClock
from otpsvc.testing.conformance import Scene, SenderConformance
from otpsvc.testing.gateways import Fault, GatewayDouble, GatewayRequest, Reply
from otpsvc.testing.queues import MemoryQueue
from otpsvc.testing.senders import RecordingSender, outbound_message, sender_context

__all__ = (
    "Fault",
    "GatewayDouble",
    "GatewayRequest",
    "ManualClock",
    "MemoryQueue",
    "RecordingSender",
    "Reply",
    "Scene",
    "SenderConformance",
    "outbound_message",
    "sender_context",
)
