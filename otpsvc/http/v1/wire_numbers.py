"""What goes over the wire of the calls on numbers. These structs are the callers': they change by addition only."""

import msgspec

from otpsvc.otp.erasure import Forgotten


class ForgetBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/numbers/forget`."""

    to: str

    def __repr__(self) -> str:
        """Hide the number."""
        return "ForgetBody(…)"


class ForgetAnswer(msgspec.Struct, kw_only=True):
    """From how many OTPs and messages the number was erased."""

    success: bool = True
    otps: int
    messages: int

    @classmethod
    def of(cls, forgotten: Forgotten) -> "ForgetAnswer":
        """Write what was erased."""
        return cls(otps=forgotten.n_otps, messages=forgotten.n_messages)
