"""Traces: W3C `traceparent` headers always, and spans of what happened where they are exported.

Ids are made and carried whether or not anything is exported, so logs, journal and dead letters can
be joined by them. A span costs something only between `export`'s beginning and end.
"""

import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from bitbylaw_common.ids import hex_digits

if TYPE_CHECKING:  # the log asks for traces, and settings are only handed on
    from bitbylaw_common.settings import TraceSettings

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes: TypeAlias = Mapping[str, str | int | float | bool]
LINKS_KEPT = 32
"""How many other places one span may name; of more, the newest."""

_FORMAT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-.*)?"
)
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """A place in a trace.

    Attributes:
        trace_id: 32 hex digits that all of it share, across services.
        span_id: 16 hex digits, this place's own.
        flags: as received; bit 0 says that the trace is recorded.
        parent_id: the span id it lies under, as far as is known; empty at a trace's beginning.
    """

    trace_id: str
    span_id: str
    flags: int = _SAMPLED
    parent_id: str = field(default="", compare=False)

    @property
    def header(self) -> str:
        """The `traceparent` that names this place as the parent of what follows."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def child(self) -> "Trace":
        """Return a new place under this one."""
        return Trace(self.trace_id, _span_id(), self.flags, self.span_id)


def parse(header: str | None) -> Trace | None:
    """Return what a `traceparent` says; None where it is missing or not well-formed.

    A later version of the format is read by the parts that this one knows.
    """
    found = _FORMAT.fullmatch(header.strip()) if header else None
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    if not found["trace"].strip("0") or not found["span"].strip("0"):
        return None
    return Trace(found["trace"], found["span"], int(found["flags"], 16) & _SAMPLED)


def new() -> Trace:
    """Begin a trace; where spans are exported, this decides whether those of the trace are."""
    fresh = hex_digits(48)
    if _sampled_below is not None and int(fresh[16:32], 16) >= _sampled_below:
        return Trace(fresh[:32], fresh[32:], 0)
    return Trace(fresh[:32], fresh[32:])


def child_of(header: str | None) -> Trace:
    """Return a new place in the trace that `header` names, or in a new trace."""
    parent = parse(header)
    return new() if parent is None else parent.child()


def current() -> Trace | None:
    """Return the place that the running task is at, None outside of any trace."""
    return _current.get()


def outgoing() -> str | None:
    """Return the `traceparent` for one call to somewhere else; None outside of any trace."""
    trace = _current.get()
    return None if trace is None else trace.child().header


class use:  # noqa: N801 - reads as what it does: `with tracing.use(trace):`
    """Be at `trace` for the length of the block; tasks begun in it are too."""

    __slots__ = ("_token", "_trace")

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __enter__(self) -> Trace:
        """Return the trace."""
        self._token = _current.set(self._trace)
        return self._trace

    def __exit__(self, *raised: object) -> None:
        """Be where it was before."""
        _current.reset(self._token)


@dataclass(frozen=True, slots=True)
class Ended:
    """A span that is over.

    Attributes:
        began_ns, ended_ns: nanoseconds since 1970.
        service: who did it; empty for the process's own name.
        error: the class of what went wrong, empty when nothing did.
    """

    name: str
    kind: Kind
    trace: Trace
    began_ns: int
    ended_ns: int
    attributes: Attributes
    links: tuple[Trace, ...]
    service: str
    error: str


class Span:
    """A span under way; `end` it once."""

    __slots__ = (
        "_attributes",
        "_began",
        "_epoch",
        "_error",
        "_kind",
        "_links",
        "_min_seconds",
        "_name",
        "_service",
        "_sink",
        "_trace",
    )

    def __init__(
        self,
        sink: Callable[[Ended], None],
        name: str,
        trace: Trace,
        *,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        links: Iterable[str] = (),
        service: str = "",
        min_seconds: float = 0.0,
    ) -> None:
        self._sink: Callable[[Ended], None] | None = sink
        self._name = name
        self._trace = trace
        self._kind: Kind = kind
        self._attributes = dict(attributes or {})
        self._links = links
        self._service = service
        self._min_seconds = min_seconds
        self._error = ""
        # The wall says when, for joining with other machines' spans; how long is measured apart,
        # because the wall may be set. A span goes by the clock of the one around it: two readings
        # of the wall would let it end later than that.
        within = _open.get()
        self._began = time.perf_counter_ns()
        self._epoch: int = (
            time.time_ns() - self._began if within is None else within._epoch  # noqa: SLF001 - its own
        )

    def note(
        self, attributes: Attributes | None = None, *, error: str = "", service: str = ""
    ) -> None:
        """Add attributes, the class of a failure (the first stays), or who it belongs to."""
        if attributes:
            self._attributes.update(attributes)
        self._error = self._error or error
        self._service = service or self._service

    def end(self, error: str = "") -> None:
        """Hand it over; what follows the first time counts for nothing."""
        sink, self._sink = self._sink, None
        ended = time.perf_counter_ns()
        if sink is None or ended - self._began < self._min_seconds * 1e9:
            return
        links = [place for header in self._links if (place := parse(header)) is not None]
        sink(
            Ended(
                self._name,
                self._kind,
                self._trace,
                self._epoch + self._began,
                self._epoch + ended,
                self._attributes,
                tuple(links[-LINKS_KEPT:]),
                self._service,
                self._error or error,
            )
        )


class span:  # noqa: N801 - reads as what it does: `with tracing.span("send") as trace:`
    """Be at a place of its own for the length of the block, and record how that went.

    Without an export, or where the trace is not recorded, it is `use` of that place. What the
    block raises ends the span with the name of its class.

    Args:
        name: of few values, no ids: "process vmh.document.update".
        at: the place, where it was made before; else a new one under `parent`.
        parent: a place, or a `traceparent` (unreadable or empty: a new trace begins); None for
            where the task is.
        attributes: ids, counts and words out of declarations; never a value of a record.
        links: `traceparent`s of other places that led here; the newest `LINKS_KEPT` are kept.
        service: who does it; empty for the enclosing span's.
        min_seconds: a shorter one is not recorded; only for blocks that begin no span themselves.
    """

    __slots__ = ("_outer", "_span", "_token", "_trace")

    def __init__(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        at: Trace | None = None,
        parent: Trace | str | None = None,
        attributes: Attributes | None = None,
        links: Iterable[str] = (),
        service: str = "",
        min_seconds: float = 0.0,
    ) -> None:
        self._trace = _place(parent) if at is None else at
        self._outer: Token[Span | None] | None = None
        self._span: Span | None = None
        if _sink is not None and self._trace.flags & _SAMPLED:
            self._span = Span(
                _sink,
                name,
                self._trace,
                kind=kind,
                attributes=attributes,
                links=links,
                service=service or _service(),
                min_seconds=min_seconds,
            )

    def __enter__(self) -> Trace:
        """Return the place."""
        self._token = _current.set(self._trace)
        if _sink is not None:  # also where this one is not recorded: notes are not the outer one's
            self._outer = _open.set(self._span)
        return self._trace

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        """Be where it was before, and hand the span over."""
        if self._span is not None:
            self._span.end("" if kind is None else kind.__name__)
        if self._outer is not None:
            _open.reset(self._outer)
        _current.reset(self._token)


def begin(name: str, header: str | None, *, attributes: Attributes) -> Span | None:
    """Begin the span of a call to somewhere else, whose end no block marks.

    Args:
        header: what the call carries, as `outgoing` returned it.

    Returns:
        None where nothing is recorded.
    """
    if _sink is None or (place := parse(header)) is None or not place.flags & _SAMPLED:
        return None
    here = _current.get()
    parent = here.span_id if here is not None and here.trace_id == place.trace_id else ""
    return Span(
        _sink,
        name,
        Trace(place.trace_id, place.span_id, place.flags, parent),
        kind="client",
        attributes=attributes,
        service=_service(),
    )


def note(attributes: Attributes | None = None, *, error: str = "", service: str = "") -> None:
    """Add to the span that the running task is in; see `Span.note`. Without one, do nothing."""
    if _sink is not None and (within := _open.get()) is not None:
        within.note(attributes, error=error, service=service)


def exporting() -> bool:
    """Say whether spans go anywhere, so that what describes them is worth putting together."""
    return _sink is not None


@asynccontextmanager
async def export(
    settings: "TraceSettings", *, service: str, version: str = "", instance: str = ""
) -> AsyncIterator[None]:
    """Export spans while the block lasts, where an endpoint is set; else do nothing.

    Leaving sends what is left for at most two seconds. Inside of another such block it does
    nothing, so that apps in one process share one.

    Args:
        service, version, instance: who this process is, to whoever looks at the spans.

    Raises:
        SettingsError: the certificate is no PEM file.
    """
    global _sink, _sampled_below
    if settings.endpoint is None or _sink is not None:
        yield
        return
    # The SDK costs memory and time to load, which only those pay who export.
    from bitbylaw_common import otlp  # noqa: PLC0415

    exporter = otlp.Exporter(settings, service=service, version=version, instance=instance)
    _sink, _sampled_below = exporter.take, int(settings.sample_ratio * (1 << 64))
    try:
        yield
    finally:
        _sink, _sampled_below = None, None
        await exporter.close()


def _place(parent: Trace | str | None) -> Trace:
    if isinstance(parent, str):
        return child_of(parent)
    here = _current.get() if parent is None else parent
    return new() if here is None else here.child()


def _service() -> str:
    within = _open.get()
    return "" if within is None else within._service  # noqa: SLF001 - its own module's


_current: ContextVar[Trace | None] = ContextVar("bitbylaw_trace", default=None)
_open: ContextVar[Span | None] = ContextVar("bitbylaw_span", default=None)
_sink: Callable[[Ended], None] | None = None
_sampled_below: int | None = None
"""Traces whose last 64 bits are below it are recorded; OpenTelemetry's SDKs decide alike."""


def _span_id() -> str:
    return hex_digits(16)
