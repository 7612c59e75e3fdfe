"""Every error of the systems that this product was drawn from has its row, and each row leads to a rule of ours."""

import csv
import importlib
from pathlib import Path
from typing import Any

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
from otpsvc.testing import SenderConformance

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


# The tables of codes and words that the gateways publish, beside the list: each has a row where it can occur.
PUBLISHED: dict[tuple[str, str], str] = {
    ("vonage-sms", "send"): "0 1 2 3 4 5 6 7 8 9 10 11 12 14 15 22 23 29 32 33",
    ("vonage-sms", "failure"): "1 2 3 4 5 6 7 8 9 10 11 12 13 14",
    ("vonage-sms", "state"): "accepted buffered delivered expired failed rejected unknown",
    ("vonage-messages", "failure"): "1000 1010 1020 1021 1022 1030 1040 1050 1060 1070 1080 1090 1100 1120 1130 1140"
    " 1150 1160 1170 1180 1190 1200 1210 1220 1230 1240 1241 1250 1260 1270 1280 1290 1300 1310 1320 1330 1331 1340"
    " 1350 1360",
    ("vonage-messages", "state"): "submitted delivered rejected undeliverable read",
    ("notificore", "state"): "scheduled moderation sending accepted sent delivered read expired undeliverable unknown",
    ("zimsend", "state"): "queued processing sent delivered failed expired cancelled",
    ("unimsg", "state"): "queued sent delivered read failed",
    ("smsgate", "state"): "Pending Processed Sent Delivered Failed Cancelling Cancelled",
    ("httpsms", "state"): "pending scheduled sending sent delivered failed expired deleted",
    ("textbee", "state"): "pending dispatched sent delivered failed unknown",
}
OUTCOME_OF_RULE = {"done": Accepted, "after": RetryLater, "unknown": Unknown}


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
        # What may succeed later is not given up for good, and what never will is not asked for again.
        if seed["retryable"] == "yes":
            assert row.rule in {"after", "next", "unknown"}
        if seed["retryable"] == "no":
            assert row.rule not in {"after", "unknown"}
        if seed["category"] == "credit":
            assert row.error in {"NO_CREDIT", "INSUFFICIENT_CREDITS"}


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed["system"] == "zimsend"], ids=named)
def test_codes_of_the_system_that_we_replace_keep_their_name_and_status(seed: dict[str, str]) -> None:
    assert CATALOGUE[seed["code"]].status == int(seed["http_status"])
    assert {row.error for row in rows_of(seed)} == {seed["code"]}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_map_is_well_formed_and_each_of_its_rows_is_what_a_sender_is_told(gateway: str) -> None:
    read = GatewayMap.load(gateway)
    assert read.rows
    for row in read.rows.values():
        assert row.meaning.strip() == row.meaning != ""
        match row.table:
            case "state":
                assert read.status(row.code).value == row.outcome
            case "failure":
                assert read.kind(row.code).value == row.outcome
            case "send":
                outcome = read.outcome(row.code)
                expected: Any = OUTCOME_OF_RULE.get(row.rule, Rejected)
                assert isinstance(outcome, expected)
                if isinstance(outcome, Rejected):
                    assert (outcome.kind.value, outcome.is_unmapped) == (row.outcome, False)
                    assert RULES[outcome.kind].needs_operator is (row.rule == "alarm")
                    assert RULES[outcome.kind].next_may_try is (row.rule != "never")


@pytest.mark.parametrize(("gateway", "table"), PUBLISHED)
def test_what_a_gateway_publishes_has_its_rows(gateway: str, table: str) -> None:
    read = GatewayMap.load(gateway)
    assert [code for code in PUBLISHED[gateway, table].split() if read.row(table, code) is None] == []


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


# Notificore's failures are words for states and bear no code; for `smpp` see test_smpp_receipts.py.
@pytest.mark.parametrize(
    "name",
    [
        *("vonage_sms", "vonage_messages", "twilio", "zimsend", "unimsg"),
        *("webhook", "smsgate", "httpsms", "textbee"),
    ],
)
def test_an_unknown_code_in_a_receipt_is_tried_with_every_sender_that_reads_codes(name: str) -> None:
    module = importlib.import_module(f"tests.senders.test_{name}")
    assert module.TestConformance.odd_failure_for is not SenderConformance.odd_failure_for


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
