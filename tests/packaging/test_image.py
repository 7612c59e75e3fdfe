"""The image's recipe, as far as it can be held without building it."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())


def steps(word: str) -> list[str]:
    """List the instructions of one kind."""
    return re.findall(rf"^{word} (.+)$", RECIPE, re.MULTILINE)


def test_all_that_is_copied_exists_and_nothing_else_reaches_the_build() -> None:
    copied = {name for step in steps("COPY") if not step.startswith("--from") for name in step.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert all((ROOT / name).exists() for name in copied)
    assert {name.partition("/")[0] for name in copied} == allowed


def test_it_does_not_run_as_root() -> None:
    *_, user = steps("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_every_package_is_checked_against_the_lock_or_built_here() -> None:
    installs = re.findall(r"\binstall (.+?)(?= &&|$)", "\n".join(steps("RUN")), re.MULTILINE)
    assert len(installs) == 3
    for arguments in installs:
        assert arguments.startswith(("--require-hashes --only-binary :all: ", "--no-index --no-deps "))


def test_commands_are_lists_so_that_signals_arrive() -> None:
    health = [step for step in RECIPE.splitlines() if step.startswith("HEALTHCHECK")]
    (check,) = (json.loads(step.partition("CMD ")[2]) for step in health)
    compile(check[2], "HEALTHCHECK", "exec")
    assert json.loads(steps("ENTRYPOINT")[0]) == ["otpsvc"]
    assert json.loads(steps("CMD")[0])[0] == "serve"
