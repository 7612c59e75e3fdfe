"""`otpsvc device pair` and its siblings: a phone comes in as an operator sees it, or does not."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
import rich_click as click

from otpsvc import cli_pairings
from otpsvc.devices.model import Account, DeviceStatus, Pairing, Registered, Tenant
from otpsvc.errors import ApiError, problem
from otpsvc.postgres.devices import PostgresDevices
from tests.device_commands.conftest import PUBLIC
from tests.device_commands.operator import Operator


@pytest.mark.usefixtures("client")
def test_a_pairing_is_shown_as_a_picture_and_in_words(operator: Operator) -> None:
    out = operator.done("pair", "--no-wait")
    facts = dict(line.strip().split("  ", 1) for line in out.splitlines() if line.startswith("  "))
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["API URL"] == f"{PUBLIC}/mobile/v1"
    assert facts["Username"].startswith("phone-")
    assert len(facts["Code"]) == 6
    picture = [line for line in out.splitlines() if set(line) & set("█▀▄")]
    assert 20 < len(picture) < 30
    assert operator.register(facts["Code"]).login == facts["Username"]


def test_a_pairing_for_scripts(operator: Operator, client: str) -> None:
    pairing = operator.pairing("--mode", "test")
    assert pairing.keys() == {
        "server_url", "api_url", "login", "password", "code", "expires_at", "code_expires_at", "warning",
    }  # fmt: skip
    assert pairing["warning"] is None
    assert operator.register(pairing["code"]).device.tenant == Tenant(client, "test")


@pytest.mark.usefixtures("client")
def test_an_address_that_phones_cannot_use_is_told(operator: Operator) -> None:
    said = operator.call("pair", "--no-wait", "--server-url", "http://10.0.0.5:8080/")
    assert "http://10.0.0.5:8080/mobile/v1" in said.out
    assert "not https" in said.err
    assert "not https" not in operator.call("pair", "--no-wait").err
    del operator.variables["OTPSVC_HTTP_PUBLIC_URL"]
    operator.variables["OTPSVC_HTTP_PORT"] = "8081"
    assert operator.pairing()["server_url"] == "http://127.0.0.1:8081"
    operator.variables["OTPSVC_HTTP_HOST"] = "0.0.0.0"  # noqa: S104 - nothing listens here
    assert "http.public_url" in operator.refused("pair", "--no-wait")


@pytest.mark.usefixtures("client")
def test_it_waits_for_the_phone_and_asks(operator: Operator, quick_phone: list[Registered]) -> None:
    out = operator.done("pair", given="y\n")
    (registered,) = quick_phone
    assert f"Pixel 7 has registered: {registered.device.id}" in out
    assert "SIM 1: Orange ********4567" in out
    assert "Pixel 7 may send now" in out
    assert operator.status(registered) is DeviceStatus.ACTIVE
    assert registered.token not in out


@pytest.mark.usefixtures("client")
def test_a_phone_that_was_not_expected_waits(operator: Operator, quick_phone: list[Registered]) -> None:
    out = operator.done("pair", given="n\n")
    (registered,) = quick_phone
    assert f"otpsvc device confirm {registered.device.id}" in out
    assert "may send now" not in out
    assert operator.status(registered) is DeviceStatus.PENDING


@pytest.mark.usefixtures("client")
def test_nobody_is_asked_who_said_yes(operator: Operator, quick_phone: list[Registered]) -> None:
    assert "Pixel 7 may send now" in operator.done("pair", "--yes")
    assert operator.status(quick_phone[0]) is DeviceStatus.ACTIVE


@pytest.mark.usefixtures("client")
def test_the_waiting_outlasts_an_outage(
    operator: Operator, quick_phone: list[Registered], monkeypatch: pytest.MonkeyPatch
) -> None:
    account, outages = PostgresDevices.account, [problem("SERVICE_UNAVAILABLE")]

    async def shaky(self: PostgresDevices, login: str) -> Account | None:
        if outages:
            raise outages.pop()
        return await account(self, login)

    monkeypatch.setattr(PostgresDevices, "account", shaky)
    monkeypatch.setattr(cli_pairings, "_LOOK_EVERY_S", 0.01)
    assert quick_phone == []
    assert "Pixel 7 may send now" in operator.done("pair", "--yes")
    assert outages == []


@pytest.mark.usefixtures("client")
def test_the_waiting_ends_with_the_pairing(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    class LaterTime(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # only ever asked for UTC
            return datetime.now(UTC) + timedelta(days=2)

    monkeypatch.setattr(cli_pairings, "datetime", LaterTime)
    said = operator.call("pair")
    assert said.status == 1
    assert "no phone registered" in said.err


@pytest.mark.usefixtures("client")
def test_a_phone_that_became_another_while_it_was_asked_about_is_asked_about_again(
    operator: Operator, quick_phone: list[Registered], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same login registers anew between the question and its answer."""
    asked = ["y", "n"]

    def become_another(text: str) -> bool:
        (registered,) = quick_phone
        if len(asked) == 2:
            assert registered.password is not None
            operator.come_again(registered, "Evil")
        return asked.pop(0) == "y"

    with monkeypatch.context() as patch:
        patch.setattr(click, "confirm", become_another)
        out = operator.done("pair")
    assert re.findall(r"^(.+) has registered", out, re.MULTILINE) == ["Pixel 7", "Evil"]
    assert "may send now" not in out
    device_id = quick_phone[0].device.id
    seen = operator.shown(device_id)
    assert (seen["name"], seen["status"]) == ("Evil", "pending")
    assert "status: pending" in operator.refused("confirm", device_id, "--version", str(seen["version"] - 1))
    assert "active" in operator.done("confirm", device_id, "--version", str(seen["version"]))


def test_open_pairings_are_listed_and_closed(operator: Operator, client: str) -> None:
    assert operator.done("pairings") == "No open pairings\n"
    pairing, other = operator.pairing(), operator.pairing("--mode", "test")
    head, *rows = operator.done("pairings").splitlines()
    assert head.split() == ["LOGIN", "CLIENT", "MODE", "OPENED", "ENDS"]
    assert [row.split()[:3] for row in rows] == [[pairing["login"], client, "live"], [other["login"], client, "test"]]
    listed = operator.done("pairings", "--mode", "test", "--json")
    assert json.loads(listed)["login"] == other["login"]
    assert pairing["password"] not in listed
    assert "client_000000000000" in operator.refused("pairings", "--client", "client_000000000000")
    assert operator.done("unpair", pairing["login"]) == f"closed {pairing['login']}\n"
    assert "no open pairing" in operator.refused("unpair", pairing["login"])
    with pytest.raises(ApiError, match="PAIRING_REFUSED"):
        operator.register(pairing["code"])
    operator.register(other["code"])
    assert "no open pairing" in operator.refused("unpair", other["login"])


@pytest.mark.usefixtures("client")
def test_the_waiting_ends_where_somebody_closes_the_pairing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = cli_pairings._show_pairing

    def show_and_close(pairing: Pairing) -> None:
        show(pairing)
        operator.close(pairing.login)

    monkeypatch.setattr(cli_pairings, "_show_pairing", show_and_close)
    said = operator.call("pair")
    assert (said.status, "no phone registered" in said.err) == (1, True)
