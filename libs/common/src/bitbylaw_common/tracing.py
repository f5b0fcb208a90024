"""Traces as W3C `traceparent` headers: read one, begin one, go on with one."""

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, replace

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
    """

    trace_id: str
    span_id: str
    flags: int = _SAMPLED

    @property
    def header(self) -> str:
        """The `traceparent` that names this place as the parent of what follows."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def child(self) -> "Trace":
        """Return a new place under this one."""
        return replace(self, span_id=_span_id())


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
    """Begin a trace."""
    fresh = secrets.token_hex(24)
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


_current: ContextVar[Trace | None] = ContextVar("bitbylaw_trace", default=None)


def _span_id() -> str:
    return secrets.token_hex(8)
