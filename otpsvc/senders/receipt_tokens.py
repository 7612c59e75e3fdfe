"""The unguessable end of a receipts address, for gateways that prove nothing themselves.

It travels in a URL, which logs and proxies may keep, so it is the weakest proof there is: where a gateway signs, its
signature counts and this does not.
"""

from urllib.parse import quote

from otpsvc.senders.contract import ReceiptRequest, Secret
from otpsvc.senders.proofs import matches, path_token

SHORTEST_TOKEN = 16


def check_token(token: Secret | None) -> None:
    """Raise ValueError, in words for the person who set it, for a token that could be guessed."""
    if token is not None and len(token.reveal()) < SHORTEST_TOKEN:
        raise ValueError(f"receipt_token must have at least {SHORTEST_TOKEN} characters")


def with_token(receipt_url: str | None, token: Secret | None) -> str | None:
    """Return the receipts address with the token at its end; as it is if there is no token."""
    if receipt_url is None or token is None:
        return receipt_url
    return f"{receipt_url}/{quote(token.reveal(), safe='')}"


def has_token(request: ReceiptRequest, token: Secret | None) -> bool:
    """Say whether a request came to the address with this token; never without one."""
    return token is not None and matches(path_token(request.url), token.reveal())
