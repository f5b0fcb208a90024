"""The real `Transport`: aiohttp, with limits per system and a bounded repeat of safe calls."""

import asyncio
import errno
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from bitbylaw_common import spans
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import HeldBack, TimedOut, Transient
from bitbylaw_common.http.transport import Request, Transport

LIMITS: Mapping[str, int] = {
    "advoware": 5,
    "espocrm": 6,
    "espocrm.download_attachment": 4,
    "xai": 16,
    "xai.upload_file": 4,
}
"""How many calls may be under way at once, by system and by "system.operation"; a call needs room
in both. Downloads are fewer than EspoCRM's calls, so that slow uploads leave room for reads."""

OnExchange = Callable[[str, str, str, float], None]
"""Told of each request sent: system, operation, class of the answer ("2xx" to "5xx", or "none" when
none came or it was torn), and the seconds from sending to its end."""

ROOM_PAUSE = timedelta(seconds=15)
_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.3
_CHUNK_BYTES = 256 * 1024
_LARGE_BYTES = 1024 * 1024
# Below the five seconds after which Apache closes an idle connection: a request sent into a
# connection that is just being closed is lost, and nobody knows whether it was carried out.
_KEEPALIVE_SECONDS = 4.0


@asynccontextmanager
async def aiohttp_transport(
    *,
    clock: Clock,
    connect_seconds: float = 5.0,
    per_system_limits: Mapping[str, int] = LIMITS,
    on_exchange: OnExchange | None = None,
    traceparent: Callable[[], str | None] | None = None,
    jitter: random.Random | None = None,
) -> AsyncIterator[Transport]:
    """Open a transport; it is closed, with its connections, at the end of the block.

    Follows no redirect, takes no proxy from the environment, keeps no cookies. A request that is
    `idempotent` and whose body is bytes is sent up to twice more when no answer came, or 502, 503
    or 504 without a `Retry-After`, all within its `timeout_seconds`.

    A request waits for room at most `timeout_seconds` before its own time begins; it keeps its room
    until the answer was read to the end or its block is left.

    Args:
        clock: measures, and lets the pauses between tries pass.
        connect_seconds: for resolving the name, connecting and TLS.
        per_system_limits: as `LIMITS`; what is not named has no limit.
        on_exchange: see `OnExchange`; never given an address or a header.
        traceparent: returns the current trace to send along, or None.
        jitter: spreads the pauses; a seeded one makes them repeatable.
    """
    timeout = aiohttp.ClientTimeout(total=None, connect=connect_seconds)
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_sent)
    kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
    # A streamed body gets a connection of its own: it cannot be sent again when an idle one turns
    # out to be closed, and an answer before its end leaves the rest in the wire.
    fresh = aiohttp.TCPConnector(limit=0, force_close=True)
    sessions = [
        aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            trace_configs=traces,
            read_bufsize=_CHUNK_BYTES,
        )
        # Of a request that may be sent twice nobody asks whether it was sent, and to be told so
        # costs at each step of aiohttp's.
        for connector, traces in ((kept, []), (kept, [trace]), (fresh, [trace]))
    ]
    for session in sessions:
        # aiohttp sends PUT and DELETE again by itself when an idle connection turns out to be
        # closed; only what the request calls idempotent may be sent twice.
        session._retry_connection = False  # noqa: SLF001 - there is no public switch
    try:
        yield _AiohttpTransport(
            clock=clock,
            repeatable=sessions[0],
            kept=sessions[1],
            fresh=sessions[2],
            connect_seconds=connect_seconds,
            rooms={name: asyncio.Semaphore(limit) for name, limit in per_system_limits.items()},
            on_exchange=on_exchange or _nobody,
            traceparent=traceparent or _no_trace,
            jitter=jitter or random.Random(),  # noqa: S311 - spreads pauses, guards nothing
        )
    finally:
        for session in sessions:
            await session.close()


def _nobody(system: str, operation: str, status: str, seconds: float) -> None:
    """Listen to nothing."""


def _no_trace() -> None:
    return None


@dataclass(slots=True)
class _Attempt:
    """What is known of a request on its way."""

    sent: bool = False


async def _note_sent(
    _session: aiohttp.ClientSession, context: Any, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True


class _Room:
    """A place among the calls under way; given back once."""

    def __init__(self, taken: tuple[asyncio.Semaphore, ...]) -> None:
        self._taken = taken

    def leave(self) -> None:
        taken, self._taken = self._taken, ()
        for semaphore in taken:
            semaphore.release()


class _Source:
    """A streamed body that remembers its own failure, so that it is not blamed on the system."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as failure:
            self.failure = failure
            raise


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), _CHUNK_BYTES):
        yield bytes(view[start : start + _CHUNK_BYTES])


class _Answer:
    """A `Response` over aiohttp's."""

    def __init__(
        self, request: Request, response: aiohttp.ClientResponse, ended: Callable[[str], None]
    ) -> None:
        self._request = request
        self._response = response
        self._ended: Callable[[str], None] | None = ended
        self._taken = False
        self.on_end: Callable[[], None] = lambda: None

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self, limit: int = 32 * 1024 * 1024) -> bytes:
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                self.close()
                raise self._torn(f"the answer is larger than {limit} bytes")
        return bytes(body)

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._taken:
            raise RuntimeError("the body of an answer can be taken once")
        self._taken = True
        try:
            async for chunk in self._response.content.iter_chunked(_CHUNK_BYTES):
                yield chunk
        except TimeoutError:
            self._end("none")
            raise self._torn(
                f"not all came within {self._request.timeout_seconds:g} s", TimedOut
            ) from None
        except (aiohttp.ClientError, OSError):
            self._end("none")
            raise self._torn("the answer broke off") from None
        self._end(self._class())

    def close(self) -> None:
        """Give up what was not read, and the connection with it."""
        self._end(self._class())
        self._response.close()

    def _class(self) -> str:
        return f"{self.status // 100}xx"

    def _end(self, status_class: str) -> None:
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended(status_class)
            self.on_end()

    def _torn(self, detail: str, kind: type[Transient] = Transient) -> Transient:
        return kind(
            self._request.system,
            self._request.operation,
            status=self.status,
            detail=detail,
            ambiguous=not self._request.idempotent,
        )


class _AiohttpTransport:
    def __init__(
        self,
        *,
        clock: Clock,
        repeatable: aiohttp.ClientSession,
        kept: aiohttp.ClientSession,
        fresh: aiohttp.ClientSession,
        connect_seconds: float,
        rooms: Mapping[str, asyncio.Semaphore],
        on_exchange: OnExchange,
        traceparent: Callable[[], str | None],
        jitter: random.Random,
    ) -> None:
        self._clock = clock
        self._repeatable = repeatable
        self._kept = kept
        self._fresh = fresh
        self._connect_seconds = connect_seconds
        self._rooms = rooms
        self._on_exchange = on_exchange
        self._traceparent = traceparent
        self._jitter = jitter

    def send(self, request: Request) -> "_Sending":
        """See `Transport.send`."""
        return _Sending(self, request)

    async def room(self, request: Request) -> _Room:
        """Wait until the system has room; the narrower limit first, so nobody waits in a circle."""
        names = (f"{request.system}.{request.operation}", request.system)
        wanted = [self._rooms[name] for name in names if name in self._rooms]
        if not any(room.locked() for room in wanted):
            for room in wanted:
                await room.acquire()  # at once, so nothing comes in between
            return _Room(tuple(wanted))
        taken: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(request.timeout_seconds):
                for room in wanted:
                    await room.acquire()
                    taken.append(room)
        except BaseException as gone:
            _Room(tuple(taken)).leave()
            if isinstance(gone, TimeoutError):
                raise HeldBack(
                    request.system,
                    request.operation,
                    reason=f"too many calls were under way for {request.timeout_seconds:g} s",
                    after=ROOM_PAUSE,
                ) from None
            raise
        return _Room(tuple(taken))

    async def answer(self, request: Request) -> _Answer:
        """Send, again where that is safe, and return the answer."""
        deadline = self._clock.monotonic() + request.timeout_seconds
        repeatable = request.idempotent and isinstance(request.body, bytes | None)
        for pauses in range(_TRIES if repeatable else 1):
            pause = _FIRST_PAUSE_SECONDS * 3**pauses * self._jitter.uniform(0.5, 1.5)
            answer: _Answer | None = None
            lost: Transient | None = None
            try:
                answer = await self._once(
                    request, deadline - self._clock.monotonic(), resent=pauses
                )
            except Transient as no_answer:
                lost = no_answer
            last = (
                not repeatable
                or pauses == _TRIES - 1
                or self._clock.monotonic() + pause >= deadline
            )
            if answer is not None:
                # One that says when to come back is not pressed before.
                if last or answer.status not in {502, 503, 504} or "Retry-After" in answer.headers:
                    return answer
                answer.close()
            elif last and lost is not None:
                raise lost
            await self._clock.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _once(self, request: Request, seconds: float, *, resent: int) -> _Answer:
        headers = {"Accept-Encoding": "identity", "User-Agent": "bitbylaw", **request.headers}
        trace = self._traceparent()
        if trace is not None:
            headers["traceparent"] = trace

        session = self._repeatable if request.idempotent else self._kept
        source, data = None, request.body
        if isinstance(data, bytes) and len(data) > _LARGE_BYTES:
            # In pieces, because one large write would hold up the loop.
            headers["Content-Length"] = str(len(data))
            data = _pieces(data)
        elif data is not None and not isinstance(data, bytes):
            session, source = self._fresh, _Source(data)
            data = source

        began = self._clock.monotonic()
        span = spans.call(request, trace, resent=resent)
        status: int | None = None

        def ended(status_class: str, error: str = "") -> None:
            spent = self._clock.monotonic() - began
            self._on_exchange(request.system, request.operation, status_class, spent)
            torn = "Transient" if status_class == "none" else ""
            spans.called(span, status=status, error=error or torn)

        attempt = _Attempt()
        total = max(seconds, 0.001)  # aiohttp takes zero for "no limit"
        try:
            response = await session.request(
                request.method,
                _url(request),
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=total, connect=self._connect_seconds),
                trace_request_ctx=attempt,
            )
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise
        except asyncio.CancelledError:
            spans.called(span, status=None, error="CancelledError")
            raise
        except (aiohttp.ClientError, OSError) as lost:
            ended("none", type(lost).__name__)
            if source is not None and source.failure is not None:
                raise source.failure from None
            kind = TimedOut if isinstance(lost, TimeoutError) else Transient
            raise kind(
                request.system,
                request.operation,
                detail=self._why(request, lost),
                ambiguous=attempt.sent and not request.idempotent,
            ) from None
        status = response.status
        return _Answer(request, response, ended)

    def _why(self, request: Request, lost: Exception) -> str:
        """Return the reason in fixed words: aiohttp's own name the address."""
        match lost:
            case aiohttp.ClientConnectorDNSError():
                return "its name does not resolve"
            case aiohttp.ConnectionTimeoutError():
                return f"no connection within {self._connect_seconds:g} s"
            case aiohttp.ClientConnectorCertificateError():
                return "its TLS certificate is not accepted"
            case aiohttp.ClientSSLError():
                return "no TLS connection"
            case aiohttp.ClientConnectorError():
                return f"no connection ({errno.errorcode.get(lost.errno or 0, 'refused')})"
            case TimeoutError():
                return f"no answer within {request.timeout_seconds:g} s"
            case aiohttp.ServerDisconnectedError() | OSError() | aiohttp.ClientConnectionError():
                return "the connection broke off"
            case _:
                return "the answer is no HTTP"


class _Sending:
    """One request, its room and its answer, as a context.

    Plain methods where a generator would be shorter: every call to every system passes here, and
    who waits for it is a person before a screen.
    """

    __slots__ = ("_answer", "_request", "_room", "_transport")

    def __init__(self, transport: _AiohttpTransport, request: Request) -> None:
        self._transport = transport
        self._request = request

    async def __aenter__(self) -> _Answer:
        self._room = await self._transport.room(self._request)
        try:
            self._answer = await self._transport.answer(self._request)
        except BaseException:
            self._room.leave()
            raise
        self._answer.on_end = self._room.leave
        return self._answer

    async def __aexit__(self, *raised: object) -> None:
        try:
            self._answer.close()
        finally:
            self._room.leave()


def _url(request: Request) -> URL:
    """Return the address with its query, exactly as it goes on the wire."""
    query = "&".join(part for part in (request.query, urlencode(request.params)) if part)
    return URL(request.url + ("?" + query if query else ""), encoded=True)
