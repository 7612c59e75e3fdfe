"""What is told of a device: all that an operator needs, nothing that opens a door, nothing that drives a terminal."""

from datetime import UTC, datetime, timedelta

import msgspec

from otpsvc.devices.model import Device, DeviceState, DeviceStatus, DeviceView, Sim, SimUse
from otpsvc.devices.policy import Budget
from otpsvc.devices.words import HEAD, facts_of, lines_of, row_of
from otpsvc.messages.policy import QuietHours

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


DEVICE = Device(
    id="dev_00000000000000000000000000",
    client_id="client_000000000001",
    mode="live",
    name="Pixel 7",
    status=DeviceStatus.ACTIVE,
    version=3,
    login="phone-secret",
    sims=(
        Sim(slot=0, number=1, phone_number="********4567", carrier="Orange", iccid="****************1111"),
        Sim(slot=1, number=2),
    ),
    budget=Budget(quiet=QuietHours(start="22:00", end="07:00", zone="Europe/Rome"), is_spare=True),
    created_at=NOW - timedelta(days=2),
    confirmed_at=NOW - timedelta(days=1),
    last_seen_at=NOW - timedelta(minutes=6),
    passphrase_sealed=b"sealed-secret",
    passphrase_count=2,
)
STATE = DeviceState(
    is_online=False,
    seen_at=ms(NOW - timedelta(minutes=5)),
    waiting=2,
    last_error="RESULT_ERROR_NO_SERVICE",
    last_error_at=ms(NOW - timedelta(hours=3)),
    gone="BATTERY_SAVER",
    sims=(SimUse(slot=0, messages=7, recipients=5),),
)


def told(view: DeviceView) -> dict[str, str]:
    return dict(lines_of(view, NOW))


def test_a_phone_that_has_gone() -> None:
    view = DeviceView(device=DEVICE, state=STATE)
    row = dict(zip(HEAD, row_of(view, NOW), strict=True))
    assert row["PRESENCE"] == "offline 5 min, BATTERY_SAVER"
    assert (row["VERSION"], told(view)["version"], facts_of(view)["version"]) == ("3", "3", 3)
    assert (row["WAITING"], row["USED"]) == ("2", "7/25 5/200; 0/25 0/200")
    assert row["LAST ERROR"] == "RESULT_ERROR_NO_SERVICE, 3 h ago"
    lines = told(view)
    assert lines["SIM 1"] == "Orange ********4567; used 7/25 5/200"
    assert lines["SIM 2"] == "nothing told of it; used 0/25 0/200"
    assert lines["budget of a SIM"].endswith("only when no other phone could be")
    assert lines["quiet"] == "22:00 to 07:00, Europe/Rome"
    facts = facts_of(view)
    assert (facts["disconnect_reason"], facts["last_seen_at"]) == ("BATTERY_SAVER", NOW - timedelta(minutes=5))
    assert [sim["messages_used"] for sim in facts["sims"]] == [7, 0]


def test_a_phone_that_is_there_has_no_reason_to_be_gone() -> None:
    view = DeviceView(device=DEVICE, state=DeviceState(is_online=True, gone="CONNECTION_LOST"))
    assert row_of(view, NOW)[HEAD.index("PRESENCE")] == "online"
    assert facts_of(view)["disconnect_reason"] is None


def test_what_the_store_does_not_say_is_not_made_up() -> None:
    view = DeviceView(device=DEVICE, state=None)
    row = dict(zip(HEAD, row_of(view, NOW), strict=True))
    assert (row["PRESENCE"], row["WAITING"], row["USED"], row["LAST ERROR"]) == ("unknown", "?", "?; ?", "-")
    facts = facts_of(view)
    assert (facts["is_online"], facts["waiting"], facts["sims"][0]["messages_used"]) == (None, None, None)
    assert facts["last_seen_at"] == DEVICE.last_seen_at


def test_a_phone_that_names_no_sim_shows_what_its_one_has_used() -> None:
    view = DeviceView(device=msgspec.structs.replace(DEVICE, sims=()), state=STATE)
    assert row_of(view, NOW)[HEAD.index("USED")] == "7/25 5/200"
    assert told(view)["SIM 1"] == "nothing told of it; used 7/25 5/200"
    (sim,) = facts_of(view)["sims"]
    assert (sim["slot"], sim["number"], sim["phone_number"], sim["messages_used"]) == (0, 1, None, 7)


def test_nothing_that_opens_a_door_is_told() -> None:
    view = DeviceView(device=DEVICE, state=STATE)
    said = str(facts_of(view)) + str(row_of(view, NOW)) + str(lines_of(view, NOW))
    assert "secret" not in said
    assert facts_of(view)["has_passphrase"] is True


def test_a_phone_cannot_drive_the_terminal() -> None:
    device = msgspec.structs.replace(DEVICE, name="\x1b[2Jname", sims=(Sim(slot=0, number=1, carrier="a\nb"),))
    view = DeviceView(device=device, state=msgspec.structs.replace(STATE, last_error="\x1b]0;x\x07"))
    for words in (row_of(view, NOW), [value for _, value in lines_of(view, NOW)]):
        assert all(text.isprintable() for text in words)
