"""Whether what a sender hands back is of the types that the contract says.

Structs do not check their fields by themselves, and what is of another type is dropped on the way: an id that is a
number names no message, a kind that is a plain word stops no route.
"""

import math

import msgspec

from otpsvc.senders.contract import Accepted, Outcome, Receipt, RetryLater

_LONGEST_ID = 255


def misshapen(said: Outcome | Receipt) -> str | None:
    """Name what is wrong with a field, in words that repeat none of it; None if every field is as it should be."""
    for field in msgspec.structs.fields(type(said)):
        value = getattr(said, field.name)
        try:
            fitting = msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            return f"`{field.name}` is of the type {type(value).__name__}"
        is_number = isinstance(value, int) and isinstance(fitting, float)
        if type(fitting) is not type(value) and not is_number:
            return f"`{field.name}` is of the type {type(value).__name__}, not {type(fitting).__name__}"
    if isinstance(said, RetryLater) and not 0 < said.after_s < math.inf:
        return "`after_s` must be a time above zero"
    if isinstance(said, Accepted | Receipt) and said.provider_id is not None and not _is_id(said.provider_id):
        return f"`provider_id` must be 1 to {_LONGEST_ID} letters that can be printed, or None"
    return None


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_ID and text.isprintable()
