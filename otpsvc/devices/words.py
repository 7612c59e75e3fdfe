"""A phone as it is told to whoever runs it: one set of facts for the API and `--json`, and the same for a terminal.

Numbers are shown as the phone told them, masked but for their last four characters. Nothing here may show what opens a
door: no token, no login, no passphrase. A phone chooses its own name, so nothing of it may drive a terminal.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from otpsvc.devices.model import Device, DeviceState, DeviceView, Sim, SimUse
from otpsvc.devices.policy import Budget
from otpsvc.messages.policy import QuietHours

HEAD = ("DEVICE", "NAME", "CLIENT", "MODE", "STATUS", "VERSION", "PRESENCE", "WAITING", "USED", "LAST ERROR")

_MOST_SHOWN = 200
# A phone that may not say which SIMs it has sends with one all the same, and that one has a budget.
_NAMELESS = (Sim(slot=0, number=1),)


def facts_of(view: DeviceView) -> dict[str, Any]:
    """Return all that may be told of a device; what the store did not answer is None. Times are datetimes in UTC."""
    device, state = view.device, view.state
    known = state or DeviceState()
    return {
        "device_id": device.id,
        "name": device.name,
        "mode": device.mode,
        "status": device.status.value,
        "version": device.version,
        "is_online": state.is_online if state else None,
        "disconnect_reason": None if known.is_online else known.gone or None,
        "waiting": state.waiting if state else None,
        "sims": [_sim_facts(sim, _use(sim, state)) for sim in device.sims or _NAMELESS],
        "budget": _budget_facts(device.budget),
        "has_passphrase": device.has_passphrase,
        "last_error": known.last_error or None,
        "last_error_at": _time(known.last_error_at),
        "created_at": device.created_at,
        "confirmed_at": device.confirmed_at,
        "connected_at": _time(known.connected_at),
        "last_seen_at": _last_seen(device, known),
        "last_pulled_at": _time(known.pulled_at),
    }


def row_of(view: DeviceView, now: datetime) -> tuple[str, ...]:
    """Return the cells under `HEAD`."""
    device, state = view.device, view.state
    return (
        device.id,
        printable(device.name),
        device.client_id,
        device.mode,
        device.status.value,
        str(device.version),
        _presence(view, now),
        "?" if state is None else str(state.waiting),
        "; ".join(_used(sim, view) for sim in device.sims or _NAMELESS),
        _error(state, now),
    )


def lines_of(view: DeviceView, now: datetime) -> Sequence[tuple[str, str]]:
    """Return a line for each thing that is known of a device: what it is, and its value."""
    device, state = view.device, view.state
    budget = device.budget
    sims = [(f"SIM {sim.number}", f"{sim_in_words(sim)}; used {_used(sim, view)}") for sim in device.sims or _NAMELESS]
    messages = f"{budget.messages_per_window} messages in {budget.window_s} s"
    spare = "; only when no other phone could be" if budget.is_spare else ""
    return (
        ("id", device.id),
        ("name", printable(device.name)),
        ("client", f"{device.client_id}, {device.mode}"),
        ("status", device.status.value),
        ("version", str(device.version)),
        ("presence", _presence(view, now)),
        ("waiting", "?" if state is None else str(state.waiting)),
        *sims,
        ("budget of a SIM", f"{messages}, {budget.recipients_per_day} different numbers in 24 h{spare}"),
        ("quiet", _quiet_in_words(budget.quiet)),
        ("end to end", "encrypted with its passphrase" if device.has_passphrase else "not encrypted"),
        ("last error", _error(state, now)),
        ("paired", f"{device.created_at:%Y-%m-%d %H:%M} UTC"),
    )


def sim_in_words(sim: Sim) -> str:
    """Return what the phone says of a SIM."""
    return printable(" ".join(filter(None, (sim.carrier, sim.phone_number)))) or "nothing told of it"


def printable(text: str) -> str:
    """Make a phone's words fit for a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:_MOST_SHOWN])


def _sim_facts(sim: Sim, use: SimUse | None) -> dict[str, Any]:
    return {
        "slot": sim.slot,
        "number": sim.number,
        "phone_number": sim.phone_number,
        "carrier": sim.carrier,
        "iccid": sim.iccid,
        "messages_used": use.messages if use else None,
        "recipients_used": use.recipients if use else None,
    }


def _budget_facts(budget: Budget) -> dict[str, Any]:
    quiet = budget.quiet
    return {
        "messages_per_window": budget.messages_per_window,
        "window_s": budget.window_s,
        "recipients_per_day": budget.recipients_per_day,
        "quiet": {"start": quiet.start, "end": quiet.end, "zone": quiet.zone} if quiet else None,
        "is_spare": budget.is_spare,
    }


def _use(sim: Sim, state: DeviceState | None) -> SimUse | None:
    if state is None:
        return None
    # A SIM that nothing was counted of has used nothing.
    return next((one for one in state.sims if one.slot == sim.slot), SimUse(slot=sim.slot, messages=0, recipients=0))


def _used(sim: Sim, view: DeviceView) -> str:
    use, budget = _use(sim, view.state), view.device.budget
    if use is None:
        return "?"
    return f"{use.messages}/{budget.messages_per_window} {use.recipients}/{budget.recipients_per_day}"


def _presence(view: DeviceView, now: datetime) -> str:
    state = view.state
    if state is None:
        return "unknown"
    if state.is_online:
        return "online"
    seen_at = _last_seen(view.device, state)
    since = f" {_ago(seen_at, now)}" if seen_at else ", never seen"
    return f"offline{since}{', ' + state.gone if state.gone else ''}"


def _error(state: DeviceState | None, now: datetime) -> str:
    if state is None or not state.last_error:
        return "-"
    at = _time(state.last_error_at)
    return printable(state.last_error) + (f", {_ago(at, now)} ago" if at else "")


def _quiet_in_words(quiet: QuietHours | None) -> str:
    return f"{quiet.start} to {quiet.end}, {quiet.zone}" if quiet else "never"


def _ago(then: datetime, now: datetime) -> str:
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _last_seen(device: Device, state: DeviceState) -> datetime | None:
    # PostgreSQL is told at most once a minute, the store forgets after a week.
    return max(filter(None, (device.last_seen_at, _time(state.seen_at))), default=None)


def _time(at_ms: int) -> datetime | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms else None
