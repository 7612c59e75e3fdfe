"""Log lines: whole, bounded, without the words of faults, and never the reason for a failure."""

import asyncio
import gc
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from otpsvc import logs
from otpsvc.errors import problem
from otpsvc.redaction import REDACTED
from tests.logs.conftest import FORMS, Lines, Objects, log, shared, unheard_by_pytest, written

PATIENCE_S = 60
CODE = "4711081512"


# -- what a line is


def test_a_line_says_when_where_and_what(objects: Objects) -> None:
    log.warning("partition %d waits for %s", 7, "the store", extra={"tries": 3})
    (line,) = objects()
    said_at = datetime.fromisoformat(line.pop("timestamp"))
    assert said_at.utcoffset() == timedelta(0)
    assert line.pop("pid") > 0
    assert line == {
        "level": "warning",
        "logger": "otpsvc.tests",
        "event": "partition 7 waits for the store",
        "tries": 3,
    }


def test_the_text_form_says_the_same() -> None:
    read = written("text")
    log.warning("it waits", extra={"tries": 3, "why": "no time"})
    (line,) = read()
    assert re.fullmatch(r'\S+Z warning  otpsvc\.tests: it waits pid=\d+ tries=3 why="no time"', line)


def test_ours_are_heard_from_their_level_and_libraries_from_a_warning() -> None:
    read = written("json", level="debug")
    log.debug("one")
    for name in ("uvicorn.error", "litestar", "asyncpg.pool", "asyncio"):
        logging.getLogger(name).info("two")
        logging.getLogger(name).warning("three")
    assert [json.loads(line)["event"] for line in read()] == ["one", *["three"] * 4]


def test_the_last_configuration_counts() -> None:
    before = written("json")
    after = written("text")
    log.info("once")
    assert before() == []
    assert len(after()) == 1


def test_structlogs_own_loggers_take_the_same_way(objects: Objects) -> None:
    structlog.get_logger("otpsvc.plugin").warning("sent %s", "one", code=CODE, tries=2)
    (line,) = objects()
    assert (line["event"], line["code"], line["tries"], line["logger"]) == ("sent one", REDACTED, 2, "otpsvc.plugin")


async def test_bound_fields_are_in_every_line_of_their_task(objects: Objects) -> None:
    async def serve(request_id: str) -> None:
        with logs.bound(request_id=request_id):
            await asyncio.sleep(0)
            log.info(request_id)

    await asyncio.gather(*(serve(f"req_{number}") for number in range(5)))
    log.info("afterwards")
    found = objects()
    assert [line.get("request_id") for line in found[:5]] == [line["event"] for line in found[:5]]
    assert "request_id" not in found[5]


@pytest.mark.parametrize("name", ["timestamp", "level", "logger", "event", "pid"])
def test_nobody_else_writes_our_fields(objects: Objects, name: str) -> None:
    log.info("mine", extra={name: "forged"})
    (line,) = objects()
    assert line[name] != "forged"


# -- faults


def _fail(words: str) -> None:
    raise ValueError(words)


def test_an_exception_is_its_type_and_place(lines: Lines) -> None:
    try:
        _fail(f"the text was {CODE}")
    except ValueError as error:
        log.exception("it failed")
        log.warning("it failed: %s", error)
        log.warning(error)
        log.info("it failed", extra={"why": error}, stack_info=True)
    found = lines()
    assert len(found) == 4
    for line in found:
        assert "ValueError at test_logs.py:" in line
        assert CODE not in line
        assert "Traceback" not in line


def test_a_refusal_of_ours_is_its_code(objects: Objects) -> None:
    log.error("not recorded: %s", problem("SERVICE_UNAVAILABLE", details={"code": CODE}))
    assert objects()[0]["event"] == "not recorded: SERVICE_UNAVAILABLE"


def test_each_of_a_group_is_named(objects: Objects) -> None:
    group = ExceptionGroup(CODE, [ValueError(CODE), ExceptionGroup(CODE, [TypeError(CODE)])])
    log.error("failed", exc_info=group)
    assert objects()[0]["exception"] == "ValueError, TypeError"


def test_what_the_event_loop_says_has_no_words_of_others(lines: Lines) -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ValueError(CODE)

        def break_down(text: str) -> None:
            raise ValueError(text)

        loop = asyncio.get_running_loop()
        loop.create_task(fail())  # noqa: RUF006 - nobody asks it
        loop.call_soon(break_down, CODE)
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(main())
    found = lines()
    assert len(found) == 2
    for line in found:
        assert "ValueError at test_logs.py:" in line
        assert CODE not in line


def test_warnings_are_lines(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn(f"cannot read {CODE}: x", stacklevel=1)
        warnings.warn(f"{CODE}\n:1: Fault: x", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    first, second = lines()
    for line, kind in ((first, "UserWarning"), (second, "DeprecationWarning")):
        assert "py.warnings" in line
        assert f"{kind} at test_logs.py:" in line
        assert CODE not in line


DYING = f"""
import logging, sys, threading
from otpsvc import logs
logs.configure("info", sys.argv[1])
class Heavy:
    def __del__(self): raise ValueError("{CODE}")
Heavy()
thread = threading.Thread(target=lambda: int("{CODE}x"))
thread.start(); thread.join()
async def main():
    import asyncio
    async with asyncio.TaskGroup() as tasks:
        async def fail(): raise ValueError("{CODE}")
        tasks.create_task(fail())
import asyncio
asyncio.run(main())
"""


@pytest.mark.parametrize("form", FORMS)
def test_a_process_dies_without_a_word_of_its_fault(form: str) -> None:
    died = subprocess.run(
        [sys.executable, "-c", DYING, form], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert died.returncode == 1
    assert len(died.stderr.splitlines()) == 3, died.stderr
    assert CODE not in died.stderr
    assert died.stderr.count("ValueError at ") == 3
    assert "the process ends by a fault" in died.stderr


# -- one line, bounded, whatever comes

_ANYTHING = st.text(st.characters(), max_size=200)


@given(text=_ANYTHING, other=_ANYTHING)
@shared
def test_nobody_writes_a_line_of_their_own(text: str, other: str) -> None:
    for form in FORMS:
        read = written(form)
        log.info(text)
        log.info("x %s", text)
        log.info("x", extra={"field": text, other or "_": text} if other not in vars(_record()) else {"field": text})
        found = read()
        assert len(found) == 3
        for line in found:
            assert line.isprintable()
            assert form == "text" or json.loads(line)["logger"] == "otpsvc.tests"


def _record() -> logging.LogRecord:
    record = logging.LogRecord("", 0, "", 0, "", (), None)
    record.message = record.asctime = ""
    return record


def test_a_forged_line_stays_within_its_own(lines: Lines) -> None:
    log.info('x\n{"level": "critical", "event": "forged"}\r\x1b[2J\u2028\u202e\x85\x7f')
    (line,) = lines()
    assert line.isascii()
    assert line.isprintable()


@pytest.mark.parametrize(
    "text",
    ["x" * 100_000, "\U0001f600" * 10_000, "\ud800" * 10_000, "\x00" * 10_000, "+1" * 9999],
    ids=["letters", "emoji", "surrogates", "zeros", "numbers"],  # surrogates cannot be told from process to process
)
def test_a_line_has_an_end(lines: Lines, text: str) -> None:
    with unheard_by_pytest():
        log.info(text)
        log.info("x", extra={f"field{number}": text for number in range(100)})
        log.info("x", extra={"field": [[text] * 100] * 100})
        log.info("x", exc_info=type(text[:9000].encode("unicode_escape").decode()[:500], (Exception,), {})())
        with logs.bound(request_id=text):
            log.info("x")
    found = lines()
    assert len(found) == 5
    for line in found:
        assert len(line.encode()) < logs.LONGEST_LINE


class _Hostile:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __str__(self) -> str:
        raise self._error

    __repr__ = __str__


@pytest.mark.parametrize("error", [ValueError(CODE), RuntimeError(CODE), RecursionError(CODE), UnicodeError(CODE)])
def test_logging_never_raises(
    lines: Lines, error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test runner's own handlers do raise.
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler for handler in root.handlers if isinstance(handler, logs._Lines)])
    hostile = _Hostile(error)
    log.info("x %s", hostile)
    log.info(hostile)
    log.info("x", extra={"field": hostile})
    log.info("x %s %s", 1)
    log.info("x %d", CODE)
    log.info("x %(missing)s", {"given": 1})
    log.info("x", extra={"field": 10**5000})
    loop: list[Any] = []
    loop.append(loop)
    log.info("x %s", loop)
    assert len(lines()) == 8
    assert capsys.readouterr().err == ""


def test_a_closed_stream_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    stream.close()
    log.info("x")
    assert capsys.readouterr().err == ""


WRITING = """
import logging, sys
from otpsvc import logs
logs.configure("info", "json")
log = logging.getLogger("otpsvc.x")
for number in range(300):
    log.info("%d %s", number, "x" * 900, extra={f"field{i}": "y" * 900 for i in range(3)})
"""


def test_lines_of_two_processes_on_one_pipe_stay_whole() -> None:
    reading, writing = os.pipe()
    processes = [subprocess.Popen([sys.executable, "-c", WRITING], stderr=writing) for _ in range(2)]
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            found = [json.loads(line) for line in pipe]
    finally:
        for process in processes:
            process.kill()
            process.wait(PATIENCE_S)
    assert len(found) == 600
    assert {len(line["field2"]) for line in found} == {900}
