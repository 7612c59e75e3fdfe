"""The leak hunt: after everything that can happen to a code, no code and no number stands anywhere, nor what lets a
phone in: enrolment codes, tokens, passwords, passphrases.

A number is kept sealed, masked, or as a blind index, so none can be read without the keyring. The second test is there
to believe the first: what is planted in a place is found there.
"""

import secrets
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from otpsvc.ids import random_base32
from tests.leaks.flows import Flows
from tests.leaks.gateway_flows import GatewayFlows
from tests.leaks.needles import Needles
from tests.leaks.phone_flows import PhoneFlows
from tests.leaks.places import Hit
from tests.leaks.scene import Scene, watched_stack


def told(hits: Iterable[Hit]) -> str:
    """What was found and where, to be read by a person."""
    by_where: dict[tuple[str, str], list[Hit]] = {}
    for hit in hits:
        by_where.setdefault((hit.place, hit.where), []).append(hit)
    return "\n".join(
        f"{place}: {where}: {len(found)} secrets, such as {found[0].secret}\n    {found[0].around!r}"
        for (place, where), found in by_where.items()
    )


def live_through(scene: Scene, *, rounds: int) -> Flows:
    """Let everything happen."""
    flows = Flows(scene.stack)
    phones = PhoneFlows(flows)
    with phones.under_way():
        flows.run(rounds, more=GatewayFlows(flows).all())
    # From here on the service talks as it does in production; until now it said all that it can say.
    scene.stack.variables["OTPSVC_LOG_LEVEL"] = "info"
    scene.lose_worker(flows)
    scene.break_a_script(flows)
    # Not while a worker is lost: events that it held come back after half a minute, and each makes that more likely.
    with phones.asking():
        scene.fill_memory(flows, phones)
        scene.stall_redis(flows)
        scene.refuse_rows(flows, phones)
        scene.lose_server(flows, signal.SIGKILL)
    scene.abort_worker(flows)
    with phones.asking():
        scene.lose_server(flows, signal.SIGABRT)
    scene.use_commands(flows, phones)
    scene.settle()
    phones.close()
    flows.close()
    return flows


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with watched_stack(tmp_path_factory.mktemp("leaks")) as watched:
        yield watched


def test_no_code_and_no_number_is_anywhere(scene: Scene) -> None:
    flows = live_through(scene, rounds=3)
    hits = scene.hunt(scene.secrets_of(flows))
    assert not hits, told(hits)
    assert scene.remains_of(flows.forgotten) == []
    assert scene.gateway_keys() >= {"gate", "sent", "parked"}
    assert scene.outcomes("message.tried") >= {"silent", "unsupported", "gateway_error"}
    assert scene.phone_keys() >= {"device", "pool", "offer", "sim", "recipients"}
    assert scene.outcomes("message.taken_over") >= {"gone", "not_pulled", "silent", "failed"}
    assert len(scene.stack.entries()) > 100
    assert len(scene.stack.answers) > 400
    assert not [name for name in ("serve", "worker") if scene.stack.may_dump_core(name)]


class Plants(NamedTuple):
    """One secret of each kind: a code, an enrolment code, and a token's secret, a password and a passphrase."""

    code: str
    enrolment_code: str
    credentials: tuple[str, str, str]

    @classmethod
    def new(cls) -> "Plants":
        return cls(
            str(secrets.randbelow(9 * 10**9) + 10**9),
            str(secrets.randbelow(9 * 10**5) + 10**5),
            (random_base32(16), secrets.token_hex(7), f"correct-{secrets.token_hex(4)}-horse"),
        )

    def names(self, *, is_binary: bool) -> set[str]:
        """Under which names they are found; among raw pages six digits say nothing."""
        codes = [self.code] if is_binary else [self.code, self.enrolment_code]
        return {f"code {code}" for code in codes} | {f"credential {secret}" for secret in self.credentials}


def test_what_is_planted_is_found(scene: Scene) -> None:
    planted = {place: Plants.new() for place in scene.places}
    for place, plants in planted.items():
        scene.plants(plants.code, plants.enrolment_code, *plants.credentials)[place.name]()
    codes = [code for plants in planted.values() for code in (plants.code, plants.enrolment_code)]
    credentials = [secret for plants in planted.values() for secret in plants.credentials]
    nowhere = "3141592653"
    found = {(hit.place, hit.secret) for hit in scene.hunt(Needles(codes=[*codes, nowhere], credentials=credentials))}
    for place, plants in planted.items():
        assert {(place.name, name) for name in plants.names(is_binary=place.is_binary)} <= found
    assert not [name for _, name in found if nowhere in name]


@pytest.mark.chaos
def test_nothing_is_anywhere_after_thousands_of_calls(tmp_path: Path) -> None:
    with watched_stack(tmp_path) as scene:
        scene.stack.variables |= {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1"}
        for name in ("serve", "worker"):
            scene.stack.end(name, signal.SIGTERM)
            scene.stack.start(name)
        hits = scene.hunt(scene.secrets_of(*[live_through(scene, rounds=20) for _ in range(5)]))
        assert len(scene.stack.entries()) > 3000
    assert not hits, told(hits)
