"""Log lines: one line of JSON or text each, without secrets, bounded in length, and never a reason to fail.

Our modules log through the standard library as ever; here its records, and those of every library, are turned into
lines. An exception is written as its type and place: its words may repeat a text. What a line may not hold is taken out
in `redaction`; that is no licence to log a code, which nobody can tell from a port number.

A line is at most 4096 bytes and one write, so that lines of several processes on one pipe stay whole.
"""

import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import BoundLogger, ExtraAdder, LoggerFactory, PositionalArgumentsFormatter, ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

from otpsvc.faults import described
from otpsvc.redaction import redacted

LONGEST_LINE = 4096

_MOST_EXTRAS = 20
_MOST_FAULTS = 8
# How long a string may be, tried in turn: a letter takes up to twelve bytes as JSON, and the last one always fits.
_LENGTHS = (1000, 250, 40)
# What libraries and other handlers attach to a record beside what it says.
_NOISE = ("asctime", "color_message", "message", "stack_info")
_WORD = re.compile(r"[^\s\"'=]+")
_WARNING = re.compile(r"([^\n]{1,1000}):(\d{1,9}): (\w{1,100}): ")

_bound: ContextVar[Mapping[str, str]] = ContextVar("otpsvc_log_fields")
_log = logging.getLogger(__name__)


def configure(level: str, form: Literal["json", "text"], stream: TextIO | None = None) -> None:
    """Write what is logged to `stream` (None: standard error): ours from `level` up, that of libraries from a warning.

    Uncaught exceptions, of threads too, and warnings become lines as well. May be called again; the last call counts.
    """
    handler = _Lines(stream or sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[ExtraAdder(), _message],
            processors=[_fields, _as_json if form == "json" else _as_text],
            use_get_message=False,
            pass_foreign_args=True,
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Lines)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("otpsvc").setLevel(level.upper())
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[PositionalArgumentsFormatter(), ProcessorFormatter.wrap_for_formatter],
        logger_factory=LoggerFactory(),
        wrapper_class=BoundLogger,
    )
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


def bound(**fields: str) -> contextlib.AbstractContextManager[None]:
    """Put these fields into every line logged within a `with`, by the tasks begun in it too. Takes about 1 µs."""
    return _Bound(fields)


class _Bound(contextlib.AbstractContextManager[None]):
    # A class: a generator would take three times as long, and this may stand around every request.
    __slots__ = ("_fields", "_token")
    _token: Token[Mapping[str, str]]

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token = _bound.set({**_bound.get({}), **self._fields})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _bound.reset(self._token)


class _Lines(logging.StreamHandler[TextIO]):
    """The library's handler, which on a failure would print the record with its arguments, or raise."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's object does, the caller must go on
            line = json.dumps({"level": "error", "event": f"a line could not be written: {described(error)}"})
        # A stream that is closed or full: there is nobody left to tell.
        with contextlib.suppress(Exception):
            self.stream.write(f"{line}\n")
            self.stream.flush()


def _message(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Put the message together, from arguments that were made fit to be seen."""
    record: logging.LogRecord = event_dict["_record"]
    message = record.msg if isinstance(record.msg, str) else str(redacted(record.msg))
    arguments = event_dict.pop("positional_args")
    try:
        if isinstance(arguments, Mapping):
            message = message % redacted(arguments)
        elif arguments:
            message = message % tuple(_argument(value) for value in arguments)
    except (TypeError, ValueError, KeyError):
        message = f"{message} (its arguments do not fit)"
    if record.name == "asyncio":
        # It goes on with what the callback was given and what its exception said.
        message = re.split(r"[\n<(]", message, maxsplit=1)[0].strip()
    elif record.name == "py.warnings":
        # It quotes what was found fault with, and the line of source that did it.
        found = _WARNING.match(message)
        message = f"{found[3]} at {PurePath(found[1]).name}:{found[2]}" if found else "a warning"
    return {**event_dict, "event": message}


def _argument(value: object) -> object:
    return value if isinstance(value, str | int | float) else redacted(value)


def _fields(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Give a line's fields in their order; those of our own choosing cannot be taken by others."""
    record: logging.LogRecord = event_dict.pop("_record")
    event_dict.pop("_from_structlog")
    said_at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    line: EventDict = {
        "timestamp": said_at.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": redacted(event_dict.pop("event", "")),
        "pid": record.process,
    }
    if exception := _exception(event_dict.pop("exc_info", None)):
        line["exception"] = exception
    others = {name: value for name, value in {**_bound.get({}), **event_dict}.items() if name not in _NOISE}
    for name, value in redacted(dict(list(others.items())[:_MOST_EXTRAS])).items():
        line.setdefault(name, value)
    return line


def _exception(exc_info: Any) -> str:
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    return ", ".join(_faults(error)[:_MOST_FAULTS]) if isinstance(error, BaseException) else ""


def _faults(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [fault for inner in error.exceptions[:_MOST_FAULTS] for fault in _faults(inner)]
    return [described(error)]


def _as_json(_: WrappedLogger, __: str, line: EventDict) -> str:
    # Outside ASCII everything is escaped, and below it every control character but the last.
    return _fitting(line, lambda fields: json.dumps(fields).replace("\x7f", "\\u007f"))


def _as_text(_: WrappedLogger, __: str, line: EventDict) -> str:
    return _fitting(line, _text)


def _text(line: EventDict) -> str:
    known = {"timestamp", "level", "logger", "event"}
    others = "".join(f" {name}={_quoted(value)}" for name, value in line.items() if name not in known)
    text = f"{line['timestamp']} {line['level']:<8} {line['logger']}: {line['event']}{others}"
    return (
        text if text.isprintable() else "".join(letter if letter.isprintable() else _escape(letter) for letter in text)
    )


def _quoted(value: object) -> str:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _fitting(line: EventDict, render: Callable[[EventDict], str]) -> str:
    known = ("timestamp", "level", "logger", "event", "pid", "exception", "request_id")
    for longest in _LENGTHS:
        text = render({name: _cut(value, longest) for name, value in line.items()})
        if len(text.encode("utf-8", "backslashreplace")) < LONGEST_LINE:
            return text
        line = {name: line[name] for name in known if name in line}
    return render(
        {"timestamp": line["timestamp"], "level": "error", "logger": __name__, "event": "a line was too long"}
    )


def _cut(value: Any, longest: int) -> Any:
    return f"{value[:longest]}…" if isinstance(value, str) and len(value) > longest else value


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    _log.critical("the process ends by a fault", exc_info=(kind, error, traceback))


def _uncaught_in_thread(fault: threading.ExceptHookArgs) -> None:
    if fault.exc_value is not None and fault.exc_type is not SystemExit:
        _log.error("a thread ended by a fault", exc_info=fault.exc_value)


def _unraisable(fault: "sys.UnraisableHookArgs") -> None:
    _log.error("a fault that nobody could be told", exc_info=fault.exc_value)
