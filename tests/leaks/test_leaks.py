"""The leak hunt: after everything that can happen to a code, no code and no number stands anywhere.

A number is kept sealed, masked, or as a blind index, so none can be read without the keyring. The second test is there
to believe the first: what is planted in a place is found there.
"""

import secrets
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.leaks.flows import Flows
from tests.leaks.gateway_flows import GatewayFlows
from tests.leaks.needles import Needles
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
    flows.run(rounds, more=GatewayFlows(flows).all())
    # From here on the service talks as it does in production; until now it said all that it can say.
    scene.stack.variables["OTPSVC_LOG_LEVEL"] = "info"
    scene.lose_worker(flows)
    scene.break_a_script(flows)
    scene.fill_memory(flows)
    scene.stall_redis(flows)
    scene.refuse_rows(flows)
    scene.lose_server(flows, signal.SIGKILL)
    scene.abort_worker(flows)
    scene.lose_server(flows, signal.SIGABRT)
    scene.use_commands(flows)
    scene.settle()
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
    assert scene.gateway_keys() >= {"gate", "calls", "sent", "parked"}
    assert scene.tried() >= {"silent", "unsupported", "gateway_error"}
    assert len(scene.stack.entries()) > 100
    assert len(scene.stack.answers) > 400
    assert not [name for name in ("serve", "worker") if scene.stack.may_dump_core(name)]


def test_what_is_planted_is_found(scene: Scene) -> None:
    names = [place.name for place in scene.places]
    planted = {name: str(secrets.randbelow(9 * 10**9) + 10**9) for name in names}
    for name, secret in planted.items():
        scene.plants(secret)[name]()
    found = {(hit.place, hit.secret) for hit in scene.hunt(Needles(codes=planted.values()))}
    assert {(name, f"code {secret}") for name, secret in planted.items()} <= found
    assert scene.hunt(Needles(codes=["3141592653"])) == []


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
