"""Every key name, in one table. Nothing else in the package spells one.

A name's hash tag is its place in a cluster: `{p00}` holds everything about the numbers of one partition, `{c:<client>}`
everything about one client, its phones too, `{g:<sender>}` everything about one gateway, `{d}` what is due with the
phones of all clients. Numbers appear as blind indexes, sessions and addresses as keyed fingerprints: a name tells
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
        (
            *("otp_send", "otp_resend", "otp_verify", "otp_check", "otp_cancel", "otp_sweep", "number_forget"),
            "message_settle",
        ),
    ),
    KeySpec(
        "{pNN}:msg:<message_id>",
        "hash",
        "one message: owner, OTP, status, masked text, lease token, tries; what each sender made of it",
        "a day past its code's end; 15 min once final, 1 h where receipts may yet come",
        (
            "otp_send",
            "otp_resend",
            "otp_cancel",
            "message_claim",
            "message_begin",
            "message_settle",
            "message_receipt",
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
        "{pNN}:told:<message_id>",
        "string",
        "the end that a receipt told of a message whose record is gone",
        "1 h",
        ("message_tell",),
    ),
    KeySpec(
        "{pNN}:live:<client>:<mode>:<to>:<purpose>",
        "hash",
        "session fingerprint -> living OTP and its end",
        "30 min after the last send: no code lives longer",
        ("otp_send", "otp_resend", "otp_verify", "otp_check", "otp_cancel", "number_forget"),
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
        ("otp_verify", "otp_check"),
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
        ("otp_send", "otp_resend", "otp_cancel", "message_claim", "message_settle", "message_receipt", "number_forget"),
        is_bounded=True,
    ),
    KeySpec(
        "{pNN}:ends",
        "zset",
        "OTP, client and mode -> when its life is over",
        "bounded by event_limit",
        ("otp_send", "otp_resend", "otp_verify", "otp_check", "otp_cancel", "otp_sweep", "number_forget"),
        is_bounded=True,
    ),
    KeySpec(
        "{pNN}:wake",
        "list",
        "at most one token: new work is due",
        "1 min",
        ("otp_send", "otp_resend", "message_claim", "message_settle", "message_receipt", "message_wake"),
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
            "otp_check",
            "otp_cancel",
            "otp_sweep",
            "message_claim",
            "message_begin",
            "message_settle",
            "message_receipt",
            "message_tell",
            "number_forget",
            *("device_seen", "device_left", "device_retire", "device_lapsed"),
            *("offer_make", "offer_pull", "offer_report", "offer_look"),
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
    # -- {g:<sender>}: what all workers know together about one gateway
    KeySpec(
        "{g:<sender>}:gate",
        "hash",
        "breaker, rate and hold of one sender; signs of numbers whose receipts are missing",
        "1 h after the last call",
        ("sender_admit", "sender_report"),
    ),
    KeySpec(
        "{g:<sender>}:calls",
        "zset",
        "permit -> when it lapses: calls under way",
        "1 h after the last call",
        ("sender_admit", "sender_report"),
    ),
    KeySpec(
        "{g:<sender>}:sent:<id>",
        "string",
        "which message a gateway's id names, JSON (the id as a hash)",
        "1 h past the code's end",
        ("receipt_expect",),
    ),
    KeySpec(
        "{g:<sender>}:parked:<id>",
        "list",
        "receipts about an id that nobody has noted yet, at most 10",
        "2 min",
        ("receipt_find_or_park",),
    ),
    KeySpec(
        "{g:<sender>}:parking",
        "zset",
        "gateway's id (as a hash) -> when a receipt about it was parked last, at most 10 000",
        "2 min after the last",
        ("receipt_find_or_park",),
    ),
    KeySpec(
        "{g:<sender>}:polls",
        "zset",
        "gateway's id (as a hash) -> when to ask the gateway about it, at most 10 000",
        "1 day after the last",
        ("receipt_expect", "polls_claim", "polls_end"),
    ),
    # -- end of {g:<sender>}
    # -- {c:<client>}: the client's own phones, and what each of them is given to send
    KeySpec(
        "{c:<client>}:device:<device>",
        "hash",
        "one phone: what it may do, its SIMs and budget, whether it is there, its last error",
        "7 days after it was last heard of",
        (
            *("device_seen", "device_refresh", "device_left", "device_retire", "device_lapsed"),
            *("offer_make", "offer_report", "offer_look"),
        ),
    ),
    KeySpec(
        "{c:<client>}:pool:<mode>",
        "zset",
        "device -> until when it counts as there",
        "7 days after the last call of any",
        ("device_seen", "device_left", "device_retire", "offer_look"),
    ),
    KeySpec(
        "{c:<client>}:spent:<mode>",
        "string",
        "nothing: of a large pool every phone was just found over its budget",
        "1 s",
        ("offer_make", "offer_report", "offer_look"),
    ),
    KeySpec(
        "{c:<client>}:streams:<device>",
        "zset",
        "open stream -> until when it counts as alive",
        "10 min after the last sign of one",
        ("device_seen", "device_left"),
    ),
    KeySpec(
        "{c:<client>}:inbox:<device>",
        "zset",
        "message id -> when it was offered: what waits for one phone, and what it has said nothing of; at most 500",
        "1 h after the last offer",
        ("offer_make", "offer_pull", "offer_report", "offer_look", "offer_withdraw", "number_forget"),
    ),
    KeySpec(
        "{c:<client>}:sim:<device>:<slot>",
        "zset",
        "message id -> when it was pulled, or the end of its code: what counts against one SIM's budget",
        "the window and 1 h after the last",
        ("offer_make", "offer_pull", "offer_report", "offer_look", "offer_withdraw", "number_forget"),
    ),
    KeySpec(
        "{c:<client>}:recipients:<device>:<slot>",
        "zset",
        "blind index of a number -> when last: whom one SIM wrote to",
        "25 h after the last",
        ("offer_make", "offer_pull", "offer_report", "offer_look", "offer_withdraw", "number_forget"),
    ),
    KeySpec(
        "{c:<client>}:offer:<message_id>",
        "hash",
        "one message in the pool: for whom and until when, who has it, what each phone made of it, what is to be told",
        "a day past its code's end; 1 h once the message was told what came of it",
        (
            *("offer_make", "offer_pull", "offer_report", "offer_look", "offer_withdraw", "offer_done"),
            "number_forget",
        ),
    ),
    KeySpec(
        "{c:<client>}:text:<message_id>",
        "string",
        "number and text as a phone will get them, AES-256-GCM",
        "until its code has ended, or nobody is to send it any more",
        ("offer_make",),
    ),
    # -- end of the phones of a client; {d}: those of all clients
    KeySpec(
        "{d}:offers",
        "zset",
        "client and message id -> when to look at the offer",
        "bounded by queue_limit",
        (
            *("offer_make", "offer_pull", "offer_report", "offer_look", "offer_withdraw", "offer_done", "offers_due"),
            *("device_left", "device_retire", "device_lapsed", "number_forget"),
        ),
        is_bounded=True,
    ),
    KeySpec(
        "{d}:presence",
        "zset",
        "client, mode and device -> when to look whether it is still there",
        "bounded by the number of devices",
        ("device_seen", "device_left", "device_retire", "device_lapsed", "devices_due", "offer_look"),
        is_bounded=True,
    ),
)


class PartitionKeys:
    """The names inside one partition. A `…_base` is a name short of its last part, for names learned from a record."""

    def __init__(self, prefix: str, partition: int) -> None:
        base = f"{prefix}:{{p{partition:02d}}}:"
        self.otp_base = base + "otp:"
        self.message_base = base + "msg:"
        self.sealed_base = base + "sealed:"
        self.told_base = base + "told:"
        self.live_base = base + "live:"
        self.cooldown_base = base + "cooldown:"
        self.sends_base = base + "sends:"
        self.fails_base = base + "fails:"
        self.ceiling_base = base + "ceiling:"
        self.due = base + "due"
        self.ends = base + "ends"
        self.wake = base + "wake"
        self.events = base + "events"


class DeviceKeys:
    """The names of one client's phones. A `…_base` is a name short of its last part: a device, a mode or a message.

    What is about a SIM ends with device and slot, a colon between them.
    """

    def __init__(self, prefix: str, client_id: str) -> None:
        base = f"{prefix}:{{c:{client_id}}}:"
        self.device_base = base + "device:"
        self.pool_base = base + "pool:"
        self.spent_base = base + "spent:"
        self.streams_base = base + "streams:"
        self.inbox_base = base + "inbox:"
        self.sim_base = base + "sim:"
        self.recipients_base = base + "recipients:"
        self.offer_base = base + "offer:"
        self.text_base = base + "text:"


class Keys:
    """All names of an installation, by partition, by client and by sender.

    `device_calls` names a channel, under which nothing is kept.
    """

    def __init__(self, prefix: str, partitions: int) -> None:
        self._prefix = prefix
        self.barrier = f"{prefix}:barrier"
        self.offers = f"{prefix}:{{d}}:offers"
        self.presence = f"{prefix}:{{d}}:presence"
        self.device_calls = f"{prefix}:calls"
        self.partitions = tuple(PartitionKeys(prefix, number) for number in range(partitions))

    def devices(self, client_id: str) -> DeviceKeys:
        """Return the names of a client's phones."""
        return DeviceKeys(self._prefix, client_id)

    def idempotency(self, client_id: str, mode: str, key: str) -> str:
        """Name the stored answer of one Idempotency-Key (given as fingerprint)."""
        return f"{self._prefix}:{{c:{client_id}}}:idem:{mode}:{key}"

    def address(self, client_id: str, mode: str, address: str) -> str:
        """Name the window of one end-user address (given as fingerprint)."""
        return f"{self._prefix}:{{c:{client_id}}}:address:{mode}:{address}"

    def gate(self, sender: str) -> str:
        """Name the breaker, rate and hold of a sender."""
        return f"{self._prefix}:{{g:{sender}}}:gate"

    def calls(self, sender: str) -> str:
        """Name the calls of a sender that are under way."""
        return f"{self._prefix}:{{g:{sender}}}:calls"

    def sent(self, sender: str, provider_id: str) -> str:
        """Name what is known of one of a gateway's ids (given as a hash)."""
        return f"{self._prefix}:{{g:{sender}}}:sent:{provider_id}"

    def parked(self, sender: str, provider_id: str) -> str:
        """Name the receipts that came too early for one of a gateway's ids (given as a hash)."""
        return f"{self._prefix}:{{g:{sender}}}:parked:{provider_id}"

    def parking(self, sender: str) -> str:
        """Name the ids that receipts are parked for."""
        return f"{self._prefix}:{{g:{sender}}}:parking"

    def polls(self, sender: str) -> str:
        """Name the messages that a gateway is asked about."""
        return f"{self._prefix}:{{g:{sender}}}:polls"
