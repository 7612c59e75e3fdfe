"""API keys that travel in a header of their own: which of them can stand there at all.

A key that cannot would pass the start and keep every message from leaving. Never repeat a key in what is raised.
"""

from otpsvc.senders.contract import Secret


def check_api_key(key: Secret) -> None:
    """Raise ValueError, in words for the person who set it, for a key with a letter that no header takes."""
    text = key.reveal()
    if not text.isascii() or not text.isprintable():
        raise ValueError("api_key must be of plain ASCII letters, digits and signs, in one line")
