"""Every error of the systems that this product was drawn from has its row, and each row leads to a rule of ours."""

import csv
from pathlib import Path

import pytest

from otpsvc.errors import CATALOGUE
from otpsvc.senders.contract import (
    ERROR_OF,
    RULES,
    Accepted,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap, MapRow

DATA = Path(__file__).parent / "data" / "seed-errors.csv"
MAPS = Path(__file__).parents[2] / "otpsvc" / "senders" / "maps"
# Whose errors stand in which map.
MAP_OF = {
    "zimsend": "zimsend",
    "notificore_v1": "notificore",
    "notificore_v2": "notificore-2fa",
    "unimsg": "unimsg",
    "vonage": "vonage-messages",
    "voicehire": "voicehire",
}
SEEDS = list(csv.DictReader(DATA.read_text("utf-8").splitlines()))
GATEWAYS = sorted(path.stem for path in MAPS.glob("*.csv"))

# What each category of the list must come to, whichever gateway says it. `api`: of a call that we do not make.
OUTCOMES = {
    "success": {"accepted"},
    "auth": {"unauthorised", "misconfigured"},
    "permission": {"unauthorised", "misconfigured", "unsupported"},
    "credit": {"no_credit"},
    "rate_limit": {"retry", "unavailable"},
    "sender": {"sender_refused"},
    "tariff": {"misconfigured", "unsupported"},
    "gateway": {"retry", "unknown", "unavailable", "gateway_error"},
    "server": {"retry", "unknown", "gateway_error"},
    "reserved": {"gateway_error"},
}


def rows_of(seed: dict[str, str]) -> list[MapRow]:
    gateway = GatewayMap.load(MAP_OF[seed["system"]])
    return [row for table in ("send", "failure", "api") if (row := gateway.row(table, seed["code"]))]


def named(seed: dict[str, str]) -> str:
    return f"{seed['system']}-{seed['code']}"


def test_the_list_is_whole() -> None:
    assert len(SEEDS) == 155
    assert {seed["system"] for seed in SEEDS} == MAP_OF.keys()


@pytest.mark.parametrize("seed", SEEDS, ids=named)
def test_every_error_of_the_list_has_a_rule_of_ours(seed: dict[str, str]) -> None:
    rows = rows_of(seed)
    assert rows, "no row"
    for row in rows:
        assert row.rule in {"done", "never", "after", "next", "alarm", "unknown"}
        assert row.meaning
        assert row.error in CATALOGUE or (not row.error and row.outcome == "accepted")
        if row.rule == "after":
            assert row.after_s > 0
        if row.table == "send" and seed["category"] in OUTCOMES:
            assert row.outcome in OUTCOMES[seed["category"]]
        if seed["category"] == "credit":
            assert row.error in {"NO_CREDIT", "INSUFFICIENT_CREDITS"}


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed["system"] == "zimsend"], ids=named)
def test_codes_of_the_system_that_we_replace_keep_their_name_and_status(seed: dict[str, str]) -> None:
    assert CATALOGUE[seed["code"]].status == int(seed["http_status"])
    assert {row.error for row in rows_of(seed)} == {seed["code"]}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_map_is_well_formed(gateway: str) -> None:
    rows = GatewayMap.load(gateway).rows
    assert rows
    for row in rows.values():
        assert row.meaning.strip() == row.meaning != ""
        assert row.rule


@pytest.mark.parametrize("code", ["", "99999", "a" * 500, "\x00", None, 7.5, "'; drop", "é"])
def test_an_unknown_code_is_a_gateway_error_that_somebody_should_look_at(code: object) -> None:
    for gateway in GATEWAYS:
        outcome = GatewayMap.load(gateway).outcome(code)
        assert isinstance(outcome, Rejected)
        assert (outcome.kind, outcome.is_unmapped) == (RejectionKind.GATEWAY_ERROR, True)
        assert len(outcome.detail) < 70
        assert outcome.detail.isascii()
        assert GatewayMap.load(gateway).kind(code) is RejectionKind.GATEWAY_ERROR
        assert GatewayMap.load(gateway).status(code) is ReceiptStatus.UNKNOWN


@pytest.mark.parametrize("code", ["+33612345678", "123456", "no-credit for 33612345678", "a b", "x" * 41])
def test_what_may_be_a_number_or_a_code_of_ours_is_not_repeated(code: str) -> None:
    outcome = GatewayMap.load(GATEWAYS[0]).outcome(code)
    assert isinstance(outcome, Rejected)
    assert outcome.detail == "unmapped code (not shown)"


def test_every_kind_has_an_error_of_the_catalogue() -> None:
    assert ERROR_OF.keys() == RULES.keys()
    assert set(ERROR_OF.values()) <= CATALOGUE.keys()


HEAD = "table,code,outcome,after_s,error,meaning\n"


def test_rows_lead_to_outcomes() -> None:
    gateway = GatewayMap.from_csv(
        "acme",
        HEAD + "send,0,accepted,,,taken\nsend,1,retry,9,,busy\nsend,2,retry,,,busy\nsend,3,unknown,,,who knows\n"
        "send,Bad-Number,invalid_number,,,no such number\nfailure,7,undeliverable,,SMS_SEND_TIMEOUT,late\n"
        "state,DELIVRD,delivered,,,there\n",
    )  # fmt: skip
    assert gateway.outcome(0) == Accepted()
    assert gateway.outcome("1") == RetryLater(9.0, "code 1")
    assert gateway.outcome(" 1 ", after_s=30.0) == RetryLater(30.0, "code 1")
    assert gateway.outcome(2) == RetryLater(5.0, "code 2")
    assert gateway.outcome(3) == Unknown("code 3")
    assert gateway.outcome("bad-number", detail="HTTP 400") == Rejected(RejectionKind.INVALID_NUMBER, "HTTP 400")
    assert gateway.kind("7") is RejectionKind.UNDELIVERABLE
    assert gateway.status("delivrd") is ReceiptStatus.DELIVERED
    assert [row.rule for row in gateway.rows.values()] == ["done", "after", "after", "unknown", "never", "next", "done"]
    assert gateway.rows["failure", "7"].error == "SMS_SEND_TIMEOUT"
    assert gateway.rows["send", "bad-number"].error == "INVALID_PHONE_NUMBER"


@pytest.mark.parametrize(
    "row",
    [
        "sends,0,accepted,,,x",
        "send,,accepted,,,x",
        "send,0,acepted,,,x",
        "send,0,accepted,,NO_SUCH_ERROR,x",
        "send,0,retry,soon,,x",
        "state,0,accepted_,,,x",
        "failure,0,retry,,,x",
        "send,0",
        "send,0,accepted,,,x,y",
        "send,A,accepted,,,x\nsend,a,accepted,,,x",
    ],
)
def test_a_bad_row_is_refused_with_its_line(row: str) -> None:
    with pytest.raises(ValueError, match=r"map of acme, line [23]"):
        GatewayMap.from_csv("acme", HEAD + row + "\n")
