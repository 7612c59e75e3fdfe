"""The table of all metrics: their names, labels and words.

docs/metrics.md repeats it, and a test holds the two together. Every label takes its values from a closed list: any
other word is counted as `other`, so that nothing a caller or a gateway says can make up a time series. No label may
ever hold a client's id, a number, the id of an OTP or a message, or anything derived from them.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from otpsvc.devices.model import OfferStatus
from otpsvc.errors import CATALOGUE
from otpsvc.messages.model import MessageStatus
from otpsvc.senders.contract import ReceiptStatus, RejectionKind

OTHER = "other"
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A phone and its network take seconds where a call takes milliseconds, and a code lives five minutes.
PHONE_BOUNDS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Row(NamedTuple):
    """One metric of the table."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    labels: tuple[str, ...]
    help: str
    bounds_s: tuple[float, ...] = BOUNDS_S


CALLS = Row("otpsvc_calls_total", "counter", ("call", "outcome"), "API calls, by the one word for how each ended.")
CALL_SECONDS = Row("otpsvc_call_seconds", "histogram", ("call",), "Time from the start of a call to its end.")
KEY_LOOKUPS = Row("otpsvc_key_lookups_total", "counter", ("outcome",), "API keys that were asked for in PostgreSQL.")
HANDOVERS = Row(
    "otpsvc_handovers_total", "counter", ("sender", "outcome"), "Calls of senders, by what the sender answered."
)
HANDOVER_SECONDS = Row("otpsvc_handover_seconds", "histogram", ("sender",), "Time that a sender took for one call.")
HOLDS = Row(
    "otpsvc_sender_holds_total", "counter", ("sender", "why"), "Times that a sender was passed over without a call."
)
DUPLICATES = Row(
    "otpsvc_possible_duplicates_total", "counter", ("sender",), "Messages passed on although this sender may have them."
)
RECEIPTS = Row(
    "otpsvc_receipts_total", "counter", ("sender", "status", "outcome"), "Receipts, by what they said and changed."
)
OFFERS = Row("otpsvc_offers_total", "counter", ("sender", "outcome"), "Messages offered to phones, by what came of it.")
TAKEOVERS = Row(
    "otpsvc_takeovers_total",
    "counter",
    ("sender", "why", "may_duplicate"),
    "Messages taken from one phone and offered to another.",
)
PHONE_REPORTS = Row("otpsvc_phone_reports_total", "counter", ("sender", "status"), "What phones said about messages.")
PHONE_SENT_SECONDS = Row(
    "otpsvc_phone_sent_seconds",
    "histogram",
    ("sender",),
    "Time from the acceptance of a message to a phone's word that it was sent.",
    PHONE_BOUNDS_S,
)
DEVICES_ONLINE = Row("otpsvc_devices_online", "gauge", (), "Phones that are connected, of all clients.")
SENDER_STATE = Row(
    "otpsvc_sender_state", "gauge", ("sender",), "The breaker of a sender: 0 closed, 1 half-open, 2 open."
)
SENDER_CALLS = Row("otpsvc_sender_calls", "gauge", ("sender",), "Calls of a sender that are under way, in all workers.")
SENDER_DEMOTED = Row(
    "otpsvc_sender_demoted",
    "gauge",
    ("sender",),
    "1 while a sender's receipts do not come, so that others of a route are asked before it.",
)
MESSAGES_ENDED = Row(
    "otpsvc_messages_ended_total", "counter", ("status", "reason"), "Messages that a worker brought to an end."
)
EVENTS_DRAINED = Row("otpsvc_events_drained_total", "counter", ("kind",), "Events written to PostgreSQL.")
DRAIN_OUTAGES = Row(
    "otpsvc_drain_outages_total", "counter", ("store",), "Times that the drain of the events met a store that failed."
)
QUEUE_MESSAGES = Row("otpsvc_queue_messages", "gauge", ("partition",), "Messages that wait or are on their way.")
QUEUE_OLDEST = Row(
    "otpsvc_queue_oldest_seconds", "gauge", ("partition",), "For how long the message most overdue has been due."
)
EVENTS_UNWRITTEN = Row("otpsvc_events_unwritten", "gauge", (), "Events that PostgreSQL does not have yet.")
EVENTS_OWED = Row(
    "otpsvc_events_owed_max", "gauge", (), "Events that wait or are still owed, in the partition that has most of them."
)
EVENTS_OLDEST = Row("otpsvc_events_oldest_seconds", "gauge", (), "Age of the oldest event not yet written.")
STORE_UP = Row("otpsvc_store_up", "gauge", ("store",), "1 if the store answered this scrape, 0 if not.")
BUILD = Row("otpsvc_build_info", "gauge", ("version",), "Always 1; the label has the version.")

TABLE = (
    CALLS, CALL_SECONDS, KEY_LOOKUPS, HANDOVERS, HANDOVER_SECONDS, HOLDS, DUPLICATES, RECEIPTS, MESSAGES_ENDED,
    OFFERS, TAKEOVERS, PHONE_REPORTS, PHONE_SENT_SECONDS, DEVICES_ONLINE,
    EVENTS_DRAINED, DRAIN_OUTAGES, SENDER_STATE, SENDER_CALLS, SENDER_DEMOTED,
    QUEUE_MESSAGES, QUEUE_OLDEST, EVENTS_UNWRITTEN, EVENTS_OWED, EVENTS_OLDEST, STORE_UP, BUILD,
)  # fmt: skip

_REJECTIONS = frozenset(kind.value for kind in RejectionKind)
WORDS: Mapping[tuple[Row, str], frozenset[str]] = {
    (CALLS, "call"): frozenset(
        {"send", "verify", "resend", "cancel", "get", "status", "forget", "receipt"}
        | {"device_pair", "device_list", "device_show", "device_change", "device_delete"}
        | {"mobile_register", "mobile_look", "mobile_update", "mobile_pull", "mobile_report", "mobile_stream"}
        | {"mobile_settings", "mobile_webhooks", "mobile_code", "mobile_password"}
    ),
    (CALLS, "outcome"): frozenset(
        {"accepted", "replayed", "right", "wrong", "cancelled", "found", "forgotten", "done", "taken", "disconnected"}
        # What the store's scripts answer where the catalogue's code says less.
        | {"conflict", "locked_out", "cooldown", "number_limit", "live_limit", "ceiling", "address_limit"}
        | {"paired", "changed", "deleted", "registered", "pulled", "empty", "unreachable"}
        | {"closed", "broken", "replaced", "retired", "stopped"}
        | {"resend_limit", "busy", "undecided", "not_found", "fenced", "expired", "locked", "no_attempts"}
        | {"format", "ended"}
        # Why an API key was refused, of which its owner hears less.
        | {"key_unknown", "key_wrong", "key_revoked", "key_expired", "client_suspended", "client_policy"}
        # What could not be had, or known, to do it.
        | {"unknown_master", "hashing_busy", "encryption_busy", "gateway_unreachable", "keys_unreachable", "keys_busy"}
        | {"lookups_busy"}
        # How the store failed to answer.
        | {"store_refused", "store_timeout", "store_not_kept", "store_lost"}
        | {code.lower() for code in CATALOGUE}
    ),
    (KEY_LOOKUPS, "outcome"): frozenset({"known", "unknown", "unreachable", "refused"}),
    (HANDOVERS, "outcome"): _REJECTIONS | {"accepted", "retry_later", "unknown", "unmapped"},
    (HOLDS, "why"): frozenset({"open", "rate", "crowd", "quiet", "price", "demoted"}),
    (RECEIPTS, "status"): frozenset(status.value for status in ReceiptStatus),
    (RECEIPTS, "outcome"): frozenset({"applied", "repeated", "foreign", "unknown", "parked", "late", "unmapped"}),
    (MESSAGES_ENDED, "status"): frozenset(status.value for status in MessageStatus),
    (MESSAGES_ENDED, "reason"): _REJECTIONS
    | {"none", "no_sender", "no_time_left", "unknown_outcome", "unreadable", "code_ended", "retry_later"},
    (OFFERS, "outcome"): frozenset({"offered", "none", "budget", "empty", "offline", "foreign", "unwanted"}),
    (TAKEOVERS, "why"): frozenset({"not_pulled", "gone", "silent", "failed"}),
    (TAKEOVERS, "may_duplicate"): frozenset({"yes", "no"}),
    (PHONE_REPORTS, "status"): frozenset({*(status.value for status in OfferStatus), "unmapped"}),
    (EVENTS_DRAINED, "kind"): frozenset({"new", "repeated"}),
    (DRAIN_OUTAGES, "store"): frozenset({"stream", "history"}),
}
