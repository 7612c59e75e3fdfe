"""How the app writes a time: ISO 8601 with milliseconds and an offset, always. What it sends is read liberally."""

from datetime import UTC, datetime


def written(at: datetime) -> str:
    """Write a time that knows its zone, in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def written_ms(at_ms: int) -> str:
    """Write ms since 1970."""
    return written(datetime.fromtimestamp(at_ms / 1000, UTC))


def read(text: object) -> datetime | None:
    """Read what a phone gives as a time; None for anything that is not one, or has no offset."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
