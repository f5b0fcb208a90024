"""Every span of the system, one function each; nothing else names one or its attributes.

Names follow OpenTelemetry's conventions for HTTP and messaging where those have a word, and begin
with `bitbylaw.` where they have none. Attributes are ids, counts and words out of declarations:
never a value of a record, a body, a header or an address with its path and query.

Each function is `tracing.use` and nothing more while no spans are exported.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from yarl import URL

from bitbylaw_common import tracing
from bitbylaw_common.tracing import Span, Trace

if TYPE_CHECKING:  # the runtime and the transport write spans, so these need neither at run time
    from bitbylaw_common.http.transport import Request
    from bitbylaw_common.runtime.lanes import Work
    from bitbylaw_common.runtime.ports import Position
    from bitbylaw_common.runtime.schedule import Carried, ScheduleEntry

EARLIER = "bbl-earlier"
"""Among what a schedule entry carries: the `traceparent` of the run that wrote it."""
LOCK_WAIT_SECONDS = 0.01
"""A lock that is there at once is no news."""

Place = AbstractContextManager[Trace]


def request(method: str, route: str, traceparent: str) -> Place:
    """Surround the answering of one HTTP request.

    Args:
        method, route: as declared; "other" and "unknown" where nothing is.
        traceparent: the caller's; empty or unreadable: a new trace begins.
    """
    if not tracing.exporting():
        return tracing.use(tracing.child_of(traceparent))
    return tracing.span(
        f"{method} {route}",
        kind="server",
        parent=traceparent,
        attributes={"http.request.method": method, "http.route": route},
    )


def answered(status: int) -> None:
    """Note how the request was answered; only what is our fault is an error."""
    if tracing.exporting():
        tracing.note(
            {"http.response.status_code": status}, error=str(status) if status >= 500 else ""
        )


def served(*, service: str, step: str, run_id: str) -> None:
    """Note which step answers the request."""
    if tracing.exporting():
        tracing.note({"bitbylaw.step": step, "bitbylaw.run_id": run_id}, service=service)


def publish(names: Iterable[str], *, service: str, under: Trace) -> Place:
    """Surround the publishing of events; their records carry the place it yields.

    Args:
        names: the events' topics, in order.
        under: the run that publishes.
    """
    if not tracing.exporting():
        return tracing.use(under)
    found = list(names)
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
    }
    only = found[0] if len(set(found)) == 1 else ""
    if only:
        attributes["messaging.destination.name"] = only
    if len(found) > 1:
        attributes["messaging.batch.message_count"] = len(found)
    return tracing.span(
        f"send {only}".strip(),
        kind="producer",
        parent=under,
        attributes=attributes,
        service=service,
    )


def published(event_ids: Sequence[str], positions: Sequence["Position"]) -> None:
    """Note where a single event lies now; of a batch its consumers' spans tell."""
    if tracing.exporting() and len(event_ids) == len(positions) == 1:
        tracing.note({"messaging.message.id": event_ids[0], **_lies(positions[0])})


def run(
    work: "Work", *, at: Trace, service: str, run_id: str, attempt: int, earlier: str = ""
) -> Place:
    """Surround one run of a step for a record.

    Args:
        at: the run's own place, in the trace of the event that began it.
        attempt: 1 for a first try.
        earlier: `traceparent` of the run before it in a chain of attempts or waits.
    """
    if not tracing.exporting():
        return tracing.use(at)
    item, key = work.item, work.key
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.message.id": item.envelope.event_id,
        "messaging.destination.partition.id": str(item.partition),
        "bitbylaw.step": key.step,
        "bitbylaw.entity": key.entity,
        "bitbylaw.entity_id": key.entity_id,
        "bitbylaw.run_id": run_id,
        "bitbylaw.attempt": attempt,
        "bitbylaw.causes": ",".join(sorted(work.causes)),
    }
    if item.topic:
        attributes["messaging.destination.name"] = item.topic
    if item.position is not None:
        attributes |= _lies(item.position)
    if work.answers > 1:
        attributes["messaging.batch.message_count"] = work.answers
    return tracing.span(
        f"process {item.topic or key.entity}",
        kind="consumer",
        at=at,
        attributes=attributes,
        links=(*work.links, earlier) if earlier else work.links,
        service=service,
    )


def ended(outcome: str, *, error: str, effects: int) -> None:
    """Note what became of the run; `error` is the class of its failure, empty without one."""
    if tracing.exporting():
        tracing.note({"bitbylaw.outcome": outcome, "bitbylaw.effects": effects}, error=error)


def due(entry: "ScheduleEntry", *, service: str, late_seconds: float) -> Place:
    """Mark that a scheduled entry became due; a cron's tick begins its trace here."""
    carried = entry.carried
    traceparent = "" if carried is None else carried.headers.get("traceparent", "")
    if not tracing.exporting():
        return tracing.use(tracing.child_of(traceparent))
    return tracing.span(
        f"due {entry.step}",
        parent=traceparent,
        attributes={
            "bitbylaw.step": entry.step,
            "bitbylaw.entity": entry.entity,
            "bitbylaw.entity_id": entry.entity_id,
            "bitbylaw.schedule.kind": entry.kind,
            "bitbylaw.schedule.late_seconds": late_seconds,
            "bitbylaw.attempt": entry.attempt + 1,
        },
        links=(earlier(carried),),
        service=service,
    )


def earlier(carried: "Carried | None") -> str:
    """Return the `traceparent` of the run that scheduled this; empty when none did."""
    return "" if carried is None else carried.headers.get(EARLIER, "")


def lock(entity: str, hold: AbstractAsyncContextManager[bool]) -> AbstractAsyncContextManager[bool]:
    """Return `hold`, with its wait recorded where that is longer than `LOCK_WAIT_SECONDS`."""
    return _Taking(entity, hold) if tracing.exporting() else hold


class _Taking(AbstractAsyncContextManager[bool]):
    """Holds a lock; only the taking of it is a span, not what is done under it."""

    def __init__(self, entity: str, hold: AbstractAsyncContextManager[bool]) -> None:
        self._entity = entity
        self._hold = hold

    async def __aenter__(self) -> bool:
        with tracing.span(
            f"lock {self._entity}",
            attributes={"bitbylaw.lock": self._entity},
            min_seconds=LOCK_WAIT_SECONDS,
        ):
            return await self._hold.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._hold.__aexit__(kind, error, traceback)


def call(asked: "Request", traceparent: str | None, *, resent: int = 0) -> Span | None:
    """Begin the span of one request to an outside system; None while nothing is recorded.

    Args:
        traceparent: what the request carries.
        resent: how many times it was sent before.
    """
    if not tracing.exporting() or traceparent is None:
        return None
    url = URL(asked.url, encoded=True)
    attributes: dict[str, str | int] = {
        "http.request.method": asked.method,
        "server.address": url.host or "",
        "server.port": url.port or 0,
        "bitbylaw.system": asked.system,
        "bitbylaw.operation": asked.operation,
    }
    if resent:
        attributes["http.request.resend_count"] = resent
    return tracing.begin(
        f"{asked.method} {asked.system}.{asked.operation}", traceparent, attributes=attributes
    )


def called(span: Span | None, *, status: int | None, error: str = "") -> None:
    """End the span of a call: with the status of its answer, or with the class of what was lost."""
    if span is None:
        return
    if status is not None:
        span.note({"http.response.status_code": status}, error=str(status) if status >= 400 else "")
    span.end(error)


def _lies(position: "Position") -> dict[str, str | int]:
    return {
        "messaging.destination.partition.id": str(position.partition),
        "messaging.kafka.offset": position.offset,
    }
