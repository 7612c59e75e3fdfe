"""Every key name, in one table. Nothing else in the package spells one.

A name's hash tag is its place in a cluster: `{p00}` holds everything about the numbers of one partition, `{c:<client>}`
everything about one client. Numbers appear as blind indexes, sessions and addresses as keyed fingerprints: a name tells
nothing. Every key expires, except those marked `bounded`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One row of the table: what lives under a name, for how long, and which script writes it."""

    name: str
    type: str
    fields: str
    life: str
    writers: tuple[str, ...]
    is_bounded: bool = False


TABLE = (
    KeySpec(
        "{pNN}:otp:<otp_id>",
        "hash",
        "one OTP: owner, code hashes, attempts, status, times, sealed number",
        "until 15 min after its end",
        ("otp_send", "otp_resend", "otp_verify", "otp_cancel", "otp_sweep", "number_forget"),
    ),
    KeySpec(
        "{pNN}:msg:<message_id>",
        "hash",
        "one message: owner, OTP, status, masked text, lease token, tries, the sender that was begun",
        "a day past its code's end; 15 min once final",
        (
            "otp_send",
            "otp_resend",
            "otp_cancel",
            "message_claim",
            "message_begin",
            "message_settle",
            "number_forget",
        ),
    ),
    KeySpec(
        "{pNN}:sealed:<message_id>",
        "string",
        "number and text, AES-256-GCM",
        "until the message is final or its code has ended",
        ("otp_send", "otp_resend"),
    ),
    KeySpec(
        "{pNN}:live:<client>:<mode>:<to>:<purpose>",
        "hash",
        "session fingerprint -> living OTP and its end",
        "30 min after the last send: no code lives longer",
        ("otp_send", "otp_resend", "otp_verify", "otp_cancel", "number_forget"),
    ),
    KeySpec(
        "{pNN}:cooldown:<client>:<mode>:<to>:<purpose>:<session>",
        "string",
        "when the last code was sent, and which OTP it was",
        "the client's cooldown",
        ("otp_send", "otp_resend"),
    ),
    KeySpec(
        "{pNN}:sends:<client>:<mode>:<to>",
        "zset",
        "message id -> when: the codes of the last hour",
        "1 h after the last",
        ("otp_send", "otp_resend"),
    ),
    KeySpec(
        "{pNN}:fails:<client>:<mode>:<to>",
        "zset",
        "attempt -> when: the wrong guesses of the last hour",
        "1 h after the last",
        ("otp_verify",),
    ),
    KeySpec(
        "{pNN}:ceiling:<mode>:<to>",
        "zset",
        "message id -> when: all clients' codes to one number",
        "1 h after the last",
        ("otp_send", "otp_resend"),
    ),
    KeySpec(
        "{pNN}:due",
        "zset",
        "message id -> when it is next due (codes)",
        "bounded by queue_limit",
        ("otp_send", "otp_resend", "otp_cancel", "message_claim", "message_settle", "number_forget"),
        is_bounded=True,
    ),
    KeySpec(
        "{pNN}:ends",
        "zset",
        "OTP, client and mode -> when its life is over",
        "bounded by event_limit",
        ("otp_send", "otp_resend", "otp_verify", "otp_cancel", "otp_sweep", "number_forget"),
        is_bounded=True,
    ),
    KeySpec(
        "{pNN}:wake",
        "list",
        "at most one token: new work is due",
        "1 min",
        ("otp_send", "otp_resend", "message_claim", "message_settle", "message_wake"),
    ),
    KeySpec(
        "{pNN}:events",
        "stream",
        "what happened and is not yet in PostgreSQL",
        "bounded by event_limit",
        (
            "otp_send",
            "otp_resend",
            "otp_verify",
            "otp_cancel",
            "otp_sweep",
            "message_claim",
            "message_settle",
            "number_forget",
            "events_acknowledge",
        ),
        is_bounded=True,
    ),
    KeySpec(
        "barrier",
        "string",
        "nothing: the last write of a batch that must be on disk (durable_send)",
        "1 min",
        (),
    ),
    KeySpec(
        "{c:<client>}:idem:<mode>:<key>",
        "hash",
        "the answer to a call with this Idempotency-Key",
        "24 h (setting)",
        ("otp_send", "otp_resend"),
    ),
    KeySpec(
        "{c:<client>}:address:<mode>:<address>",
        "zset",
        "message id -> when: codes asked for from one end-user address",
        "1 h after the last",
        ("otp_send", "otp_resend"),
    ),
)


class PartitionKeys:
    """The names inside one partition. A `…_base` is a name short of its last part, for names learned from a record."""

    def __init__(self, prefix: str, partition: int) -> None:
        base = f"{prefix}:{{p{partition:02d}}}:"
        self.otp_base = base + "otp:"
        self.message_base = base + "msg:"
        self.sealed_base = base + "sealed:"
        self.live_base = base + "live:"
        self.cooldown_base = base + "cooldown:"
        self.sends_base = base + "sends:"
        self.fails_base = base + "fails:"
        self.ceiling_base = base + "ceiling:"
        self.due = base + "due"
        self.ends = base + "ends"
        self.wake = base + "wake"
        self.events = base + "events"


class Keys:
    """All names of an installation, by partition and by client."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self._prefix = prefix
        self.barrier = f"{prefix}:barrier"
        self.partitions = tuple(PartitionKeys(prefix, number) for number in range(partitions))

    def idempotency(self, client_id: str, mode: str, key: str) -> str:
        """Name the stored answer of one Idempotency-Key (given as fingerprint)."""
        return f"{self._prefix}:{{c:{client_id}}}:idem:{mode}:{key}"

    def address(self, client_id: str, mode: str, address: str) -> str:
        """Name the window of one end-user address (given as fingerprint)."""
        return f"{self._prefix}:{{c:{client_id}}}:address:{mode}:{address}"
