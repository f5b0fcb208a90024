"""Hosts HTTP routes on a real socket: bounded in memory, honest in its answers, slow to leave."""

import asyncio
import contextlib
import difflib
import errno
import re
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote

import pydantic_core
from aiohttp import web
from multidict import CIMultiDict
from pydantic import SecretStr, TypeAdapter, ValidationError

from bitbylaw_common import metrics, spans, tracing
from bitbylaw_common.deadlines import Deadlines
from bitbylaw_common.errors import (
    BitByLawError,
    DeclarationError,
    LogUnavailableError,
    OutsideError,
    SettingsError,
)
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.control import Control, ControlPort, Keys
from bitbylaw_common.runtime.triggers import ApiRequest, ApiResponse, HttpTrigger

MIB: Final = 1024 * 1024
BUFFER_BYTES: Final = 64 * MIB
"""Bytes of request bodies in memory at once; beyond, posts are answered 503."""
BODY_SECONDS: Final = 60.0
RETRY_AFTER_SECONDS: Final = 5
_IN_A_THREAD_FROM: Final = 256 * 1024
"""Bodies of this size take too long to parse on the event loop."""
_CALLER_GONE: Final = 499
_CONTROL: Final = "control"
_SPARED_WHILE_DRAINING: Final = "/healthz"
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_LONGEST_PATH_COMPARED: Final = 128
_MOST_PROBLEMS: Final = 10


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        step: the name of the step behind it, for the log.
        trigger: method, path, kind of body and its limit.
        run: answers one request. What it raises is answered 500, 503 for `LogUnavailableError`.
    """

    step: str
    trigger: HttpTrigger[Any]
    run: Callable[[ApiRequest[Any]], Awaitable[ApiResponse]]


class BodyTooLarge(BitByLawError):  # noqa: N818 - reads as the kind of answer it is
    """The body is longer than its route takes; a streamed body raises it in the handler."""


class BodyStalled(BitByLawError):  # noqa: N818 - reads as the kind of answer it is
    """The caller stopped sending; a streamed body raises it in the handler."""


class _CallerStalled(Exception):  # noqa: N818 - it names a fact, not a mistake
    """The caller does not take its answer."""


class _Refusal(Exception):  # noqa: N818 - an answer on its way, not a mistake
    """Ends the handling of a request with this answer."""

    def __init__(self, answer: ApiResponse, *, close: bool = False) -> None:
        super().__init__(answer.status)
        self.answer = answer
        self.close = close


class HttpHost:
    """Serves routes and the control endpoints while the `async with` lasts.

    Leaving drains: requests that come meanwhile are answered 503 on the open port, so that nobody
    is refused a connection before the last answer is out; then the port closes.

    Args:
        control: what `/healthz`, `/readyz`, `/_console/*` answer from.
        host, port: where to listen; port 0 takes a free one, see `port`.
        control_key: what the control endpoints ask for.
        drain_seconds: how long leaving waits for requests in flight; the rest is cancelled.
        linger_seconds: how long leaving answers 503 at least, for callers that find out late.
        buffer_bytes: all request bodies in memory together.
        body_seconds: how long a body may take, or for a streamed one its next piece; a streamed
            answer too.

    Raises:
        DeclarationError: two routes are the same.
        SettingsError: on entering: the port is taken (it says by whom), the address is not ours,
            or it can be reached from outside and there is no control key.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        control: ControlPort,
        *,
        host: str = "127.0.0.1",
        port: int = 3111,
        control_key: SecretStr | None = None,
        drain_seconds: float = 10.0,
        linger_seconds: float = 0.0,
        buffer_bytes: int = BUFFER_BYTES,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._host = host
        self._port = port
        self._given = routes
        self._control = control
        self._control_key = control_key
        self._drain_seconds = drain_seconds
        self._linger_seconds = linger_seconds
        self._buffer = _Buffer(buffer_bytes)
        self._body_seconds = body_seconds
        self._taking = Deadlines(body_seconds)
        self._routes = _Routes(routes)
        self._in_flight = 0
        self._idle = asyncio.Event()  # set and cleared from the drain on
        self._draining = False
        self._runner: web.ServerRunner | None = None
        self._logger = step_logger()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """Where it can be reached from this machine, without a slash at the end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    async def __aenter__(self) -> Self:
        """Listen."""
        keys = Keys.guarding(
            "the control interface", self._control_key, variable="BBL_CONTROL_KEY", host=self._host
        )
        own = (Route(_CONTROL, *one) for one in Control(self._control, keys).endpoints())
        self._routes = _Routes([*self._given, *own])
        server = _Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=75.0,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, backlog=1024)
        try:
            await site.start()
        except OSError as failed:
            await self._runner.cleanup()
            raise SettingsError(_cannot_listen(self._host, self._port, failed)) from None
        self._port = site.port
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain, then close."""
        try:
            await self.drain()
        finally:
            if self._runner is not None:
                await self._runner.cleanup()

    async def drain(self) -> int:
        """Take no new work; return how many requests were still running at the limit.

        May be called before leaving, and again. New requests are answered 503 and told to close
        their connection; `/healthz` goes on.
        """
        linger = 0.0 if self._draining else self._linger_seconds
        self._draining = True
        if self._in_flight == 0:
            self._idle.set()
        lingering = asyncio.create_task(asyncio.sleep(linger))
        try:
            async with asyncio.timeout(max(self._drain_seconds, linger)):
                await self._idle.wait()
                await lingering
                await self._idle.wait()
        except TimeoutError:
            if self._in_flight:
                self._logger.warning("requests outlast the drain", requests=self._in_flight)
        finally:
            lingering.cancel()
        return self._in_flight

    # -- one request ------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        began = time.monotonic()
        method = request.method if request.method in _METHODS else "other"
        found = self._routes.find(request.method, request)
        route = "unknown" if isinstance(found, _Refusal) else found[0].route.trigger.path
        status = _CALLER_GONE
        self._in_flight += 1
        self._idle.clear()
        _totals.in_flight += 1
        try:
            with self._place(request, found, method, route) as trace:
                response = await self._respond(request, found, trace)
                status = response.status
                spans.answered(status)
        finally:
            self._in_flight -= 1
            if self._draining and self._in_flight == 0:
                self._idle.set()
            _totals.in_flight -= 1
            _count(method, route, status, time.monotonic() - began)
        return response

    def _place(
        self, request: web.BaseRequest, found: "_Found | _Refusal", method: str, route: str
    ) -> spans.Place:
        given = request.headers.get("traceparent", "")
        if method == "GET" and not isinstance(found, _Refusal) and found[0].route.step == _CONTROL:
            # Asked every few seconds, for ever, by what watches the process: no news.
            return tracing.use(tracing.child_of(given))
        return spans.request(method, route, given)

    async def _respond(
        self, request: web.BaseRequest, found: "_Found | _Refusal", trace: tracing.Trace
    ) -> web.StreamResponse:
        held = _Held(self._buffer)
        try:
            try:
                answer, close = await self._answer(request, found, trace, held), self._draining
            except _Refusal as refusal:
                answer, close = refusal.answer, refusal.close or self._draining
            if isinstance(answer.body, AsyncIterable):
                chunks = aiter(answer.body)
                return await self._stream(request, answer, chunks, trace, close=close)
            try:
                return _whole(answer, close=close)
            except (TypeError, ValueError) as unfit:
                self._logger.error("an answer cannot be sent as it is", exc_info=unfit)
                return _whole(_internal(trace), close=True)
        finally:
            held.release()

    async def _answer(
        self,
        request: web.BaseRequest,
        found: "_Found | _Refusal",
        trace: tracing.Trace,
        held: "_Held",
    ) -> ApiResponse:
        if self._draining and request.path != _SPARED_WHILE_DRAINING:
            raise _Refusal(_busy("this process is stopping"), close=True)
        if isinstance(found, _Refusal):
            raise found
        target, path_params = found
        trigger = target.route.trigger
        try:
            given = await self._given_request(request, target, path_params, trace, held)
            return await target.route.run(given)
        except _Refusal:
            raise
        except BodyTooLarge:
            raise _Refusal(_too_large(trigger.max_body_bytes), close=True) from None
        except BodyStalled as stalled:
            raise _Refusal(ApiResponse(408, {"error": str(stalled)}), close=True) from None
        except web.RequestPayloadError:
            raise _Refusal(
                ApiResponse(400, {"error": "the body's transfer encoding is broken"}), close=True
            ) from None
        except LogUnavailableError as down:
            self._logger.warning("answered 503: Kafka does not acknowledge", error=str(down))
            return _busy("it could not be stored; send it again")
        except Exception as bug:
            if _gone(request):
                raise _Refusal(ApiResponse(_CALLER_GONE), close=True) from None
            self._logger.error(
                "bug in an HTTP handler", step=target.route.step, route=trigger.path, exc_info=bug
            )
            return _internal(trace)

    async def _given_request(
        self,
        request: web.BaseRequest,
        target: "_Target",
        path_params: Mapping[str, str],
        trace: tracing.Trace,
        held: "_Held",
    ) -> ApiRequest[Any]:
        trigger = target.route.trigger
        announced = request.content_length
        if announced is not None and announced > trigger.max_body_bytes:
            raise BodyTooLarge
        if trigger.kind != "stream" and announced:
            held.take(announced)
        if "Expect" in request.headers:
            await _continue(request)
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), value if value.isascii() else _text(value))
        headers["traceparent"] = trace.header  # who goes on from here is in the same trace
        raw = b""
        body: Any
        if trigger.kind == "stream":
            body = _chunks(request, trigger.max_body_bytes, self._body_seconds)
        else:
            raw = await _read(
                request, trigger.max_body_bytes, held, announced or 0, self._body_seconds
            )
            body = raw if target.adapter is None else await _parse(target.adapter, raw)
        return ApiRequest(
            method=request.method,
            path=request.path,
            body=body,
            raw=raw,
            headers=headers,
            query_params=_firsts(request.query.items()) if request.query_string else {},
            path_params=path_params,
            raw_query=request.raw_path.partition("?")[2],
        )

    async def _stream(
        self,
        request: web.BaseRequest,
        answer: ApiResponse,
        chunks: AsyncIterator[bytes],
        trace: tracing.Trace,
        *,
        close: bool,
    ) -> web.StreamResponse:
        """Send the pieces as they come; where the source fails midway, cut the connection.

        A cut is the only way to tell the caller that the body is not whole.
        """
        response = _Streamed(status=answer.status, headers=_headers(answer, _NO_TYPE))
        if close:
            response.force_close()
        try:
            first = await anext(chunks, b"")
            await response.prepare(request)
            if first:
                await self._write(response, first)
            async for chunk in chunks:
                await self._write(response, chunk)
            await response.write_eof()
        except ConnectionError:
            raise
        except Exception as broken:  # noqa: BLE001 - it is logged, then answered 500 or raised
            return self._broken(request, response, broken, trace)
        finally:
            closing = getattr(chunks, "aclose", None)
            if closing is not None:
                await closing()
        return response

    def _broken(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        broken: Exception,
        trace: tracing.Trace,
    ) -> web.StreamResponse:
        """Return an error in place of an answer that has not begun.

        Raises:
            ConnectionAbortedError: it had; its connection is cut.
        """
        route = request.path
        match broken:
            case _CallerStalled():
                self._logger.info("a caller does not take its answer", route=route)
            case OutsideError():
                self._logger.warning("an answer broke off", route=route, error=str(broken))
            case _:
                self._logger.error("the stream of an answer broke", route=route, exc_info=broken)
        if not response.prepared:
            return _whole(_internal(trace), close=True)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError("the stream of an answer broke") from broken

    async def _write(self, response: web.StreamResponse, chunk: bytes) -> None:
        """Send a piece.

        Raises:
            _CallerStalled: the caller took nothing for too long; what it holds open is given up.
        """
        try:
            with self._taking.limit():
                await response.write(chunk)
        except TimeoutError:
            raise _CallerStalled from None


class _Streamed(web.StreamResponse):
    """An answer whose head goes out with its first piece.

    On its own it would cost a write of ours and a waking of the caller's, which is most of what a
    short answer costs.
    """

    _send_headers_immediately = False  # aiohttp's own switch, as of its `Response`


# -- routes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    route: Route
    adapter: TypeAdapter[Any] | None
    pattern: re.Pattern[str] | None


_Found = tuple[_Target, Mapping[str, str]]
_PARAMETER = re.compile(r"\{(\w+)\}")


class _Routes:
    """Finds the route of a path, or what to answer instead."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._fixed: dict[str, dict[str, _Target]] = {}
        self._templates: dict[str, dict[str, _Target]] = {}
        for route in routes:
            trigger = route.trigger
            if not trigger.path.startswith("/"):
                raise DeclarationError(f"the path {trigger.path!r} must begin with a slash")
            pattern = _pattern(trigger.path)
            table = self._fixed if pattern is None else self._templates
            targets = table.setdefault(trigger.path, {})
            if trigger.method in targets:
                raise DeclarationError(f"{trigger.method} {trigger.path} is declared twice")
            adapter = TypeAdapter(trigger.model) if trigger.kind == "model" else None
            targets[trigger.method] = _Target(route, adapter, pattern)

    def find(self, method: str, request: web.BaseRequest) -> "_Found | _Refusal":
        targets = self._fixed.get(request.path)
        params: Mapping[str, str] = {}
        if targets is None:
            targets, params = self._by_template(request.rel_url.raw_path)
        if targets is None:
            return _Refusal(ApiResponse(404, self._nowhere(request.path)))
        target = targets.get(method)
        if target is None:
            allowed = ", ".join(sorted(targets))
            return _Refusal(ApiResponse(405, {"error": f"only {allowed} here"}, {"allow": allowed}))
        return target, params

    def _by_template(self, raw_path: str) -> tuple[dict[str, _Target] | None, Mapping[str, str]]:
        for targets in self._templates.values():
            pattern = next(iter(targets.values())).pattern
            match = pattern.fullmatch(raw_path) if pattern is not None else None
            if match is not None:
                return targets, {name: unquote(text) for name, text in match.groupdict().items()}
        return None, {}

    def _nowhere(self, path: str) -> dict[str, str]:
        paths = [*self._fixed, *self._templates]
        near = difflib.get_close_matches(path[:_LONGEST_PATH_COMPARED], paths, n=1, cutoff=0.5)
        if not near:
            return {"error": "no such route"}
        targets = self._fixed.get(near[0]) or self._templates[near[0]]
        return {"error": "no such route", "nearest": f"{'|'.join(sorted(targets))} {near[0]}"}


def _pattern(path: str) -> re.Pattern[str] | None:
    if "{" not in path:
        return None
    parts = _PARAMETER.split(path)  # text and names in turn
    return re.compile(
        "".join(
            f"(?P<{part}>[^/]+)" if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        )
    )


# -- bodies ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Totals:
    """What all hosts of this process hold; asked for when metrics are read, not at each request."""

    in_flight: int = 0
    body_bytes: int = 0


_totals = _Totals()
metrics.HTTP_IN_FLIGHT.set_function(lambda: _totals.in_flight)
metrics.HTTP_BODY_BYTES.set_function(lambda: _totals.body_bytes)


class _Buffer:
    """Counts the bytes of request bodies in memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    def take(self, size: int) -> bool:
        if self._used + size > self._limit:
            return False
        self._used += size
        _totals.body_bytes += size
        return True

    def give_back(self, size: int) -> None:
        self._used -= size
        _totals.body_bytes -= size


class _Held:
    """One request's share of the buffer."""

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer = buffer
        self._size = 0

    def take(self, size: int) -> None:
        if not self._buffer.take(size):
            raise _Refusal(_busy("too many bytes wait to be stored"), close=True)
        self._size += size

    def release(self) -> None:
        if self._size:
            self._buffer.give_back(self._size)
            self._size = 0


def _firsts(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the first value of each name."""
    firsts: dict[str, str] = {}
    for name, text in items:
        if name not in firsts:
            firsts[name] = text
    return firsts


def _text(value: str) -> str:
    """Return a header's value; bytes that are no UTF-8 read as Latin-1, as HTTP once had it."""
    raw = value.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _continue(request: web.BaseRequest) -> None:
    """Tell a caller who asked beforehand to send the body."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


async def _read(
    request: web.BaseRequest, limit: int, held: _Held, announced: int, seconds: float
) -> bytes:
    """Return the whole body, counted against `limit` and the buffer."""
    if not request.body_exists:
        return b""
    if request.content.is_eof():  # it came along with the headers, as small ones do
        raw = request.content.read_nowait()
        if len(raw) > limit:
            raise BodyTooLarge
        if len(raw) > announced:
            held.take(len(raw) - announced)
        return raw
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while chunk := await request.content.readany():
                size += len(chunk)
                if size > limit:
                    raise BodyTooLarge
                if size > announced:  # the rest has its room already
                    held.take(min(len(chunk), size - announced))
                chunks.append(chunk)
    except TimeoutError:
        raise BodyStalled(f"the body took longer than {seconds:g} s") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _chunks(request: web.BaseRequest, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """Yield the body as it comes.

    Raises:
        BodyTooLarge: there are more than `limit` bytes.
        BodyStalled: nothing came for `seconds`.
    """
    size = 0
    while True:
        try:
            async with asyncio.timeout(seconds):
                chunk = await request.content.readany()
        except TimeoutError:
            raise BodyStalled(f"no byte of the body for {seconds:g} s") from None
        if not chunk:
            return
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge
        yield chunk


async def _parse(adapter: TypeAdapter[Any], raw: bytes) -> Any:
    try:
        if len(raw) < _IN_A_THREAD_FROM:
            return adapter.validate_json(raw)
        return await asyncio.to_thread(adapter.validate_json, raw)
    except ValidationError as unfit:
        raise _Refusal(
            ApiResponse(400, {"error": "the body does not fit", "problems": list(_problems(unfit))})
        ) from None


def _problems(unfit: ValidationError) -> Iterator[dict[str, str]]:
    """Yield field and problem, without a value that was sent."""
    for error in unfit.errors(include_url=False, include_context=False, include_input=False)[
        :_MOST_PROBLEMS
    ]:
        field = ".".join(str(part)[:64] for part in error["loc"])
        own_words = error["type"] in ("value_error", "assertion_error")  # could quote the value
        yield {"field": field, "problem": "is not valid" if own_words else error["msg"]}


# -- answers --------------------------------------------------------------------------------------


def _whole(answer: ApiResponse, *, close: bool) -> web.Response:
    body = answer.body
    if body is None:
        response = web.Response(status=answer.status, headers=_headers(answer, _NO_TYPE))
    elif isinstance(body, bytes | bytearray | memoryview):
        headers = _headers(answer, _BYTES)
        response = web.Response(status=answer.status, body=bytes(body), headers=headers)
    else:
        encoded = pydantic_core.to_json(body, inf_nan_mode="null")
        headers = _headers(answer, _JSON)
        response = web.Response(status=answer.status, body=encoded, headers=headers)
    if close:
        response.force_close()
    return response


_NO_TYPE: Final = CIMultiDict({"Server": "BitByLaw"})
"""The server without a version, and without the library's name."""
_BYTES: Final = CIMultiDict({**_NO_TYPE, "Content-Type": "application/octet-stream"})
_JSON: Final = CIMultiDict({**_NO_TYPE, "Content-Type": "application/json"})


def _headers(answer: ApiResponse, defaults: CIMultiDict[str]) -> CIMultiDict[str]:
    headers = defaults.copy()
    for name, value in answer.headers.items():
        if not value.isprintable():
            raise ValueError(f"the header {name!r} of an answer holds control characters")
        headers[name] = value
    return headers


def _busy(why: str) -> ApiResponse:
    return ApiResponse(503, {"error": why}, {"retry-after": str(RETRY_AFTER_SECONDS)})


def _too_large(limit: int) -> ApiResponse:
    return ApiResponse(413, {"error": f"at most {limit} bytes are taken here"})


def _internal(trace: tracing.Trace) -> ApiResponse:
    return ApiResponse(500, {"error": "internal error", "trace_id": trace.trace_id})


def _count(method: str, route: str, status: int, seconds: float) -> None:
    requests, durations = _series(method, route, status)
    requests.inc()
    durations.observe(seconds)


@lru_cache(maxsize=512)
def _series(method: str, route: str, status: int) -> tuple[Any, Any]:
    return (
        metrics.Often(metrics.HTTP_REQUESTS.labels(method, route, str(status))),
        metrics.HTTP_SECONDS.labels(method, route),
    )


class _Connection(web.RequestHandler):
    """One connection, with our answer where the request is no HTTP at all."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer without what was sent and without a traceback, and close."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun, another cannot follow")
        if status >= 500:
            step_logger().error("bug while answering", exc_info=exc)
        _count("other", "unknown", status, 0.0)
        words = "internal error" if status >= 500 else "this is no HTTP request that can be read"
        return _whole(ApiResponse(status, {"error": words}), close=True)


class _Server(web.Server):
    """Makes such connections."""

    def __call__(self) -> _Connection:
        """Return the handler of a new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


# -- who holds the port ---------------------------------------------------------------------------


def _cannot_listen(host: str, port: int, failed: OSError) -> str:
    if failed.errno == errno.EADDRINUSE:
        return (
            f"port {port} is held by {_holder(port)}: stop it, "
            "or set HTTP_PORT to another (0 takes a free one)"
        )
    if failed.errno == errno.EACCES:
        return f"port {port} needs more rights than this process has: set HTTP_PORT above 1023"
    return f"HTTP_HOST={host} is no address to listen on: {failed.strerror or 'cannot be resolved'}"


def _holder(port: int) -> str:
    """Return who listens on `port`, as "pid 123 (python ...)", as far as Linux lets us see."""
    wanted = {f"socket:[{inode}]" for inode in _listeners(port)}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            if any(str(link.readlink()) in wanted for link in (process / "fd").iterdir()):
                return f"pid {process.name} ({_command(process)})"
    return "another process"


def _listeners(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):  # no Linux, or no such protocol
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                    yield columns[9]


def _command(process: Path) -> str:
    """Return the first words of its command line; later ones could be secrets."""
    words = (process / "cmdline").read_bytes().split(b"\0")[:3]
    text = " ".join(word.decode(errors="replace") for word in words if word)
    return text[:80] or (process / "comm").read_text().strip()
