"""What starts a step: an HTTP request, an event on a topic, a moment in time.

`Trigger[I, O]` says what a step so started takes and gives; a handler that does not fit is
refused by mypy, because `step` wants triggers and handler to agree.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, get_args, overload

from bitbylaw_common.cron import CronExpression
from bitbylaw_common.errors import DeclarationError
from bitbylaw_common.events import Event
from bitbylaw_common.outcomes import Outcome
from bitbylaw_common.topics import Topic

I = TypeVar("I")  # noqa: E741 - I and O are what goes in and comes out
O = TypeVar("O")  # noqa: E741
B = TypeVar("B")
E = TypeVar("E", bound=Event)

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
BodyKind = Literal["model", "bytes", "stream"]
Missed = Literal["skip", "once", "all"]


@dataclass(frozen=True, slots=True)
class ApiRequest(Generic[B]):
    """An HTTP request as a handler sees it.

    Attributes:
        method: as sent.
        path: the path without query.
        body: the parsed model, the raw bytes, or the chunks, as the trigger declares.
        raw: the exact bytes; empty for a streamed body.
        headers: names in lower case.
        query_params: first value of each name.
        raw_query: what stands behind the question mark, as it was sent.
        path_params: by the names in the trigger's path.
    """

    method: str
    path: str
    body: B
    raw: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    query_params: Mapping[str, str] = field(default_factory=dict)
    path_params: Mapping[str, str] = field(default_factory=dict)
    raw_query: str = ""


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """What to answer.

    Attributes:
        status: the HTTP status.
        body: JSON-able values are sent as JSON; bytes and streams as they are.
        headers: added to the answer; set `content-type` for bytes and streams.
    """

    status: int
    body: Any | bytes | AsyncIterator[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """The moment a cron was due.

    Attributes:
        due: the instant by the expression, zone-aware; later than this by the scheduler's delay.
            It stays the same however often the run is tried.
        run_id: names the run in the journal; likewise.
        manual: somebody asked for it; it is not one of the expression's instants.
    """

    due: datetime
    run_id: str
    manual: bool = False


class Trigger(Generic[I, O]):
    """The common root; use `http`, `queue` or `cron`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class HttpTrigger(Trigger[ApiRequest[B], ApiResponse]):
    """Started by a request to `method` `path`; `{name}` in the path is a parameter."""

    method: Method
    path: str
    kind: BodyKind
    model: Any = None
    max_body_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class QueueTrigger(Trigger[E, Outcome]):
    """Started by each event on `topic`."""

    topic: Topic[E]


@dataclass(frozen=True, slots=True)
class CronTrigger(Trigger[Tick, Outcome]):
    """Started at each instant of `expression` (six fields, seconds first, Europe/Berlin).

    Attributes:
        missed: what becomes of instants at which nothing could run; see `cron`.
    """

    expression: CronExpression
    missed: Missed = "once"


@overload
def http(
    method: Method, path: str, *, body: type[B], max_body_bytes: int = ...
) -> HttpTrigger[B]: ...
@overload
def http(
    method: Method, path: str, *, body: Literal["bytes"] = ..., max_body_bytes: int = ...
) -> HttpTrigger[bytes]: ...
@overload
def http(
    method: Method, path: str, *, body: Literal["stream"], max_body_bytes: int = ...
) -> HttpTrigger[AsyncIterator[bytes]]: ...
def http(
    method: Method, path: str, *, body: Any = "bytes", max_body_bytes: int = 1024 * 1024
) -> HttpTrigger[Any]:
    """Declare an HTTP trigger.

    Args:
        method: the HTTP method.
        path: begins with a slash; `{name}` stands for one segment.
        body: a pydantic type to parse the JSON body into (400 where it does not fit), "bytes"
            for the raw body, "stream" for chunks of any length.
        max_body_bytes: a longer body is answered 413; counts for streams as well.
    """
    if body in ("bytes", "stream"):
        return HttpTrigger(method, path, body, None, max_body_bytes)
    return HttpTrigger(method, path, "model", body, max_body_bytes)


def queue(topic: Topic[E]) -> QueueTrigger[E]:
    """Declare that each event on `topic` starts the step."""
    return QueueTrigger(topic)


def cron(expression: str, *, missed: Missed = "once") -> CronTrigger:
    """Declare instants, as the seed writes them: `0 */15 * * * *` is every 15 minutes.

    Args:
        expression: six fields, seconds first.
        missed: what to do about instants at which no worker was there, or the run before was
            still going on. "once": one run, for the newest of them; "all": one run for each, in
            order; "skip": none, unless the newest is less than a minute old.

    Raises:
        DeclarationError: the expression has not six fields, a field cannot be, or the policy is
            none of the three.
    """
    if missed not in get_args(Missed):
        raise DeclarationError(f"cron {expression!r}: missed={missed!r} is none of skip, once, all")
    return CronTrigger(CronExpression.parse(expression), missed)
