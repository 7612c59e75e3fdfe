"""Reads delivery receipts as SMSCs write them: a `deliver_sm` with a text of fields, optional parameters, or both.

Only what the SMSC itself marks as a receipt is one: the text alone proves nothing, anybody can send it from a phone.
Nothing here raises for what comes, and no word of it is handed on but ids and codes that look like such.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from otpsvc.senders.answers import Failure
from otpsvc.senders.contract import ReceiptStatus, RejectionKind
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.smpp_ids import MessageIds
from otpsvc.senders.smpp_wire import Delivery

CODES = "smpp"

_KIND_OF_MESSAGE = 0x3C
_RECEIPTS = frozenset({0x04, 0x20})  # an SMSC's delivery receipt, and its notification on the way
_FIELD = re.compile(
    r"(?<![a-z])(id|sub|dlvrd|submit date|done date|stat|err)\s*:\s*([^\s:]{1,65})(?=\s|$)", re.IGNORECASE
)
_WORDS = re.compile(r"(?<![a-z])text\s*:", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z0-9]{1,10}")
_DATES = {10: "%y%m%d%H%M", 12: "%y%m%d%H%M%S"}
_GSM_NETWORK = 3
_FAILURES = frozenset({ReceiptStatus.FAILED, ReceiptStatus.EXPIRED, ReceiptStatus.CANCELLED})


class Told(NamedTuple):
    """What a receipt says about the message of `provider_id`, in the form of our ids. `kind` is set for failures.

    `is_unmapped`: it failed under a code of the SMSC's that neither a table nor its settings know.
    """

    provider_id: str
    status: ReceiptStatus
    kind: RejectionKind | None
    detail: str
    happened_at: float | None
    is_unmapped: bool = False


def is_receipt(delivery: Delivery) -> bool:
    """Whether the SMSC says this of a message, and no person wrote it."""
    is_marked = delivery.esm_class & _KIND_OF_MESSAGE in _RECEIPTS
    return is_marked or (delivery.receipted_message_id is not None and delivery.message_state is not None)


def read_receipt(
    delivery: Delivery,
    ids: MessageIds,
    *,
    error_kinds: Mapping[str, RejectionKind],
    utc_offset_h: float | None,
) -> Told | None:
    """Read what `is_receipt`; None if it names no message. The parameters go before the text where both speak.

    `error_kinds` says what this SMSC's own codes of failure mean, without zeros in front. `utc_offset_h` is the clock
    by which it writes dates; without it they say nothing.
    """
    fields = _fields(delivery.body)
    provider_id = ids.receipted(delivery.receipted_message_id, is_parameter=True) or ids.receipted(
        fields.get("id"), is_parameter=False
    )
    if provider_id is None:
        return None
    codes = GatewayMap.load(CODES)
    # Some fill the parameter with a number of their own, or with nothing; then the word in the text is better.
    state = "" if delivery.message_state is None else str(delivery.message_state)
    if codes.row("state", state) is None:
        state = fields.get("stat", state)
    status = codes.status(state)
    failure = _why(delivery, fields.get("err", ""), state, error_kinds) if status in _FAILURES else Failure()
    return Told(
        provider_id,
        status,
        failure.kind,
        failure.detail,
        _moment(fields.get("done date"), utc_offset_h),
        # The other ends say themselves why.
        failure.is_unmapped and status is ReceiptStatus.FAILED,
    )


def _fields(body: bytes) -> dict[str, str]:
    """Return the fields by name; whatever a person's text may hold stands behind `text:` and is not looked at."""
    head = _WORDS.split(body.decode("latin-1"), maxsplit=1)[0]
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(head):
        fields.setdefault(name.lower(), value)
    return fields


def _why(delivery: Delivery, error: str, state: str, error_kinds: Mapping[str, RejectionKind]) -> Failure:
    codes = GatewayMap.load(CODES)
    said = [f"state {state}"] if _CODE.fullmatch(state) else []
    is_told = False
    if _CODE.fullmatch(error):
        said.append(f"err {error}")
        is_told = bool(error.strip("0"))
    own = error_kinds.get(error.lstrip("0"))
    if own is not None:
        return Failure(own, " ".join(said))
    candidates = [f"err-{error.lstrip('0')}", f"state-{state}"]
    if delivery.network_error_code is not None:
        network, number = delivery.network_error_code
        said.append(f"network error {network}/{number}")
        # Only here is it certain whose table the number is from.
        candidates[:0] = [f"gsm-{number}"] if network == _GSM_NETWORK else []
        is_told = is_told or number != 0
    for candidate in candidates:
        if codes.row("failure", candidate) is not None:
            is_by_state = candidate == f"state-{state}"
            return Failure(codes.kind(candidate), " ".join(said), is_unmapped=is_told and is_by_state)
    return Failure(RejectionKind.UNDELIVERABLE, " ".join(said), is_unmapped=is_told)


def _moment(date: str | None, utc_offset_h: float | None) -> float | None:
    form = _DATES.get(len(date or ""))
    if date is None or form is None or utc_offset_h is None or not date.isdigit():
        return None
    try:
        return datetime.strptime(date, form).replace(tzinfo=UTC).timestamp() - utc_offset_h * 3600
    except ValueError:
        return None
