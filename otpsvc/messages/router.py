"""Who may carry a message, and in which order: the routes of the settings, applied to one message.

A pure choice, and the same one at every claim of a message: what weights decide is drawn with the message id as the
seed, and only the time of day changes who is left out. What happened to the message is the walk's business. Nothing in
here is told to anybody: a number that was routed stays with its caller.
"""

import random
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, tzinfo
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from otpsvc.errors import ConfigurationError
from otpsvc.messages.model import ClaimedMessage, Content
from otpsvc.messages.policy import QuietHours, Route, Routes, RouteStep
from otpsvc.messages.text import count_parts
from otpsvc.senders.contract import Channel, Sender

EVERY_NUMBER = "*"
_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}\Z")
# Prices are decimal fractions kept as binary ones: three parts at 0.1 must not be dearer than a cap of 0.3.
_ROUNDING = 1 + 1e-9

LeftOut = Literal["quiet", "price"]


class Step(NamedTuple):
    """One sender that may be asked, and what its route says of it."""

    sender: Sender[Any]
    rule: RouteStep


class Way(NamedTuple):
    """The route of one message, its steps in the order of asking, and who of its channel was left out, and why."""

    route: Route
    steps: tuple[Step, ...]
    left_out: tuple[tuple[str, LeftOut], ...] = ()

    def patience_s(self, name: str, sender: Sender[Any] | None) -> float:
        """Return how long the receipt of a sender is waited for; `sender` is None where it exists no longer."""
        rule = next((rule for rule in self.route.steps if rule.sender == name), None)
        if rule is not None and rule.receipt_timeout_s is not None:
            return rule.receipt_timeout_s
        within_s = sender.capabilities.receipt_within_s if sender else None
        return max(self.route.receipt_timeout_s, within_s or 0.0)


class Router:
    """Chooses by `routes`, and where none of them fits by `default`, a list of senders for every number.

    The table of a client goes before everybody's, there that of the channel before that of every channel, and in a
    table the longest prefix before shorter ones and `*`. Raises ConfigurationError for whatever would be found out by
    the first message otherwise: a sender or a zone that does not exist, a sender that cannot carry the channel, quiet
    hours without length, a route without steps or with one sender twice.
    """

    def __init__(self, routes: Routes, default: Sequence[str], senders: Mapping[str, Sender[Any]]) -> None:
        self._senders = dict(senders)
        self._zones: dict[str, tzinfo] = {}
        self._default = Route(steps=tuple(RouteStep(sender=name) for name in default))
        self._check_route(self._default, "delivery.senders", "")
        for (client_id, channel), stretches in routes.table.items():
            table = ".".join(["routes", *filter(None, (client_id, channel))])
            for prefix, route in stretches.items():
                where = f'{table}."{prefix}"'
                if prefix != EVERY_NUMBER and not _PREFIX.match(prefix):
                    raise ConfigurationError(f"{where}: a prefix is a plus and 1 to 15 digits, or {EVERY_NUMBER}")
                if not route.steps:
                    raise ConfigurationError(f"{where} names no sender")
                self._check_route(route, where, channel)
        self._table = routes.table
        given = [route for stretches in routes.table.values() for route in stretches.values()]
        self._timeouts = [step.timeout_s for route in given for step in route.steps if step.timeout_s is not None]

    def longest_timeout_s(self, default_s: float) -> float:
        """Return the longest that any step may take, where those without a bound of their own take `default_s`."""
        return max([default_s, *self._timeouts])

    def steps(self, claimed: ClaimedMessage, content: Content, now: float) -> Way:
        """Choose for one message; `now` is the time of day, in seconds since 1970."""
        route = self._route(claimed.client_id, claimed.channel, content.to)
        steps: list[Step] = []
        left_out: list[tuple[str, LeftOut]] = []
        n_parts: int | None = None
        for rule in _drawn(route.steps, claimed.message_id):
            sender = self._senders[rule.sender]
            if claimed.channel not in sender.capabilities.channels:
                continue
            # One that is for a certain phone goes by that phone or not at all.
            if content.device_id and not sender.capabilities.is_pool:
                continue
            if rule.quiet is not None and self._is_quiet(rule.quiet, now):
                left_out.append((rule.sender, "quiet"))
                continue
            if route.max_price is not None:
                if n_parts is None:
                    n_parts = count_parts(content.text)[0] if claimed.channel == Channel.SMS else 1
                if rule.price is None or rule.price * n_parts > route.max_price * _ROUNDING:
                    left_out.append((rule.sender, "price"))
                    continue
            steps.append(Step(sender, rule))
        return Way(route, tuple(steps), tuple(left_out))

    def ways(self, client_id: str, channel: str, to: str) -> tuple[int, int]:
        """Return how many pools of phones, and how many other senders, may carry a message to a number (E.164)."""
        carriers = [self._senders[rule.sender].capabilities for rule in self._route(client_id, channel, to).steps]
        are_pools = [able.is_pool for able in carriers if channel in able.channels]
        return sum(are_pools), len(are_pools) - sum(are_pools)

    def _route(self, client_id: str, channel: str, to: str) -> Route:
        for key in ((client_id, channel), (client_id, ""), ("", channel), ("", "")):
            if stretches := self._table.get(key):
                for length in range(len(to), 1, -1):
                    if route := stretches.get(to[:length]):
                        return route
                if route := stretches.get(EVERY_NUMBER):
                    return route
        return self._default

    def _is_quiet(self, quiet: QuietHours, now: float) -> bool:
        start, end = _time(quiet.start), _time(quiet.end)
        local = datetime.fromtimestamp(now, self._zones[quiet.zone]).time()
        return start <= local < end if start < end else local >= start or local < end

    def _check_route(self, route: Route, where: str, channel: str) -> None:
        names = [rule.sender for rule in route.steps]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigurationError(f"{where} names the sender {twice!r} twice")
        for rule in route.steps:
            sender = self._senders.get(rule.sender)
            if sender is None:
                raise ConfigurationError(f"{where}: there is no sender {rule.sender!r}")
            if channel and channel not in sender.capabilities.channels:
                raise ConfigurationError(f"{where}: the sender {rule.sender!r} cannot carry {channel} messages")
            if rule.quiet is not None:
                self._check_quiet(rule.quiet, f"{where}: quiet hours of {rule.sender!r}")

    def _check_quiet(self, quiet: QuietHours, where: str) -> None:
        if quiet.start == quiet.end:
            raise ConfigurationError(f"{where} begin and end at once; to use the sender never, leave it out")
        try:
            # UTC must not depend on whether this machine has a database of zones.
            self._zones[quiet.zone] = UTC if quiet.zone == "UTC" else ZoneInfo(quiet.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigurationError(f"{where}: there is no time zone {quiet.zone!r} on this machine") from None


def _drawn(rules: tuple[RouteStep, ...], message_id: str) -> list[RouteStep]:
    """Put each run of steps with weights into the order that is drawn for this message."""
    if all(rule.weight is None for rule in rules):
        return list(rules)
    # Not for secrets: the draw must be the same in every worker.
    chance = random.Random(message_id)  # noqa: S311 - it spreads load, whoever can foresee it gains nothing
    drawn: list[RouteStep] = []
    run: list[tuple[float, RouteStep]] = []
    for rule in rules:
        if rule.weight is None:
            drawn += _by_luck(run)
            run = []
            drawn.append(rule)
        else:
            # Weighted sampling without replacement: the largest of u ** (1 / weight) comes first, and so on.
            run.append((chance.random() ** (1 / rule.weight), rule))
    return drawn + _by_luck(run)


def _by_luck(run: list[tuple[float, RouteStep]]) -> list[RouteStep]:
    return [rule for _, rule in sorted(run, key=lambda drawn: drawn[0], reverse=True)]


def _time(text: str) -> time:
    return time.fromisoformat(text)
