"""One HTTP request through a step: what `Context` may ask for when nothing was consumed."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from bitbylaw_common import spans, tracing
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import DeclarationError
from bitbylaw_common.ids import new_run_id
from bitbylaw_common.journal import RunFacts
from bitbylaw_common.logs import step_logger
from bitbylaw_common.outcomes import Skipped
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.context import Context, Emit
from bitbylaw_common.runtime.desk import publish
from bitbylaw_common.runtime.overview import Overview
from bitbylaw_common.runtime.ports import Appends
from bitbylaw_common.runtime.step import Step
from bitbylaw_common.runtime.triggers import ApiRequest, ApiResponse
from bitbylaw_common.sync.brake import Extent

D = TypeVar("D")

RunRequest = Callable[[ApiRequest[Any]], Awaitable[ApiResponse]]


class _HttpRun:
    """The run of one request. It has no record, so no base, no attempts and no owner to lose."""

    def __init__(
        self,
        app: App[Any],
        step: Step[Any, Any, Any],
        log: Appends,
        clock: Clock,
        trace: tracing.Trace,
    ) -> None:
        self.facts = RunFacts()
        self._app = app
        self._step = step
        self._log = log
        self._clock = clock
        self._trace = trace

    def now(self) -> datetime:
        return self._clock.now()

    def still_owner(self) -> None:
        return None

    def saw(self, digest: str) -> Skipped | None:
        self.facts.seen = digest
        return None

    async def publish(self, emits: Sequence[Emit[Any]]) -> list[str]:
        return await publish(
            emits,
            log=self._log,
            declared=self._step.publishes,
            service=self._app.name,
            now=self.now(),
            trace=self._trace,
        )

    def base(self) -> bytes | None:
        return None

    def base_unreadable(self, reason: str) -> None:
        return None

    def extent(self) -> Extent:
        return Extent(share=0.0)

    async def write_base(self, value: bytes | None, *, intent: bool) -> None:
        raise DeclarationError(
            f"step {self._step.name!r} is started by HTTP and has no record to keep a base for; "
            "publish an event and let a queue step do it"
        )

    async def overview(self, entity: str) -> Overview:
        raise DeclarationError(
            f"step {self._step.name!r} is started by HTTP: what a service keeps about its "
            f"{entity} records is for its crons"
        )


def http_run(
    app: App[D], step: Step[Any, Any, D], deps: D, log: Appends, clock: Clock
) -> RunRequest:
    """Return what runs `step` for one request.

    The answer's errors are the host's work: whatever the handler raises comes through.
    """

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        given = request.headers.get("traceparent", "")
        here = tracing.current()
        # The HTTP host's place is this request's own already; where no host stands before the
        # run, as in memory, the request gets its place here.
        place = (
            tracing.use(here)
            if here is not None and here.header == given
            else spans.request(request.method, step.name, given)
        )
        run_id = new_run_id()
        with place as trace:
            spans.served(service=app.name, step=step.name, run_id=run_id)
            logger = step_logger(
                service=app.name, step=step.name, run_id=run_id, trace_id=trace.trace_id
            )
            port = _HttpRun(app, step, log, clock, trace)
            context = Context(deps, logger, port, event_id="", run_id=run_id)
            answer: ApiResponse = await step.handler(request, context)
            spans.answered(answer.status)
            return answer

    return run
