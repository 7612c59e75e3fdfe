"""What the pool is told of a device, in the words in which it compares: for whoever keeps the pool.

The pool decides by numbers and plain words within one step of the store, so everything that needs a zone, a calendar or
an alphabet is worked out here.
"""

from typing import NamedTuple

from otpsvc.devices.model import Device, DeviceStatus
from otpsvc.devices.operators import operator_word
from otpsvc.devices.quiet import coming_stretch

_OUT = frozenset({DeviceStatus.DISABLED, DeviceStatus.DELETED})


class PoolSim(NamedTuple):
    """One SIM: slot from 0, number from 1, and its operator's word, empty where nobody knows it."""

    slot: int
    number: int
    operator: str


class PoolFacts(NamedTuple):
    """One version of a device. `quiet_from` and `quiet_to` are ms since 1970, both 0 where it has no quiet hours."""

    is_active: bool
    is_out: bool
    sims: tuple[PoolSim, ...]
    quiet_from: int
    quiet_to: int


def facts_of(device: Device, now_s: float) -> PoolFacts:
    """Work out what holds for a device; `now_s` is in seconds since 1970."""
    quiet_from, quiet_to = coming_stretch(device.budget.quiet, now_s)
    return PoolFacts(
        is_active=device.status is DeviceStatus.ACTIVE,
        is_out=device.status in _OUT,
        sims=tuple(PoolSim(sim.slot, sim.number, operator_word(sim.carrier)) for sim in device.sims),
        quiet_from=quiet_from,
        quiet_to=quiet_to,
    )
