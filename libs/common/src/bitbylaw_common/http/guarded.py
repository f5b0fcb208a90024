"""A `Transport` that spares the other side: an open circuit and a rate limit hold requests back."""

from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from types import TracebackType

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
        self.inner = inner
        self._circuits = circuits
        self._clock = clock
        self._limits = limits or NoLimits()
        self._priority: Priority = priority

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Send; see `Transport.send`.

        Raises:
            HeldBack: nothing was sent: the circuit is open, the system asked to be left alone, or
                its rate leaves no room within the request's `timeout_seconds`.
            Transient: as `Transport.send`.
        """
        return _Guarded(self, self._circuits.of(request.system), request)

    async def admit(self, circuit: Circuit, request: Request) -> None:
        """Return once the request may be sent.

        Raises:
            HeldBack: as `send`.
        """
        probe = probing()
        if not probe:
            _let_pass(circuit, request)
        await self._take(request)
        if not probe:
            _let_pass(circuit, request)  # it may have opened meanwhile

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

    def learn(
        self, circuit: Circuit, begun: int, request: Request, error: OutsideError | None
    ) -> None:
        """Tell the circuit how a call ended; None: well."""
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

    def judged(self, request: Request, response: Response) -> OutsideError | None:
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


class _Guarded:
    """One request on its guarded way, as a context; plain methods, because every call passes here."""

    __slots__ = ("_begun", "_circuit", "_guard", "_request", "_response", "_sending")

    def __init__(self, guard: GuardedTransport, circuit: Circuit, request: Request) -> None:
        self._guard = guard
        self._circuit = circuit
        self._request = request

    async def __aenter__(self) -> Response:
        await self._guard.admit(self._circuit, self._request)
        self._begun = self._circuit.begin()
        try:
            self._sending = self._guard.inner.send(self._request)
            self._response = await self._sending.__aenter__()
        except OutsideError as lost:
            self._learn(lost, None)
            raise
        return self._response

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._sending.__aexit__(kind, error, trace)
        finally:
            self._learn(error, self._response)

    def _learn(self, error: BaseException | None, response: Response | None) -> None:
        """Let the client's judgement count, else the status.

        What ends without an answer or a judgement, such as a cancelled run, says nothing.
        """
        request = self._request
        judged: OutsideError | None = None
        if isinstance(error, OutsideError) and (
            (error.system, error.operation) == (request.system, request.operation)
        ):
            judged = error
        elif response is not None:
            judged = self._guard.judged(request, response)
        else:
            return
        self._guard.learn(self._circuit, self._begun, request, judged)


def _let_pass(circuit: Circuit, request: Request) -> None:
    refusal = circuit.refusal()
    if refusal is not None:
        metrics.CALLS_HELD_BACK.labels(request.system, refusal.cause).inc()
        raise HeldBack(
            request.system, request.operation, reason=refusal.reason, after=refusal.after
        )
