"""A `Transport` that spares the other side: an open circuit and a rate limit hold requests back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from bitbylaw_common import metrics
from bitbylaw_common.circuits import PATIENCE, Circuit, Circuits, probing, working
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import (
    HeldBack,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_common.http.answers import retry_after
from bitbylaw_common.http.transport import Request, Response, Transport
from bitbylaw_common.limits import Limits, NoLimits, Priority


class GuardedTransport:
    """Sends through another transport what may be sent, and learns from what comes of it.

    A client judges the answer inside the block of `send`; the error it raises there, of the same
    system and operation, tells the circuit more than the status does. Where it raises none, the
    status counts.

    Args:
        inner: carries the requests.
        circuits: every system that is asked must be declared there.
        clock: measures a `Retry-After` that is a date.
        limits: how often systems may be asked; a request waits at most its `timeout_seconds`.
        priority: of all requests that go through here.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        circuits: Circuits,
        clock: Clock,
        limits: Limits | None = None,
        priority: Priority = "sync",
    ) -> None:
        self._inner = inner
        self._circuits = circuits
        self._clock = clock
        self._limits = limits or NoLimits()
        self._priority: Priority = priority

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Send; see `Transport.send`.

        Raises:
            HeldBack: nothing was sent: the circuit is open, the system asked to be left alone, or
                its rate leaves no room within the request's `timeout_seconds`.
            Transient: as `Transport.send`.
        """
        circuit = self._circuits.of(request.system)
        probe = probing()
        if not probe:
            _let_pass(circuit, request)
        await self._take(request)
        if not probe:
            _let_pass(circuit, request)  # it may have opened meanwhile
        begun = circuit.begin()
        response: Response | None = None
        error: OutsideError | None = None
        try:
            async with self._inner.send(request) as response:
                yield response
        except OutsideError as judged:
            if (judged.system, judged.operation) == (request.system, request.operation):
                error = judged
            raise
        finally:
            # What ends without an answer or a judgement, such as a cancelled run, says nothing.
            if error is None and response is not None:
                error = self._judged(request, response)
            if error is not None or response is not None:
                self._learn(circuit, begun, request, error)

    async def _take(self, request: Request) -> None:
        try:
            await self._limits.take(
                request.system,
                request.operation,
                within_seconds=request.timeout_seconds,
                priority=self._priority,
                order=working().serial,
            )
        except HeldBack:
            metrics.CALLS_HELD_BACK.labels(request.system, "rate").inc()
            raise

    def _learn(
        self, circuit: Circuit, begun: int, request: Request, error: OutsideError | None
    ) -> None:
        record = working().record
        match error:
            case HeldBack():
                pass
            case RateLimited():
                circuit.be_patient(error.retry_after or PATIENCE)
            case Unauthorized():
                circuit.refused(begun, record, request.operation, str(error))
            case Transient():
                circuit.failed(begun, record, str(error))
            case _:
                circuit.succeeded(begun, record, request.operation)

    def _judged(self, request: Request, response: Response) -> OutsideError | None:
        """Return what a status means that the client did not object to."""
        names, status = (request.system, request.operation), response.status
        if status == HTTPStatus.UNAUTHORIZED:
            return Unauthorized(*names, status=status)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            after = retry_after(response.headers, self._clock.now())
            return RateLimited(*names, retry_after=after)
        if status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT:
            return Transient(*names, status=status)
        return None


def _let_pass(circuit: Circuit, request: Request) -> None:
    refusal = circuit.refusal()
    if refusal is not None:
        metrics.CALLS_HELD_BACK.labels(request.system, refusal.cause).inc()
        raise HeldBack(
            request.system, request.operation, reason=refusal.reason, after=refusal.after
        )
