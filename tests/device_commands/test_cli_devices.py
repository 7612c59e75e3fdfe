"""`otpsvc device`: a phone from its confirmation to its end as an operator handles it, and what the commands refuse."""

import json

import pytest

from otpsvc import cli_devices
from otpsvc.devices.words import HEAD
from tests.device_commands.operator import Operator

# -- whose phone


def test_a_client_is_named_where_there_are_several(operator: Operator) -> None:
    assert "otpsvc client create" in operator.refused("pair", "--json")
    first = operator.new_client("one")
    assert operator.phone().device.client_id == first
    second = operator.new_client("two")
    assert "--client" in operator.refused("pair", "--json")
    theirs = operator.phone("Pixel 7", "--client", second)
    assert theirs.device.client_id == second
    assert "client_000000000000" in operator.refused("pair", "--json", "--client", "client_000000000000")
    # By its id a phone is known wherever it is, but a client that is named must be the phone's.
    assert operator.shown(theirs.device.id)["client_id"] == second
    assert "does not exist" in operator.refused("show", theirs.device.id, "--client", first)
    assert "--client" in operator.refused("show", "Pixel 7")
    assert operator.shown("Pixel 7", "--client", second)["device_id"] == theirs.device.id


@pytest.mark.usefixtures("client")
def test_a_name_is_enough_while_one_phone_has_it(operator: Operator) -> None:
    first = operator.phone("Pixel 7")
    other = operator.phone("Pixel 7", "--mode", "test")
    assert operator.shown("Pixel 7")["device_id"] == first.device.id
    assert operator.shown("Pixel 7", "--mode", "test")["device_id"] == other.device.id
    second = operator.phone("Pixel 7")
    line = operator.refused("disable", "Pixel 7")
    assert first.device.id in line
    assert second.device.id in line
    assert "does not exist" in operator.refused("show", "Nokia")


# -- looking after phones


@pytest.mark.usefixtures("client")
def test_the_list(operator: Operator) -> None:
    assert "otpsvc device pair" in operator.done("list")
    first, second = operator.phone("Pixel 7"), operator.phone("Galaxy", "--mode", "test")
    head, *rows = operator.done("list").splitlines()
    assert head.split() == [*HEAD[:-1], "LAST", "ERROR"]
    assert [row.split()[0] for row in rows] == [first.device.id, second.device.id]
    assert "active" in rows[0]
    assert "offline" in rows[0]
    assert "0/25 0/200; 0/25 0/200" in rows[0]
    (only,) = operator.done("list", "--mode", "test", "--json").splitlines()
    assert json.loads(only)["device_id"] == second.device.id
    assert "client_000000000000" in operator.refused("list", "--client", "client_000000000000")


@pytest.mark.usefixtures("client")
def test_a_phone_is_renamed_switched_off_and_on_and_deleted(operator: Operator) -> None:
    registered = operator.register(operator.pairing()["code"])
    device_id = registered.device.id
    assert operator.lines(device_id)["status"] == "pending"
    assert "It waits" in operator.done("confirm", device_id, given="n\n")
    assert operator.lines(device_id)["status"] == "pending"
    out = operator.done("confirm", device_id, given="y\n")
    assert "Pixel 7 has registered" in out
    assert "active" in out
    assert "Counter" in operator.done("rename", "Pixel 7", "Counter")
    assert "disabled" in operator.done("disable", "Counter")
    assert "status: disabled" in operator.refused("confirm", "Counter")
    assert "active" in operator.done("enable", "Counter")
    assert operator.call("rotate-token", "Counter").status == 0
    said = operator.call("delete", "Counter", given="n\n")
    assert said.status == 1
    assert operator.shown("Counter")["status"] == "active"
    assert f"deleted {device_id}" in operator.done("delete", "Counter", given="y\n")
    assert "does not exist" in operator.refused("show", device_id)


@pytest.mark.usefixtures("client")
def test_nothing_is_deleted_by_a_command_that_could_not_ask(operator: Operator) -> None:
    device_id = operator.phone().device.id
    assert operator.call("delete", device_id).status == 1
    assert operator.shown(device_id)["status"] == "active"
    assert operator.done("delete", device_id, "--yes") == f"deleted {device_id}\n"


@pytest.mark.usefixtures("client")
def test_a_budget_is_changed_in_parts(operator: Operator) -> None:
    device_id = operator.phone().device.id
    options = ["--messages", "5", "--quiet", "22:00-07:00", "--zone", "Europe/Rome", "--spare"]
    operator.done("budget", device_id, *options)
    quiet = {"start": "22:00", "end": "07:00", "zone": "Europe/Rome"}
    expected = {"messages_per_window": 5, "window_s": 1800, "recipients_per_day": 200, "quiet": quiet, "is_spare": True}
    assert operator.shown(device_id)["budget"] == expected
    operator.done("budget", device_id, "--recipients", "9", "--quiet", "none", "--no-spare")
    expected |= {"recipients_per_day": 9, "quiet": None, "is_spare": False}
    assert operator.shown(device_id)["budget"] == expected
    assert "5 messages in 1800 s, 9 different numbers" in operator.done("budget", device_id)
    operator.done("budget", device_id, "--default", "--window-s", "600")
    expected = {"messages_per_window": 25, "window_s": 600, "recipients_per_day": 200, "quiet": None, "is_spare": False}
    assert operator.shown(device_id)["budget"] == expected
    for wrong in (
        ["--messages", "0"],
        ["--quiet", "25:00-07:00"],
        ["--quiet", "22:00-07:00", "--zone", "Mars/Olympus"],
    ):
        assert "budget." in operator.refused("budget", device_id, *wrong)
    for wrong in (["--quiet", "night"], ["--zone", "UTC"], ["--messages", "many"]):
        assert operator.call("budget", device_id, *wrong).status == 2
    assert operator.shown(device_id)["budget"] == expected


@pytest.mark.usefixtures("client")
def test_a_passphrase_is_read_and_never_shown(operator: Operator) -> None:
    device_id = operator.phone().device.id
    out = operator.done("passphrase", device_id, given="open sesame\n")
    assert "encrypted with its passphrase" in out
    assert "sesame" not in out + operator.done("show", device_id) + operator.done("show", device_id, "--json")
    assert operator.shown(device_id)["has_passphrase"] is True
    assert "passphrase" in operator.refused("passphrase", device_id, given="\n")
    assert operator.shown(device_id)["has_passphrase"] is True
    operator.done("passphrase", device_id, "--off")
    assert operator.shown(device_id)["has_passphrase"] is False


@pytest.mark.usefixtures("client")
def test_nothing_that_opens_a_door_is_shown_again(operator: Operator) -> None:
    pairing = operator.pairing()
    registered = operator.register(pairing["code"])
    said = operator.done("list") + operator.done("list", "--json") + operator.done("show", registered.device.id)
    assert registered.password is not None
    for secret in (registered.token, registered.password, pairing["password"], pairing["login"]):
        assert secret not in said


@pytest.mark.parametrize("command", sorted(cli_devices.device.commands))
def test_every_command_explains_itself(operator: Operator, command: str) -> None:
    out = operator.done(command, "--help")
    assert "Usage" in out
