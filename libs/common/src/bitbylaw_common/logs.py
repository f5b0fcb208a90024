"""The log: facts with fields, as JSON for clusters or with banners for people at a terminal.

Lines of libraries that use `logging` take the same way, so they carry the run they belong to and
are cleaned of secrets like ours.
"""

import json
import logging
import math
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO, cast, get_args

import structlog
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from bitbylaw_common import tracing
from bitbylaw_common.clock import Clock, SystemClock
from bitbylaw_common.errors import BitByLawError

if TYPE_CHECKING:  # the runtime logs, so the log must not need it at run time
    from bitbylaw_common.runtime.context import StepLogger

Format = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]

RUN_STARTED = "run started"
"""The event that opens a run; the console draws a banner for it."""
RUN_ENDED = "run ended"
"""The event that closes a run; its field `outcome` says how."""

HIDDEN = "***"

_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_FIRST = (
    "time",
    "level",
    "event",
    "service",
    "step",
    "run_id",
    "event_id",
    "trace_id",
    "entity",
    "entity_id",
    "attempt",
)
_CHATTY = ("aiohttp", "aiokafka", "asyncio", "kafka", "redis", "urllib3")
"""Libraries whose info lines say nothing about records."""

_SECRET_NAME = re.compile(
    r"(^|[_-])(password|passwd|secrets?|token|authorization|cookie|signature|api[_-]?key"
    r"|(management|digest|control|private)[_-]key)$",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|b'[^']*'")
_TELLS_CODE = (BitByLawError, AttributeError, ImportError, KeyError, NameError, TypeError)
"""Errors whose words name code, or were written by us; other errors may quote a record."""
_DEEPEST = 6
_LONGEST_MESSAGE = 500

_Render = Callable[[Mapping[str, Any]], str]


def configure(
    format: Format = "json",  # noqa: A002 - it is called after LOG_FORMAT
    level: Level = "info",
    stream: TextIO | None = None,
    *,
    secrets: Iterable[str] = (),
    clock: Clock | None = None,
    colour: bool | None = None,
) -> None:
    """Send everything that is logged from now on to `stream`; may be called again.

    Args:
        format: "json" writes one object a line, "console" writes for people.
        level: what is less important is left out; chatty libraries are heard from warning on,
            unless it is "debug".
        stream: standard error when None.
        secrets: texts that are replaced by `***` wherever they turn up in a line.
        clock: stamps the lines.
        colour: None colours when the stream is a terminal.
    """
    out = sys.stderr if stream is None else stream
    render: _Render = _json_line
    if format == "console":
        render = _Console(out.isatty() if colour is None else colour)
    _sink.open(out, render, secrets, SystemClock() if clock is None else clock)
    _announcing.clear()
    if format == "console" or level == "debug":
        _announcing.add(True)
    _use_level(level)
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(_LEVELS[level])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(
            logging.NOTSET if level == "debug" else max(logging.WARNING, _LEVELS[level])
        )
    logging.captureWarnings(capture=True)


_heard: set[Level] = {"debug", "info", "warning", "error"}
"""The level that is configured, and those above it."""
_announcing: set[bool] = set()


def announces_runs() -> bool:
    """Whether the start of each run is worth a line: to somebody who watches, not to a log store.

    Every run ends with a line, and the journal has when it began.
    """
    return bool(_announcing)


def _use_level(level: Level) -> None:
    _heard.clear()
    _heard.update(name for name in get_args(Level) if _LEVELS[name] >= _LEVELS[level])
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _sink],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=False,
    )


class _StepLogger:
    """A `StepLogger` that costs nothing until a line is written: most runs write one."""

    __slots__ = ("_bound",)

    def __init__(self, bound: dict[str, Any]) -> None:
        self._bound = bound

    def debug(self, event: str, **fields: Any) -> Any:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> Any:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> Any:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> Any:
        self._write("error", event, fields)

    def _write(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        # Straight to the sink: on the way through structlog a line costs as much again.
        if level in _heard:
            around = structlog.contextvars.get_contextvars()
            _sink.write(level, {**around, **self._bound, **fields, "event": event})


def step_logger(**bound: Any) -> "StepLogger":
    """Return a logger whose lines carry `bound`: service, step, run_id, event_id, ..."""
    return _StepLogger(bound)


def bound(**fields: Any) -> AbstractContextManager[None]:
    """Let every line in the block carry `fields`, also those of libraries and of tasks begun in it."""
    return cast("AbstractContextManager[None]", structlog.contextvars.bound_contextvars(**fields))


def hide(secrets: Iterable[str]) -> None:
    """Replace these texts too by `***` from now on, wherever they turn up in a line."""
    _sink.hide(secrets)


# -- from fields to a line ------------------------------------------------------------------------


class _Sink:
    """The last processor: completes the fields, renders them, hides secrets, writes the line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secrets: frozenset[str] = frozenset()
        self._spelt: tuple[str, ...] = ()
        self._stream: TextIO | None = None
        self._render: _Render = _json_line
        self._lost = 0
        self._clock: Clock = SystemClock()

    def open(self, stream: TextIO, render: _Render, secrets: Iterable[str], clock: Clock) -> None:
        self._stream, self._render, self._clock = stream, render, clock
        self._secrets = frozenset()
        self.hide(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        self._secrets |= {secret for secret in secrets if secret}
        # a secret also turns up as Python shows it, and either in the spelling that JSON gives it
        spelt = self._secrets | {repr(secret)[1:-1] for secret in self._secrets}
        spelt |= {_encode(spelling)[1:-1] for spelling in spelt}
        self._spelt = tuple(sorted(spelt, key=len, reverse=True))

    def __call__(self, logger: object, method: str, fields: MutableMapping[str, Any]) -> NoReturn:
        self.write(method, fields)
        raise structlog.DropEvent

    def write(self, level: str, fields: MutableMapping[str, Any]) -> None:
        fields["time"] = _rfc3339(self._clock.now())
        fields["level"] = "warning" if level == "warn" else level
        if "trace_id" not in fields and (trace := tracing.current()) is not None:
            fields["trace_id"] = trace.trace_id
        raised = fields.pop("exc_info", None)
        if raised:
            fields["exception"] = _raised(raised)
        if self._lost:
            fields["lines_lost"] = self._lost
        line = self._render(_ordered(fields))
        for secret in self._spelt:
            if secret in line:
                line = line.replace(secret, HIDDEN)
        self._put(line)

    def _put(self, line: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        with self._lock:
            try:
                try:
                    stream.write(line + "\n")
                except UnicodeEncodeError:
                    encoding = stream.encoding or "ascii"
                    stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
                stream.flush()
                self._lost = 0
            except (OSError, ValueError):  # full or closed: a log never ends the work it tells of
                self._lost += 1


class _Bridge(logging.Handler):
    """Takes the lines of libraries over from `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {
                **structlog.contextvars.get_contextvars(),
                "event": record.getMessage(),
                "logger": record.name,
            }
            if record.exc_info:
                fields["exc_info"] = record.exc_info
            _sink.write(
                "error" if record.levelno > logging.ERROR else record.levelname.lower(), fields
            )
        except Exception:  # noqa: BLE001 - logging's own rule: a line never ends the work
            self.handleError(record)


_AS_THEY_ARE = frozenset((str, int, bool))


def _ordered(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as JSON can hold them: those of every line first, the rest as given."""
    order, secret = _manner(tuple(fields))
    ordered: dict[str, Any] = {}
    for name in order:
        value = fields[name]
        if value is not None:
            ordered[name] = value if type(value) in _AS_THEY_ARE else _plain(value)
    for name in secret:
        ordered[name] = HIDDEN
    return ordered


@lru_cache(maxsize=1024)
def _manner(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names in the order of a line, and those of secrets: a program writes few kinds."""
    first = [name for name in _FIRST if name in names]
    order = (*first, *(name for name in names if name not in _FIRST))
    return order, tuple(name for name in order if _is_secret(name))


def _plain(value: Any, depth: int = 0) -> Any:
    """Return `value` as JSON can hold it; what is not made for logs shows its type only."""
    if value is None or type(value) in _AS_THEY_ARE:
        return value
    if depth < _DEEPEST:
        match value:
            case Mapping():
                return {
                    str(key): HIDDEN if _is_secret(str(key)) else _plain(one, depth + 1)
                    for key, one in value.items()
                }
            case AbstractSet():
                return sorted((_plain(one, depth + 1) for one in value), key=str)
            case list() | tuple():
                return [_plain(one, depth + 1) for one in value]
    return _scalar(value)


def _scalar(value: Any) -> str | int | float:
    match value:
        case float():
            return value if math.isfinite(value) else str(value)  # JSON knows no infinity
        case Enum():
            return str(value.value)
        case str() | PurePath():
            return str(value)
        case int():
            return int(value)
        case datetime():
            return _rfc3339(value)
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray():
            return f"<{len(value)} bytes>"
        case BaseException():
            return f"{type(value).__name__}: {_message(value)}"
        case _:
            return f"<{type(value).__name__}>"


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _rfc3339(instant: datetime) -> str:
    if instant.tzinfo is None:
        return instant.isoformat(timespec="milliseconds")
    there = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return f"{there.isoformat(timespec='milliseconds')[:-6]}Z"


# -- exceptions, without values -------------------------------------------------------------------

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def _raised(given: BaseException | _ExcInfo | bool) -> str:
    """Return the traceback in the usual shape: code and lines, never the values of variables."""
    if isinstance(given, BaseException):
        error: BaseException | None = given
    elif isinstance(given, tuple):
        error = given[1]
    else:
        error = sys.exception()
    return "" if error is None else "\n".join(_chain(error, set()))


def _chain(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__
    if before is None and not error.__suppress_context__:
        before = error.__context__
    if before is not None and id(before) not in seen:
        yield from _chain(before, seen)
        joint = "was the direct cause of" if error.__cause__ else "came before, while handling it"
        yield f"-- the above {joint}:"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    yield f"{type(error).__name__}: {_message(error)}"
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            if id(part) not in seen:
                yield "-- one of its parts:"
                yield from _chain(part, seen)


def _message(error: BaseException) -> str:
    """Return the error's words; where they may quote a record, without what they quote."""
    if isinstance(error, ValidationError):
        details = error.errors(include_url=False, include_context=False, include_input=False)
        places = ", ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'value'}: {detail['type']}"
            for detail in details[:10]
        )
        return f"{len(details)} errors in {error.title}: {places}"
    message = str(error)[:_LONGEST_MESSAGE]
    return message if isinstance(error, _TELLS_CODE) else _QUOTED.sub("'…'", message)


# -- the two manners ------------------------------------------------------------------------------


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _json_line(fields: Mapping[str, Any]) -> str:
    try:
        return to_json(fields).decode()
    except PydanticSerializationError:  # half a character, which only Python's own can spell
        return _encode(fields)


_RULE = "=" * 80
_KINDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(words), sign)
    for words, sign in (
        (r"\b(fail|refus|reject|bug|error)", "❌"),
        (r"\bdownload", "📥"),
        (r"\b(upload|added|attached|created|updated|done|stored|synced|ready)", "✅"),
        (r"\b(remov|delet|detach|forgot)", "🧹"),
        (r"\b(wait|paus|due|later|retry)", "⏳"),
        (r"\b(start|begin|began|resum|open)", "🔄"),
        (r"\b(stop|clos|end|drain)", "🏁"),
        (r"\b(publish|enqueue|sent|post|webhook|receiv)", "📨"),
    )
)
_ENDINGS = {
    "done": "✅",
    "skipped": "✅",
    "wait": "⏳",
    "retry": "⚠️",
    "rejected": "❌",
    "bug": "❌",
}
_COLOURS = {"debug": "\x1b[2m", "info": "", "warning": "\x1b[33m", "error": "\x1b[31m"}
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_ABOUT_THE_RUN = frozenset(_FIRST)
_EVENT_WIDTH = 36


class _Console:
    """The predecessor's manner: a banner where a run starts, a sign for each kind of fact."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, fields: Mapping[str, Any]) -> str:
        if fields.get("event") == RUN_STARTED:
            return self._banner(fields)
        event = _one_line(str(fields.get("event", "")))
        level = str(fields["level"])
        facts = {name: one for name, one in fields.items() if name not in _ABOUT_THE_RUN}
        exception = facts.pop("exception", None)
        line = (
            f"{self._paint(_DIM, str(fields['time'])[11:23])} {_sign(event, level, facts)} "
            f"{self._paint(_COLOURS.get(level, ''), event.ljust(_EVENT_WIDTH))}"
        )
        line += "".join(
            f" {self._paint(_DIM, name + '=')}{_shown(one)}" for name, one in facts.items()
        )
        about = _about(fields)
        if about:
            line += f" {self._paint(_DIM, f'[{about}]')}"
        line = line.rstrip()
        if exception:
            line += "\n" + self._paint(_COLOURS["error"], str(exception))
        return line

    def _banner(self, fields: Mapping[str, Any]) -> str:
        title = _one_line(str(fields.get("step") or fields.get("service") or ""))
        rows = [
            (name, one)
            for name, one in fields.items()
            if name not in ("time", "level", "event", "step")
        ]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [
            _RULE,
            f"🔄 {self._paint(_BOLD, f'STEP STARTED: {title}')}",
            _RULE,
            *(f"{name.replace('_', ' ').ljust(width)}  {_shown(one)}" for name, one in rows),
            _RULE,
        ]
        return "\n".join(lines)

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colour and colour else text


def _sign(event: str, level: str, facts: Mapping[str, Any]) -> str:
    if event == RUN_ENDED and facts.get("outcome") in _ENDINGS:
        return _ENDINGS[str(facts["outcome"])]
    if level in ("error", "critical"):
        return "❌"
    if level == "warning":
        return "⚠️"
    return next((sign for words, sign in _KINDS if words.search(event.lower())), "·")


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.isprintable() and not re.search(r"^$|[\s=\"]", value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _one_line(text: str) -> str:
    """Return the text with line breaks and terminal codes as escapes."""
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]


def _about(fields: Mapping[str, Any]) -> str:
    """Return which run a line belongs to, short: runs go on at the same time."""
    named = " ".join(str(fields[name]) for name in ("entity", "entity_id") if name in fields)
    run = str(fields.get("run_id", ""))[:8]
    where = str(fields.get("step") or fields.get("service") or "")
    return " · ".join(part for part in (where, named, run) if part)


_sink = _Sink()
_use_level("warning")  # before `configure`, as in tests, only what is wrong is told
