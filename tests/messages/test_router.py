"""Who may carry a message: prefixes, clients and channels, weights, quiet hours, price caps, and what cannot work."""

from collections import Counter
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otpsvc.errors import ConfigurationError
from otpsvc.ids import new_message_id
from otpsvc.messages.model import ClaimedMessage, Content
from otpsvc.messages.policy import QuietHours, Route, Routes, RouteStep
from otpsvc.messages.router import Router, Way
from otpsvc.senders.contract import Capabilities, Channel
from otpsvc.testing import RecordingSender

CLIENT = "client_100000000001"
NOON = datetime(2026, 7, 1, 12, 0, tzinfo=ZoneInfo("UTC")).timestamp()
SENDERS = {name: RecordingSender(name) for name in "abcdef"} | {
    "voice": RecordingSender("voice", capabilities=Capabilities(channels=frozenset({Channel.VOICE}))),
    "both": RecordingSender("both", capabilities=Capabilities(channels=frozenset({Channel.VOICE, Channel.SMS}))),
}


def message(*, channel: str = "sms", client_id: str = CLIENT, message_id: str | None = None) -> ClaimedMessage:
    return ClaimedMessage(
        message_id=message_id or new_message_id(partition=0).text,
        token="t",
        client_id=client_id,
        mode="live",
        otp_id="otp",
        channel=channel,
        sealed=b"",
        created_at_ms=0,
        expires_at_ms=300_000,
        life_ms=300_000,
        tries=1,
        begun_by="",
    )


def route(*steps: str | RouteStep, **rules: Any) -> Route:
    return Route(steps=tuple(RouteStep(sender=one) if isinstance(one, str) else one for one in steps), **rules)


def names(way: Way) -> list[str]:
    return [step.sender.name for step in way.steps]


def choose(
    router: Router, to: str = "+33612345678", *, text: str = "123456", now: float = NOON, **facts: Any
) -> list[str]:
    return names(router.steps(message(**facts), Content(to, text), now))


# -- which route


def test_without_routes_the_default_is_the_way_in_its_order() -> None:
    router = Router(Routes(), ("b", "a", "voice"), SENDERS)
    assert choose(router) == ["b", "a"]
    assert choose(router, channel="voice") == ["voice"]
    assert choose(Router(Routes(), (), SENDERS)) == []


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("+393331234567", "c"),
        ("+39333", "c"),
        ("+3933", "b"),
        ("+39061234567", "b"),
        ("+390", "b"),
        ("+3", "a"),
        ("+33612345678", "a"),
        ("+1", "a"),
    ],
)
def test_the_longest_prefix_goes_first(to: str, expected: str) -> None:
    table = {"*": route("a"), "+39": route("b"), "+39333": route("c"), "+3933312345678": route("d")}
    assert choose(Router(Routes({("", "sms"): table}), ("e",), SENDERS), to) == [expected]


@settings(deadline=None)
@given(st.lists(st.text("123", min_size=1, max_size=5), min_size=1, max_size=20), st.text("123", max_size=6))
def test_the_longest_prefix_goes_first_whatever_the_prefixes(prefixes: list[str], digits: str) -> None:
    table = {f"+{prefix}": route("a", max_price=float(len(prefix))) for prefix in prefixes}
    way = Router(Routes({("", ""): table}), ("b",), SENDERS).steps(message(), Content(f"+{digits}", ""), NOON)
    fitting = [len(prefix) for prefix in prefixes if digits.startswith(prefix)]
    assert way.route.max_price == (max(fitting) if fitting else None)


def test_a_clients_table_goes_before_everybodys_and_a_channels_before_every_channels() -> None:
    table = {(CLIENT, "sms"): "a", (CLIENT, ""): "b", ("", "sms"): "c", ("", ""): "d"}
    expected = ["a", "b", "c", "d", "e"]
    while expected:
        routes = Routes({key: {"*": route(name)} for key, name in table.items()})
        assert choose(Router(routes, ("e",), SENDERS)) == [expected.pop(0)]
        if table:
            table.pop(next(iter(table)))


def test_a_table_that_fits_no_number_leaves_it_to_the_next() -> None:
    routes = Routes({(CLIENT, "sms"): {"+39": route("a")}, ("", ""): {"*": route("b")}})
    assert choose(Router(routes, (), SENDERS)) == ["b"]
    assert choose(Router(routes, (), SENDERS), "+39333") == ["a"]
    assert choose(Router(routes, (), SENDERS), "+39333", client_id="client_200000000002") == ["b"]


def test_senders_of_another_channel_are_left_out_of_a_route_for_every_channel() -> None:
    router = Router(Routes({("", ""): {"*": route("a", "voice", "both")}}), (), SENDERS)
    assert choose(router) == ["a", "both"]
    assert choose(router, channel="voice") == ["voice", "both"]
    assert choose(router, channel="email") == []


# -- weights


def weighted(**weights: int) -> list[RouteStep]:
    return [RouteStep(sender=name, weight=weight) for name, weight in weights.items()]


def test_weights_are_drawn_once_per_message() -> None:
    router = Router(Routes({("", ""): {"*": route(*weighted(a=1, b=1, c=1, d=1))}}), (), SENDERS)
    again = Router(Routes({("", ""): {"*": route(*weighted(a=1, b=1, c=1, d=1))}}), (), SENDERS)
    for _ in range(50):
        message_id = new_message_id(partition=0).text
        drawn = choose(router, message_id=message_id)
        assert sorted(drawn) == list("abcd")
        assert choose(again, message_id=message_id) == drawn


def test_weights_share_out_who_comes_first() -> None:
    router = Router(Routes({("", ""): {"*": route(*weighted(a=6, b=3, c=1))}}), (), SENDERS)
    first = Counter(choose(router, message_id=f"msg_{n}")[0] for n in range(3000))
    assert abs(first["a"] - 1800) < 150
    assert abs(first["b"] - 900) < 130
    assert abs(first["c"] - 300) < 90


def test_steps_without_a_weight_keep_their_place() -> None:
    steps: list[str | RouteStep] = ["a", *weighted(b=1, c=1), "d", *weighted(e=1, f=1)]
    router = Router(Routes({("", ""): {"*": route(*steps)}}), (), SENDERS)
    ways = {tuple(choose(router)) for _ in range(200)}
    assert ways == {tuple(way) for way in ("abcdef", "acbdef", "abcdfe", "acbdfe")}


# -- quiet hours


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("start", "end", "moment", "is_quiet"),
    [
        ("22:00", "07:00", "2026-07-01 21:59:59", False),
        ("22:00", "07:00", "2026-07-01 22:00:00", True),
        ("22:00", "07:00", "2026-07-02 00:00:00", True),
        ("22:00", "07:00", "2026-07-02 06:59:59", True),
        ("22:00", "07:00", "2026-07-02 07:00:00", False),
        ("12:00", "13:30", "2026-07-01 11:59:59", False),
        ("12:00", "13:30", "2026-07-01 12:00:00", True),
        ("12:00", "13:30", "2026-07-01 13:29:00", True),
        ("12:00", "13:30", "2026-07-01 13:30:00", False),
        ("00:00", "00:01", "2026-07-01 00:00:30", True),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Rome", "Asia/Kolkata", "America/New_York"])
def test_quiet_hours_are_those_of_their_zone(start: str, end: str, moment: str, is_quiet: bool, zone: str) -> None:
    quiet = QuietHours(start=start, end=end, zone=zone)
    router = Router(Routes({("", ""): {"*": route(RouteStep(sender="a", quiet=quiet), "b")}}), (), SENDERS)
    way = router.steps(message(), Content("+1", ""), at(moment, zone))
    assert names(way) == (["b"] if is_quiet else ["a", "b"])
    assert way.left_out == ((("a", "quiet"),) if is_quiet else ())


def test_quiet_hours_follow_the_summer_time() -> None:
    quiet = QuietHours(start="22:00", end="23:00", zone="Europe/Rome")
    router = Router(Routes({("", ""): {"*": route(RouteStep(sender="a", quiet=quiet))}}), (), SENDERS)
    assert choose(router, now=at("2026-07-01 20:30")) == []
    assert choose(router, now=at("2026-12-01 20:30")) == ["a"]
    assert choose(router, now=at("2026-12-01 21:30")) == []


# -- prices


def test_what_costs_too_much_or_has_no_price_is_left_out_under_a_cap() -> None:
    steps = [RouteStep(sender="a", price=0.08), RouteStep(sender="b", price=0.05), RouteStep(sender="c")]
    capped = Router(Routes({("", ""): {"*": route(*steps, max_price=0.05)}}), (), SENDERS)
    way = capped.steps(message(), Content("+1", "short"), NOON)
    assert names(way) == ["b"]
    assert way.left_out == (("a", "price"), ("c", "price"))
    free = Router(Routes({("", ""): {"*": route(*steps)}}), (), SENDERS)
    assert choose(free) == ["a", "b", "c"]


@pytest.mark.parametrize(("n_letters", "expected"), [(160, ["a", "b"]), (161, ["b"]), (306, ["b"]), (459, [])])
def test_the_price_of_a_message_is_that_of_its_parts(n_letters: int, expected: list[str]) -> None:
    steps = [RouteStep(sender="a", price=0.3), RouteStep(sender="b", price=0.15)]
    router = Router(Routes({("", ""): {"*": route(*steps, max_price=0.3)}}), (), SENDERS)
    assert choose(router, text="x" * n_letters) == expected


def test_three_parts_at_a_third_of_the_cap_are_within_it() -> None:
    router = Router(Routes({("", ""): {"*": route(RouteStep(sender="a", price=0.1), max_price=0.3)}}), (), SENDERS)
    assert choose(router, text="x" * 400) == ["a"]


def test_only_text_messages_have_parts() -> None:
    steps = [RouteStep(sender="both", price=0.3)]
    router = Router(Routes({("", ""): {"*": route(*steps, max_price=0.3)}}), (), SENDERS)
    assert choose(router, text="x" * 400, channel="voice") == ["both"]
    assert choose(router, text="x" * 400) == []


# -- what cannot work

NOWHERE = QuietHours(start="22:00", end="07:00", zone="Europe/Atlantis")
OUTSIDE = QuietHours(start="22:00", end="07:00", zone="../../etc/passwd")
NEVER = QuietHours(start="22:00", end="22:00")
FAULTS: dict[str, tuple[dict[tuple[str, str], dict[str, Route]], str]] = {
    "unknown sender": ({("", "sms"): {"+39": route("a", "zz")}}, r'routes\.sms\."\+39": there is no sender \'zz\''),
    "other channel": ({(CLIENT, "sms"): {"*": route("voice")}}, rf'routes\.{CLIENT}\.sms\."\*".*cannot carry sms'),
    "unknown zone": ({("", ""): {"*": route(RouteStep(sender="a", quiet=NOWHERE))}}, "Europe/Atlantis"),
    "zone outside": ({("", ""): {"*": route(RouteStep(sender="a", quiet=OUTSIDE))}}, "no time zone"),
    "no length": ({("", ""): {"*": route(RouteStep(sender="a", quiet=NEVER))}}, "begin and end at once"),
    "no steps": ({("", ""): {"*": route()}}, "names no sender"),
    "twice": ({("", ""): {"*": route("a", "b", "a")}}, "'a' twice"),
    "no prefix": ({("", ""): {"39": route("a")}}, "a prefix is a plus"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_is_told_at_the_start(fault: str) -> None:
    table, words = FAULTS[fault]
    with pytest.raises(ConfigurationError, match=words):
        Router(Routes(table), ("a",), SENDERS)


def test_a_default_must_name_known_senders() -> None:
    with pytest.raises(ConfigurationError, match=r"delivery\.senders: there is no sender 'zz'"):
        Router(Routes(), ("zz",), SENDERS)


def test_the_longest_time_out_of_all_routes_counts() -> None:
    routes = Routes({("", "sms"): {"*": route(RouteStep(sender="a", timeout_s=25), "b"), "+39": route("c")}})
    router = Router(routes, ("d",), SENDERS)
    assert router.longest_timeout_s(10.0) == 25.0
    assert router.longest_timeout_s(40.0) == 40.0
    assert Router(Routes(), ("d",), SENDERS).longest_timeout_s(10.0) == 10.0
