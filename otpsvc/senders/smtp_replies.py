"""What a mail server's reply means for a message: by its enhanced code where it has one, else by the plain one."""

import re

from otpsvc.senders.contract import Outcome, Rejected, RejectionKind, Unknown
from otpsvc.senders.error_maps import GatewayMap

_ENHANCED = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})(?!\d)")


def outcome_of_reply(code: int, text: str) -> Outcome:
    """Say what a reply that is not the hoped-for one means; its text is looked at for a code and then forgotten."""
    codes = GatewayMap.load("email")
    if 400 <= code <= 499:
        exact = str(code) if codes.row("send", code) is not None else "4xx"
        return codes.outcome(exact, detail=f"reply {code}")
    if not 500 <= code <= 599:
        return Unknown("reply not understood")
    found = _ENHANCED.match(text)
    # An enhanced code of another class contradicts the plain one, which is the one that counts.
    candidates = [f"5.{found[2]}.{found[3]}", f"5.{found[2]}.x"] if found and found[1] == "5" else []
    for candidate in (*candidates, str(code), "5xx"):
        if codes.row("send", candidate) is not None:
            return codes.outcome(candidate, detail=" ".join([f"reply {code}", *candidates[:1]]))
    return Rejected(RejectionKind.GATEWAY_ERROR, f"reply {code}", is_unmapped=True)
