"""When a device is left alone, in moments: the pool compares numbers and knows no zones.

Nobody is woken on the night the clocks change: where a time of day comes twice, or not at all, the stretch is the
longer of the readings.
"""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from otpsvc.messages.policy import QuietHours


def coming_stretch(quiet: QuietHours | None, now_s: float) -> tuple[int, int]:
    """Return when the present quiet stretch, or else the next, begins and ends: ms since 1970; (0, 0) for none.

    `now_s` is in seconds since 1970. A zone that this machine does not know counts as UTC; hours without length are
    none.
    """
    if quiet is None or quiet.start == quiet.end:
        return 0, 0
    zone = _zone(quiet.zone)
    start, end = time.fromisoformat(quiet.start), time.fromisoformat(quiet.end)
    nights = timedelta(days=1 if end < start else 0)
    today = datetime.fromtimestamp(now_s, zone).date()
    stretches = []
    for n_days in (-1, 0, 1, 2):
        day = today + timedelta(days=n_days)
        stretches.append((min(_moments(day, start, zone)), max(_moments(day + nights, end, zone))))
    return next((begins, ends) for begins, ends in stretches if ends > now_s * 1000)


def _moments(day: date, at: time, zone: tzinfo) -> list[int]:
    """Give both readings of a time of day, mostly the same, in ms since 1970."""
    readings = (datetime.combine(day, at, zone).replace(fold=fold) for fold in (0, 1))
    return [round(reading.timestamp() * 1000) for reading in readings]


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC
