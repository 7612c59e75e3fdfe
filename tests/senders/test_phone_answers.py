"""What the gateways of phones share: reasons in free text become words of ours."""

import pytest

from otpsvc.senders.contract import RejectionKind
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.phone_answers import PhoneMap

GATEWAYS = ["smsgate", "httpsms", "textbee"]


def test_androids_results_are_known_by_name_and_by_number() -> None:
    rows = list(GatewayMap.load("android").rows.values())
    names = [row for row in rows if row.code.startswith("RESULT_")]
    numbers = [row for row in rows if row.code.isdigit()]
    assert len(names) == len(numbers) == len(rows) / 2
    assert [row._replace(code="") for row in names] == [row._replace(code="") for row in numbers]


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_every_map_knows_the_usual_statuses(gateway: str) -> None:
    rows = GatewayMap.load(gateway).rows
    assert {("send", f"http_{status}") for status in (401, 403, 404, 429, "3xx", "5xx")} <= rows.keys()
    # A word that could stand in any text would make a guess of a reason.
    assert [code for (table, code) in rows if table in {"send", "failure"} and len(code) < 6] == []


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize(
    "hostile", [None, True, 7.5, [], {}, "", " ", "\ud800", "x" * 100_000, "583920 to +33612345678"]
)
def test_reasons_that_are_none(gateway: str, hostile: object) -> None:
    is_told = isinstance(hostile, str) and hostile.strip() != ""
    assert PhoneMap(gateway).failure(hostile) == (RejectionKind.GATEWAY_ERROR, "unmapped reason", is_told)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_the_longest_words_that_fit_decide(gateway: str) -> None:
    phones = PhoneMap(gateway)
    for (table, _), row in GatewayMap.load(gateway).rows.items():
        if table == "failure":
            kind, detail, is_unmapped = phones.failure(f"Oh: {row.code.upper()}, sorry")
            assert not is_unmapped
            assert len(detail) >= len(row.code)
            assert detail != row.code or kind == row.outcome
