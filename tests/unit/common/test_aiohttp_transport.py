"""The real transport against real servers on loopback, well-behaved ones and others."""

import asyncio
import random
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from bitbylaw_common.errors import HeldBack, NotFound, TimedOut, Transient
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.http.transport import Request, Transport

MIB = 1024 * 1024


class Clock:
    """Real time, but its pauses pass at once and are kept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 3, 8, tzinfo=UTC)

    def monotonic(self) -> float:
        return time.monotonic() + sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def ask(url: str, method: str = "GET", **changes: Any) -> Request:
    values: dict[str, Any] = {
        "system": "espocrm",
        "operation": "get_entity",
        "timeout_seconds": 10.0,
        **changes,
    }
    return Request(method=method, url=url, **values)


async def answer_of(transport: Transport, request: Request) -> tuple[int, bytes]:
    async with transport.send(request) as response:
        return response.status, await response.read()


async def lost(transport: Transport, request: Request) -> Transient:
    with pytest.raises(Transient) as raised:
        await answer_of(transport, request)
    return raised.value


@asynccontextmanager
async def served(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application(client_max_size=100 * MIB)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@dataclass
class Wire:
    """A server below HTTP: `script` writes what it likes for each request that came in."""

    script: Callable[[int, asyncio.StreamWriter], Awaitable[None]]
    requests: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = head.partition("content-length: ")[2].partition("\r\n")[0]
                await reader.readexactly(int(length or 0))
                self.requests += 1
                await self.script(self.requests, writer)
                if not writer.is_closing():
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def wired(
    script: Callable[[int, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[str, Wire]]:
    wire = Wire(script)
    server = await asyncio.start_server(wire.handle, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}/", wire
    finally:
        server.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset, as a process that is killed does."""
    linger_zero = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
    writer.transport.abort()


def whole(body: bytes = b"{}", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


# ---- what goes out, what comes back


async def test_a_query_that_is_encoded_already_goes_byte_for_byte() -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.Response()

    query = "b=%c3%BC+x&a=%2F..%2F&&c&d=&e==%26&f='\"<>"
    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        for request in (
            ask(url + "/a", query=query),
            ask(url + "/a", query=query, params=(("z", "ä"),)),
        ):
            async with transport.send(request) as response:
                await response.read()

    assert seen == [f"/a?{query}", f"/a?{query}&z=%C3%A4"]


async def test_a_request_goes_out_as_it_is_described() -> None:
    seen: list[tuple[str, str, bytes, dict[str, str]]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, await request.read(), dict(request.headers)))
        return web.json_response({"a": 1}, headers={"X-Status-Reason": "modified"}, status=409)

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        request = ask(
            url + "/E/a%2Fb",
            "PUT",
            params=(("where[0][value]", "ä b&c"), ("x", "1"), ("x", "2")),
            headers={"X-Api-Key": "k", "Content-Type": "application/json"},
            body=b'{"b":2}',
        )
        async with transport.send(request) as response:
            assert response.status == 409
            assert response.headers["x-status-reason"] == "modified"
            assert response.headers.get("X-STATUS-REASON") == "modified"
            assert "x-none" not in response.headers
            assert await response.read() == b'{"a": 1}'
            with pytest.raises(RuntimeError, match="once"):
                await response.read()

    ((method, path, body, headers),) = seen
    query = "?where%5B0%5D%5Bvalue%5D=%C3%A4+b%26c&x=1&x=2"
    assert (method, path, body) == ("PUT", "/E/a%2Fb" + query, b'{"b":2}')
    assert headers["X-Api-Key"] == "k"
    assert headers["Content-Type"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"
    assert "traceparent" not in headers


async def test_the_trace_goes_along_when_there_is_one() -> None:
    traces = iter(["00-" + "a" * 32 + "-" + "b" * 16 + "-01", None])
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("traceparent"))
        return web.Response()

    async with (
        served(handler) as url,
        aiohttp_transport(clock=Clock(), traceparent=lambda: next(traces)) as transport,
    ):
        for _ in range(2):
            await answer_of(transport, ask(url))
    assert seen == ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", None]


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        status, _ = await answer_of(transport, ask(url + "/here"))
    assert status == 302
    assert paths == ["/here"]


async def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        assert (await answer_of(transport, ask(url)))[0] == 200


async def test_no_cookie_is_kept() -> None:
    cookies: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "session=1"})

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        for _ in range(2):
            await answer_of(transport, ask(url))
    assert cookies == [None, None]


# ---- streaming


async def test_espo_31_sixty_megabytes_are_streamed_both_ways_in_constant_memory() -> None:
    piece = bytes(range(256)) * 256
    count = 60 * MIB // len(piece)
    received = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal received
        async for chunk in request.content.iter_any():
            received += len(chunk)
        response = web.StreamResponse(headers={"Content-Length": str(count * len(piece))})
        await response.prepare(request)
        for _ in range(count):
            await response.write(piece)
        return response

    async def content() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        request = ask(url, "POST", body=content(), timeout_seconds=20.0)
        tracemalloc.start()
        try:
            downloaded = largest = 0
            async with transport.send(request) as response:
                async for chunk in response.chunks():
                    downloaded += len(chunk)
                    largest = max(largest, len(chunk))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert received == downloaded == 60 * MIB
    assert largest <= 256 * 1024
    assert peak < 6 * MIB


async def test_a_large_body_of_bytes_arrives_whole() -> None:
    async def handler(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(text=f"{request.content_length} {len(body)} {body[-1]}")

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        body = bytes(3 * MIB) + b"\x07"
        answer = await answer_of(transport, ask(url, "POST", body=body))
    assert answer == (200, f"{3 * MIB + 1} {3 * MIB + 1} 7".encode())


async def test_an_answer_larger_than_the_limit_is_not_read_to_its_end() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=bytes(2 * MIB))

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        async with transport.send(ask(url)) as response:
            with pytest.raises(Transient, match="larger"):
                await response.read(limit=MIB)
        async with transport.send(ask(url)) as response:
            assert len(await response.read(limit=2 * MIB)) == 2 * MIB


async def test_a_stream_s_own_failure_is_not_blamed_on_the_system() -> None:
    arrived: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        arrived.append(await request.read())
        return web.Response()

    async def content() -> AsyncIterator[bytes]:
        yield b"first"
        raise NotFound("other", "download", status=404)

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        for headers in ({}, {"Content-Length": "1000"}):
            with pytest.raises(NotFound) as raised:
                await answer_of(transport, ask(url, "POST", body=content(), headers=headers))
            assert raised.value.system == "other"
    assert arrived == []


async def test_an_answer_before_the_end_of_a_stream_is_an_answer() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=413, body=b"too large")

    async def content() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield bytes(64 * 1024)

    async with served(handler) as url, aiohttp_transport(clock=Clock()) as transport:
        for _ in range(2):
            answer = await answer_of(transport, ask(url, "POST", body=content()))
            assert answer == (413, b"too large")


# ---- no answer


async def test_a_refused_connection_was_never_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with aiohttp_transport(clock=Clock()) as transport:
            error = await lost(transport, ask(url, "POST", body=b"x"))
    assert not error.ambiguous
    assert error.status is None
    assert error.detail == "no connection (ECONNREFUSED)"
    assert url not in str(error)


async def test_a_name_that_does_not_resolve_was_never_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    async with aiohttp_transport(clock=Clock()) as transport:
        error = await lost(transport, ask("http://crm.test/", "POST", body=b"x"))
    assert not error.ambiguous
    assert error.detail == "its name does not resolve"
    assert type(error) is Transient


async def test_connecting_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    async with aiohttp_transport(clock=Clock(), connect_seconds=0.05) as transport:
        error = await lost(transport, ask("http://crm.test/", "POST", body=b"x"))
        short = await lost(transport, ask("http://crm.test/", "POST", timeout_seconds=0.02))
    assert not error.ambiguous
    assert error.detail == "no connection within 0.05 s"
    assert type(error) is TimedOut
    assert not short.ambiguous


async def test_a_reset_after_the_request_leaves_open_whether_it_was_done() -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    async def content() -> AsyncIterator[bytes]:
        yield b"x"

    async with wired(script) as (url, wire), aiohttp_transport(clock=Clock()) as transport:
        error = await lost(transport, ask(url, "POST", body=b"x"))
        assert error.ambiguous
        assert type(error) is Transient
        assert error.status is None
        assert wire.requests == 1
        # a stream is never repeated, whatever it calls itself; and then the loss is harmless
        stream = ask(url, "POST", body=content(), headers={"Content-Length": "1"}, idempotent=True)
        assert not (await lost(transport, stream)).ambiguous
        assert wire.requests == 2


async def test_what_is_no_http_is_no_answer() -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with wired(script) as (url, _), aiohttp_transport(clock=Clock()) as transport:
        assert (await lost(transport, ask(url, "POST"))).ambiguous


async def test_an_answer_that_does_not_come_in_time_is_given_up() -> None:
    gone = asyncio.Event()

    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        await gone.wait()

    async with wired(script) as (url, _), aiohttp_transport(clock=Clock()) as transport:
        error = await lost(transport, ask(url, "POST", timeout_seconds=0.5))
        gone.set()
    assert error.ambiguous
    assert error.detail == "no answer within 0.5 s"
    assert type(error) is TimedOut


async def test_a_body_that_stalls_is_given_up_in_the_same_time() -> None:
    gone = asyncio.Event()

    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()
        await gone.wait()

    async with wired(script) as (url, _), aiohttp_transport(clock=Clock()) as transport:
        error = await lost(transport, ask(url, "POST", timeout_seconds=1.0))
        gone.set()
    assert error.ambiguous
    assert error.status == 200
    assert error.detail == "not all came within 1 s"
    assert type(error) is TimedOut


@pytest.mark.parametrize(
    "torn",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_truncated_body_is_torn_and_not_an_answer(torn: bytes, idempotent: bool) -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(torn)
        await writer.drain()
        writer.close()

    async with wired(script) as (url, wire), aiohttp_transport(clock=Clock()) as transport:
        error = await lost(transport, ask(url, idempotent=idempotent))
    assert error.status == 200
    assert error.ambiguous is not idempotent
    assert wire.requests == 1


# ---- the repeat


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Busy", "504 Gateway Timeout"])
async def test_a_safe_request_is_sent_again_after_a_gateway_s_error(status: str) -> None:
    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"no", status) if number < 3 else whole(b"yes"))

    clock = Clock()
    async with (
        wired(script) as (url, wire),
        aiohttp_transport(clock=clock, jitter=random.Random(1)) as transport,
    ):
        answer = await answer_of(transport, ask(url, "PUT", body=b"x", idempotent=True))
    assert answer == (200, b"yes")
    assert wire.requests == 3
    first, second = clock.slept
    assert 0.15 <= first <= 0.45 <= second <= 1.35


async def test_after_three_tries_the_last_answer_counts() -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"no", "503 Busy"))

    async with wired(script) as (url, wire), aiohttp_transport(clock=Clock()) as transport:
        assert await answer_of(transport, ask(url, idempotent=True)) == (503, b"no")
    assert wire.requests == 3


async def test_a_safe_request_is_sent_again_after_a_reset_and_its_loss_is_harmless() -> None:
    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if number % 4:
            reset(writer)
        else:
            writer.write(whole(b"yes"))

    async with wired(script) as (url, wire), aiohttp_transport(clock=Clock()) as transport:
        error = await lost(transport, ask(url, idempotent=True))
        assert not error.ambiguous
        assert wire.requests == 3
        assert await answer_of(transport, ask(url, idempotent=True)) == (200, b"yes")
        assert wire.requests == 4


@pytest.mark.parametrize(
    ("request_values", "answer"),
    [
        ({"idempotent": False}, whole(b"", "503 Busy")),
        ({"idempotent": True}, whole(b"", "500 Error")),
        ({"idempotent": True}, whole(b"", "429 Slow")),
        ({"idempotent": True}, b"HTTP/1.1 503 B\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_every_other_answer_is_the_caller_s_to_judge(
    request_values: dict[str, Any], answer: bytes
) -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    clock = Clock()
    async with wired(script) as (url, wire), aiohttp_transport(clock=clock) as transport:
        status, _ = await answer_of(transport, ask(url, "PUT", **request_values))
    assert status >= 429
    assert wire.requests == 1
    assert clock.slept == []


async def test_repeats_stay_within_the_time_of_the_request() -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"", "503 Busy"))

    class LongPauses(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return 100 * b

    clock = Clock()
    async with (
        wired(script) as (url, wire),
        aiohttp_transport(clock=clock, jitter=LongPauses()) as transport,
    ):
        status, _ = await answer_of(transport, ask(url, idempotent=True))
    assert status == 503
    assert clock.slept == []
    assert wire.requests == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
async def test_nothing_unsafe_is_sent_twice_when_an_idle_connection_was_closed(method: str) -> None:
    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 1:
            writer.write(whole())
        else:
            writer.close()

    async with wired(script) as (url, wire), aiohttp_transport(clock=Clock()) as transport:
        await answer_of(transport, ask(url))
        error = await lost(transport, ask(url, method))
    assert error.ambiguous
    assert wire.requests == 2


# ---- room


async def test_no_more_calls_are_under_way_than_a_system_allows() -> None:
    now = most = 0
    three, four, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now >= 3:
            (three if now == 3 else four).set()
        await go_on.wait()
        now -= 1
        return web.Response()

    limits = {"espocrm": 3}
    async with (
        served(handler) as url,
        aiohttp_transport(clock=Clock(), per_system_limits=limits) as transport,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(10):
            tasks.create_task(answer_of(transport, ask(url)))
        async with asyncio.timeout(5):
            await three.wait()
            # another system has its own room: it is answered though all of this one's is taken
            other = tasks.create_task(answer_of(transport, ask(url, system="xai")))
            await four.wait()
        go_on.set()
    assert (await other)[0] == 200
    assert most == 4


async def test_an_operation_s_own_limit_leaves_room_for_the_others() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"x")

    limits = {"espocrm": 2, "espocrm.download_attachment": 1}
    async with (
        served(handler) as url,
        aiohttp_transport(clock=Clock(), per_system_limits=limits) as transport,
    ):
        download = ask(url, operation="download_attachment")
        async with transport.send(download):
            with pytest.raises(HeldBack) as held:
                await answer_of(transport, replace(download, timeout_seconds=0.05))
            assert "was not asked" in str(held.value)
            assert not held.value.ambiguous
            assert (await answer_of(transport, ask(url)))[0] == 200
        assert (await answer_of(transport, download))[0] == 200


async def test_room_is_given_back_with_the_last_byte_and_after_every_failure() -> None:
    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 2:
            reset(writer)
        else:
            writer.write(whole(b"x"))

    limits = {"espocrm": 1}
    async with (
        wired(script) as (url, _),
        aiohttp_transport(clock=Clock(), per_system_limits=limits) as transport,
    ):
        async with transport.send(ask(url)) as response:
            await response.read()
            await lost(transport, ask(url))
            with pytest.raises(ZeroDivisionError):
                async with transport.send(ask(url)):
                    _ = 1 / 0
            assert (await answer_of(transport, ask(url)))[0] == 200
        assert (await answer_of(transport, ask(url)))[0] == 200


async def test_a_cancelled_call_gives_its_room_back() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 1:
            arrived.set()
            await gone.wait()
        writer.write(whole(b"x"))

    limits = {"espocrm": 1}
    async with (
        wired(script) as (url, _),
        aiohttp_transport(clock=Clock(), per_system_limits=limits) as transport,
    ):
        working = asyncio.create_task(answer_of(transport, ask(url)))
        async with asyncio.timeout(5):
            await arrived.wait()
        waiting = asyncio.create_task(answer_of(transport, ask(url)))
        await asyncio.sleep(0)
        for task in (waiting, working):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gone.set()
        assert (await answer_of(transport, ask(url)))[0] == 200


# ---- what metrics hear


async def test_each_request_sent_is_told_once_without_its_address() -> None:
    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        match number:
            case 1 | 2:
                writer.write(whole(b"", "503 Busy"))
            case 3:
                writer.write(whole(b"x"))
            case 4:
                reset(writer)
            case 5:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
                writer.close()
            case _:
                writer.write(whole(b"x" * 100, "404 Not Found"))

    told: list[tuple[str, str, str]] = []

    def listen(system: str, operation: str, status: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        told.append((system, operation, status))

    async with (
        wired(script) as (url, _),
        aiohttp_transport(clock=Clock(), on_exchange=listen) as transport,
    ):
        await answer_of(transport, ask(url, idempotent=True))
        await lost(transport, ask(url))
        await lost(transport, ask(url, system="xai", operation="get_file"))
        async with transport.send(ask(url)) as response:
            assert response.status == 404

    assert told == [
        ("espocrm", "get_entity", "5xx"),
        ("espocrm", "get_entity", "5xx"),
        ("espocrm", "get_entity", "2xx"),
        ("espocrm", "get_entity", "none"),
        ("xai", "get_file", "none"),
        ("espocrm", "get_entity", "4xx"),
    ]
