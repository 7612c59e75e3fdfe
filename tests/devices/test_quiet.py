"""Quiet hours as moments: over midnight, in any zone, on the nights when the clocks change."""

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest

from otpsvc.devices.quiet import coming_stretch
from otpsvc.messages.policy import QuietHours

PARIS = ZoneInfo("Europe/Paris")
HOUR_MS = 3_600_000


def at(text: str, zone: ZoneInfo = PARIS) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def stretch(quiet: QuietHours, now: float, zone: ZoneInfo = PARIS) -> tuple[str, str]:
    """What is told, as people in the zone read it."""
    begins, ends = (datetime.fromtimestamp(ms / 1000, zone) for ms in coming_stretch(quiet, now))
    return f"{begins:%d %H:%M}", f"{ends:%d %H:%M}"


NIGHT = QuietHours(start="22:00", end="07:00", zone="Europe/Paris")
NOON = QuietHours(start="12:00", end="14:00", zone="Europe/Paris")


@pytest.mark.parametrize(
    ("quiet", "now", "told"),
    [
        (NIGHT, "2026-06-10T21:59:59", ("10 22:00", "11 07:00")),
        (NIGHT, "2026-06-10T22:00:00", ("10 22:00", "11 07:00")),
        (NIGHT, "2026-06-11T00:00:00", ("10 22:00", "11 07:00")),
        (NIGHT, "2026-06-11T06:59:59", ("10 22:00", "11 07:00")),
        (NIGHT, "2026-06-11T07:00:00", ("11 22:00", "12 07:00")),
        (NIGHT, "2026-12-31T23:30:00", ("31 22:00", "01 07:00")),
        (NOON, "2026-06-10T11:00:00", ("10 12:00", "10 14:00")),
        (NOON, "2026-06-10T13:59:59", ("10 12:00", "10 14:00")),
        (NOON, "2026-06-10T14:00:00", ("11 12:00", "11 14:00")),
        # The night in which the clocks go forward is an hour shorter, that in which they go back an hour longer.
        (NIGHT, "2026-03-29T01:00:00", ("28 22:00", "29 07:00")),
        (NIGHT, "2026-10-25T01:00:00", ("24 22:00", "25 07:00")),
    ],
)
def test_the_present_stretch_or_the_next_is_told(quiet: QuietHours, now: str, told: tuple[str, str]) -> None:
    assert stretch(quiet, at(now)) == told


def test_the_nights_when_the_clocks_change_have_their_own_length() -> None:
    lengths = []
    for day in ("2026-03-28", "2026-06-10", "2026-10-24"):
        begins, ends = coming_stretch(NIGHT, at(f"{day}T22:00:00"))
        lengths.append((ends - begins) / HOUR_MS)
    assert lengths == [8, 9, 10]


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"])
@pytest.mark.parametrize("hours", [("22:00", "07:00"), ("01:30", "02:30"), ("02:15", "02:45"), ("23:59", "00:01")])
def test_no_minute_of_a_year_that_reads_as_quiet_is_loud(zone: str, hours: tuple[str, str]) -> None:
    """Whatever a clock on the wall shows; and but for the nights of a change, no other minute is quiet."""
    start, end = hours
    quiet, place = QuietHours(start=start, end=end, zone=zone), ZoneInfo(zone)
    n_too_quiet = 0
    begun = at("2026-01-01T00:00:00", place)
    begins, ends = 0, 0
    for minute in range(0, 365 * 1440, 5):
        now = begun + minute * 60
        if now * 1000 >= ends:
            begins, ends = coming_stretch(quiet, now)
            assert ends > now * 1000
        wall = datetime.fromtimestamp(now, place).time()
        first, last = time.fromisoformat(start), time.fromisoformat(end)
        reads_quiet = first <= wall < last if first < last else wall >= first or wall < last
        is_quiet = begins <= now * 1000 < ends
        assert is_quiet or not reads_quiet, datetime.fromtimestamp(now, place)
        n_too_quiet += is_quiet and not reads_quiet
    assert n_too_quiet <= 4 * 12


def test_an_answer_holds_until_its_stretch_is_over() -> None:
    now = at("2026-06-10T12:00:00")
    begins, ends = coming_stretch(NIGHT, now)
    assert coming_stretch(NIGHT, ends / 1000 - 1) == (begins, ends)
    assert coming_stretch(NIGHT, ends / 1000)[0] == begins + 24 * HOUR_MS


@pytest.mark.parametrize("quiet", [None, QuietHours(start="22:00", end="22:00")])
def test_no_hours_are_no_stretch(quiet: QuietHours | None) -> None:
    assert coming_stretch(quiet, 1_800_000_000.5) == (0, 0)


@pytest.mark.parametrize("zone", ["Nowhere/Atlantis", "../../etc/passwd", "", "a" * 5000])
def test_a_zone_that_this_machine_does_not_know_counts_as_utc(zone: str) -> None:
    strange = QuietHours(start="22:00", end="07:00", zone=zone)
    assert coming_stretch(strange, 1_800_000_000) == coming_stretch(
        QuietHours(start="22:00", end="07:00"), 1_800_000_000
    )
