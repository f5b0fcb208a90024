"""The HTTP host over real sockets: routes, bodies, limits, drain, keys and control."""

import asyncio
import contextlib
import gc
import io
import json
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import aiohttp
import pytest
from aiohttp.http_writer import StreamWriter
from pydantic import BaseModel, Field, SecretStr, field_validator

from bitbylaw_common import events, logs, metrics, topics, tracing
from bitbylaw_common.errors import (
    DeclarationError,
    LogUnavailableError,
    SettingsError,
    Transient,
)
from bitbylaw_common.outcomes import Outcome, Skipped
from bitbylaw_common.runtime import (
    ApiRequest,
    ApiResponse,
    App,
    Context,
    Tick,
    cron,
    http,
    queue,
    step,
)
from bitbylaw_common.runtime.control import (
    FunctionInfo,
    UnknownFunction,
    functions_of,
)
from bitbylaw_common.runtime.hosts.http_host import BodyTooLarge, HttpHost, Route

KEY = "a-control-key-of-32-characters-ok"
CRON = "steps::VMH Beteiligte Sync Cron::trigger::0"
UNREADABLE = {"method": "other", "route": "unknown", "status": "400"}
Run = Callable[[ApiRequest[Any]], Awaitable[ApiResponse]]


class Item(BaseModel):
    id: str = Field(min_length=1)
    size: int = 0

    @field_validator("id")
    @classmethod
    def _plain(cls, value: str) -> str:
        if value == "Geheimnis":
            raise ValueError(f"{value} is not allowed")
        return value


class Told:
    """A control port that says what it is told to say."""

    def __init__(self, *functions: FunctionInfo) -> None:
        self.sick: list[str] = []
        self.not_ready: list[str] = []
        self.known = functions
        self.runs: list[str] = []
        self.kafka_down = False

    def healthy(self) -> Sequence[str]:
        return self.sick

    def ready(self) -> Sequence[str]:
        return self.not_ready

    def functions(self) -> Sequence[FunctionInfo]:
        return self.known

    async def trigger(self, function_id: str) -> str:
        if self.kafka_down:
            raise LogUnavailableError("not acknowledged within 5 s")
        if function_id not in {info.function_id for info in self.known}:
            raise UnknownFunction(function_id)
        self.runs.append(function_id)
        return f"run-{len(self.runs)}"


async def echo(request: ApiRequest[Any]) -> ApiResponse:
    return ApiResponse(
        200,
        {
            "method": request.method,
            "path": request.path,
            "raw": len(request.raw),
            "headers": dict(request.headers),
            "query": dict(request.query_params),
            "params": dict(request.path_params),
        },
    )


def post(path: str, run: Run = echo, **how: Any) -> Route:
    return Route(f"step of {path}", http("POST", path, **how), run)


@pytest.fixture
def control() -> Told:
    return Told()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("json", "debug", stream)
    yield stream
    logs.configure("json", "warning", sys.stderr)


@pytest.fixture
async def caller() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def spoken(host: HttpHost, sent: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


# -- what a handler gets --------------------------------------------------------------------------


async def test_a_handler_gets_method_path_query_headers_and_exact_bytes(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    bodies: list[bytes] = []

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        bodies.append(request.body)
        return await echo(request)

    async with HttpHost([post("/hook", run)], control, port=0) as host:
        answer = await caller.post(
            f"{host.url}/hook?a=1&a=2&b=%C3%BC", data=b"\x00\xff raw", headers={"X-Signature": "s"}
        )
        told = await answer.json()

    assert bodies == [b"\x00\xff raw"]
    assert (told["method"], told["path"], told["raw"]) == ("POST", "/hook", 6)
    assert told["query"] == {"a": "1", "b": "ü"}
    assert told["headers"]["x-signature"] == "s"


async def test_a_handler_gets_the_query_as_it_was_sent(control: Told) -> None:
    seen: list[str] = []

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        seen.append(request.raw_query)
        return ApiResponse(200)

    routes = [Route("a", http("GET", "/q"), run)]
    queries = ["", "a=%2f&&b=+%c3%BC", "a=1?b=2", "%ff&a=%"]
    async with HttpHost(routes, control, port=0) as host:
        for query in queries:
            target = f"/q?{query}" if query else "/q"
            await spoken(
                host, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )

    assert seen == queries


async def test_a_header_that_is_no_utf_8_still_reads_as_text(control: Told) -> None:
    async with HttpHost([post("/hook")], control, port=0) as host:
        answer = await spoken(
            host,
            b"POST /hook HTTP/1.1\r\nHost: x\r\nA: gr\xfc\xdfe\r\nB: gr\xc3\xbc\xc3\x9fe\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n",
        )

    headers = json.loads(answer.partition(b"\r\n\r\n")[2])["headers"]
    assert headers["a"] == headers["b"] == "grüße"


async def test_of_a_header_sent_twice_the_first_counts(control: Told) -> None:
    async with HttpHost([post("/hook")], control, port=0) as host:
        answer = await spoken(
            host,
            b"POST /hook HTTP/1.1\r\nHost: x\r\nApiKey: one\r\napikey: two\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n",
        )

    assert json.loads(answer.partition(b"\r\n\r\n")[2])["headers"]["apikey"] == "one"


async def test_path_parameters_are_segments_and_come_decoded(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    routes = [Route("a", http("GET", "/record/{entity}/{id}"), echo)]
    async with HttpHost(routes, control, port=0) as host:
        found = await caller.get(f"{host.url}/record/document/a%2Fb%20c", allow_redirects=False)
        longer = await caller.get(f"{host.url}/record/document/1/2")
        params = (await found.json())["params"]

    assert params == {"entity": "document", "id": "a/b c"}
    assert longer.status == 404


async def test_a_body_is_parsed_into_the_declared_model(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    seen: list[list[Item]] = []

    async def run(request: ApiRequest[list[Item]]) -> ApiResponse:
        seen.append(request.body)
        return ApiResponse(200, request.body)

    async with HttpHost([post("/items", run, body=list[Item])], control, port=0) as host:
        answer = await caller.post(f"{host.url}/items", data=b'[{"id": "1"}]')
        assert await answer.json() == [{"id": "1", "size": 0}]
        large = json.dumps([{"id": "x" * 100}] * 5_000).encode()
        assert (await caller.post(f"{host.url}/items", data=large)).status == 200

    assert [len(items) for items in seen] == [1, 5_000]


async def test_a_body_that_does_not_fit_is_answered_with_fields_and_never_with_values(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    async with HttpHost([post("/items", body=list[Item])], control, port=0) as host:
        answer = await caller.post(
            f"{host.url}/items",
            json=[{"size": 1}, {"id": "1", "size": "Schmidt"}, {"id": "Geheimnis"}],
        )
        told = await answer.text()
        torn = await caller.post(f"{host.url}/items", data=b'[{"id": "Schm')

    assert answer.status == 400
    problems = {problem["field"]: problem["problem"] for problem in json.loads(told)["problems"]}
    assert problems["0.id"] == "Field required"
    assert "integer" in problems["1.size"]
    assert problems["2.id"] == "is not valid"
    assert "Schmidt" not in told
    assert "Geheimnis" not in told
    assert torn.status == 400
    assert "Schm" not in await torn.text()


# -- streams --------------------------------------------------------------------------------------


async def test_a_stream_comes_piece_by_piece_while_the_caller_still_sends(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def run(request: ApiRequest[AsyncIterator[bytes]]) -> ApiResponse:
        async for chunk in request.body:
            arrived.put_nowait(chunk)
        return ApiResponse(200, {"raw": len(request.raw)})

    async def sent() -> AsyncIterator[bytes]:
        yield b"first"
        assert await asyncio.wait_for(arrived.get(), 5) == b"first"  # before the second is sent
        yield b"second"

    async with HttpHost([post("/up", run, body="stream")], control, port=0) as host:
        answer = await caller.post(f"{host.url}/up", data=sent())
        assert await answer.json() == {"raw": 0}

    assert arrived.get_nowait() == b"second"


async def test_an_answer_is_streamed_as_it_is_made(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    taken = asyncio.Event()

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            await asyncio.wait_for(taken.wait(), 5)
            yield b"two"

        return ApiResponse(200, pieces(), {"content-type": "text/plain"})

    async with (
        HttpHost([Route("s", http("GET", "/down"), run)], control, port=0) as host,
        caller.get(f"{host.url}/down") as answer,
    ):
        assert answer.headers["content-type"] == "text/plain"
        assert await answer.content.readany() == b"one"
        taken.set()
        assert await answer.content.read() == b"two"


async def test_the_head_of_a_streamed_answer_goes_out_with_its_first_piece(
    control: Told, caller: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = StreamWriter._write
    write_lines = StreamWriter._writelines

    def one(writer: StreamWriter, piece: bytes) -> None:
        written.append(bytes(piece))
        write(writer, piece)

    def many(writer: StreamWriter, pieces: Sequence[bytes]) -> None:
        written.append(b"".join(pieces))
        write_lines(writer, pieces)

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        return ApiResponse(200, pieces(), {"content-length": "6"})

    monkeypatch.setattr(StreamWriter, "_write", one)
    monkeypatch.setattr(StreamWriter, "_writelines", many)
    async with (
        HttpHost([Route("s", http("GET", "/down"), run)], control, port=0) as host,
        caller.get(f"{host.url}/down") as answer,
    ):
        assert await answer.read() == b"onetwo"
    ours = [piece for piece in written if not piece.startswith(b"GET")]
    assert [piece.endswith(b"\r\n\r\none") for piece in ours] == [True, False]
    assert ours[1] == b"two"


async def test_a_stream_that_breaks_midway_does_not_look_whole(
    control: Told, caller: aiohttp.ClientSession, log: io.StringIO
) -> None:
    closed = []

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                raise RuntimeError("source gone")
            finally:
                closed.append(True)

        return ApiResponse(200, pieces())

    async with HttpHost([Route("s", http("GET", "/down"), run)], control, port=0) as host:
        answer = await caller.get(f"{host.url}/down")
        with pytest.raises(aiohttp.ClientError):
            await answer.read()

    assert closed == [True]
    assert any("stream of an answer broke" in line["event"] for line in lines(log))


async def test_a_stream_whose_outside_source_breaks_is_cut_off_without_a_traceback(
    control: Told, caller: aiohttp.ClientSession, log: io.StringIO
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a" * 1000
            raise Transient("advoware", "call_get", detail="the answer broke off")

        return ApiResponse(200, pieces())

    async with HttpHost([Route("s", http("GET", "/down"), run)], control, port=0) as host:
        answer = await caller.get(f"{host.url}/down")
        with pytest.raises(aiohttp.ClientError):
            await answer.read()

    (line,) = [one for one in lines(log) if one["event"] == "an answer broke off"]
    assert line["level"] == "warning"
    assert "exception" not in line


async def test_a_caller_who_does_not_take_its_answer_is_given_up(control: Told) -> None:
    closed = asyncio.Event()

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"a" * 256 * 1024
            finally:
                closed.set()

        return ApiResponse(200, pieces())

    routes = [Route("s", http("GET", "/down"), run)]
    async with HttpHost(routes, control, port=0, body_seconds=0.3) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(b"GET /down HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(10):
            await closed.wait()  # nothing more is read: the buffers fill up, then it is over
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_stream_that_fails_before_its_first_piece_is_a_500(
    control: Told, caller: aiohttp.ClientSession, log: io.StringIO
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        async def pieces() -> AsyncIterator[bytes]:
            if request.path:
                raise RuntimeError("source gone")
            yield b""

        return ApiResponse(200, pieces())

    async with HttpHost([Route("s", http("GET", "/down"), run)], control, port=0) as host:
        answer = await caller.get(f"{host.url}/down")

        assert answer.status == 500
        assert (await answer.json())["error"] == "internal error"


async def test_a_caller_who_goes_away_cancels_the_handler(control: Told) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ApiResponse(200)

    before = metrics.value(
        "bitbylaw_http_requests_total", method="POST", route="/gone", status="499"
    )
    async with HttpHost([post("/gone", run)], control, port=0) as host:
        _, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(b"POST /gone HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await asyncio.wait_for(entered.wait(), 5)
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 5)
    after = metrics.value(
        "bitbylaw_http_requests_total", method="POST", route="/gone", status="499"
    )

    assert after == before + 1


# -- limits ---------------------------------------------------------------------------------------


async def test_a_body_announced_too_long_is_refused_before_it_is_read(control: Told) -> None:
    async with HttpHost([post("/hook", max_body_bytes=1000)], control, port=0) as host:
        answer = await spoken(
            host,
            b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n"
            b"Expect: 100-continue\r\n\r\n" + b"x" * 1001,
        )

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("kind", ["bytes", "stream"])
async def test_a_body_of_unknown_length_is_refused_where_it_exceeds_the_limit(
    control: Told, caller: aiohttp.ClientSession, kind: str
) -> None:
    taken = 0

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        nonlocal taken
        if kind == "stream":
            async for chunk in request.body:
                taken += len(chunk)
        return ApiResponse(200)

    async def sent() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    routes = [post("/hook", run, body=kind, max_body_bytes=1000)]
    async with HttpHost(routes, control, port=0) as host:
        answer = await caller.post(f"{host.url}/hook", data=sent())
        assert answer.status == 413

        fits = await caller.post(f"{host.url}/hook", data=b"x" * 1000)
        assert fits.status == 200
    assert taken <= 2000


async def test_a_streaming_handler_may_answer_too_long_a_body_itself(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        try:
            async for _ in request.body:
                pass
        except BodyTooLarge:
            return ApiResponse(507, {"error": "mine"})
        return ApiResponse(200)

    async def sent() -> AsyncIterator[bytes]:
        yield b"x" * 11

    routes = [post("/up", run, body="stream", max_body_bytes=10)]
    async with HttpHost(routes, control, port=0) as host:
        assert (await caller.post(f"{host.url}/up", data=sent())).status == 507


async def test_a_caller_who_asks_first_is_told_to_go_on(control: Told) -> None:
    async with HttpHost([post("/hook")], control, port=0) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(
            b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 100")
        writer.write(b"body")
        rest = await asyncio.wait_for(reader.read(), 5)
        writer.close()

    assert b"HTTP/1.1 200" in rest
    assert b'"raw":4' in rest


async def test_bodies_together_are_bounded_and_what_is_beyond_is_answered_503_at_once(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        entered.set()
        await asyncio.wait_for(leave.wait(), 5)
        return ApiResponse(200)

    async def unannounced() -> AsyncIterator[bytes]:
        yield b"x" * 600

    async with HttpHost([post("/hook", run)], control, port=0, buffer_bytes=1000) as host:
        first = asyncio.create_task(caller.post(f"{host.url}/hook", data=b"x" * 600))
        await asyncio.wait_for(entered.wait(), 5)
        assert metrics.value("bitbylaw_http_body_bytes") == 600

        for body in (b"x" * 600, unannounced()):
            beyond = await caller.post(f"{host.url}/hook", data=body)
            assert beyond.status == 503
            assert beyond.headers["retry-after"] == "5"

        leave.set()
        assert (await first).status == 200
        assert metrics.value("bitbylaw_http_body_bytes") == 0
        assert (await caller.post(f"{host.url}/hook", data=b"x" * 1000)).status == 200


async def test_a_streamed_body_needs_no_room_in_memory(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        return ApiResponse(200, {"bytes": sum([len(chunk) async for chunk in request.body])})

    routes = [post("/up", run, body="stream", max_body_bytes=10_000_000)]
    async with HttpHost(routes, control, port=0, buffer_bytes=1000) as host:
        answer = await caller.post(f"{host.url}/up", data=io.BytesIO(b"x" * 5_000_000))

        assert await answer.json() == {"bytes": 5_000_000}


async def test_a_compressed_body_is_handed_on_as_it_was_sent(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    async with HttpHost([post("/hook")], control, port=0) as host:
        answer = await caller.post(
            f"{host.url}/hook", data=b"not even gzip", headers={"content-encoding": "gzip"}
        )

        assert (await answer.json())["raw"] == 13


@pytest.mark.parametrize("kind", ["bytes", "stream"])
@pytest.mark.parametrize(
    "begun",
    [
        b"Content-Length: 10\r\n\r\nhalf",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_a_body_that_stops_coming_is_given_up_and_its_memory_with_it(
    control: Told, kind: str, begun: bytes
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        async for _ in request.body:
            pass
        raise AssertionError

    routes = [post("/up", run, body=kind)]
    async with HttpHost(routes, control, port=0, body_seconds=0.05) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(b"POST /up HTTP/1.1\r\nHost: x\r\n" + begun)
        answer = await asyncio.wait_for(reader.readline(), 5)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 408")
    assert metrics.value("bitbylaw_http_body_bytes") == 0


async def test_a_body_cut_off_by_its_caller_reaches_no_handler(control: Told) -> None:
    labels = {"method": "POST", "route": "/cut", "status": "499"}
    before = metrics.value("bitbylaw_http_requests_total", **labels)

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        raise AssertionError

    async with HttpHost([post("/cut", run)], control, port=0) as host:
        _, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(b"POST /cut HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        async with asyncio.timeout(5):
            while metrics.value("bitbylaw_http_body_bytes") == 0:  # noqa: ASYNC110 - a metric has no event
                await asyncio.sleep(0.001)
        writer.close()
        await host.drain()

    assert metrics.value("bitbylaw_http_requests_total", **labels) == before + 1
    assert metrics.value("bitbylaw_http_body_bytes") == 0


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_bytes_come_the_host_goes_on_answering(
    control: Told, caller: aiohttp.ClientSession, log: io.StringIO, seed: int
) -> None:
    chance = random.Random(seed)
    sound = [
        b"POST /hook?a=%41 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
        b"POST /hook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        b'POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n[{"id": "1"}]',
        b"GET /healthz HTTP/1.1\r\nHost: x\r\napikey: \xff\r\n\r\n",
    ]
    routes = [post("/hook"), post("/items", body=list[Item])]
    async with HttpHost(routes, control, port=0, control_key=SecretStr(KEY)) as host:
        for _ in range(25):
            sent = bytearray(chance.choice(sound))
            for _ in range(chance.randrange(4)):
                place = chance.randrange(len(sent))
                sent[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            writer.write(bytes(sent))
            writer.write_eof()
            async with asyncio.timeout(5):
                answer = b""
                with contextlib.suppress(ConnectionError):
                    answer = await reader.read()
            writer.close()
            assert answer == b"" or answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
            assert b"Traceback" not in answer
            assert b" 500 " not in answer.partition(b"\r\n")[0]

        assert (await caller.post(f"{host.url}/hook", data=b"body")).status == 200
    assert [line for line in lines(log) if line["level"] == "error"] == []
    assert metrics.value("bitbylaw_http_body_bytes") == 0
    assert metrics.value("bitbylaw_http_requests_in_flight") == 0


# -- answers that no handler made -----------------------------------------------------------------


async def test_an_unknown_path_is_told_the_nearest_route(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    async with HttpHost([post("/vmh/webhook/document/create")], control, port=0) as host:
        near = await caller.post(f"{host.url}/vmh/webhook/dokument/create")
        far = await caller.get(f"{host.url}/zzz")

        assert near.status == far.status == 404
        assert (await near.json())["nearest"] == "POST /vmh/webhook/document/create"
        assert "nearest" not in await far.json()


async def test_a_wrong_method_is_told_the_right_ones(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    routes = [post("/hook"), Route("put", http("PUT", "/hook"), echo)]
    async with HttpHost(routes, control, port=0) as host:
        answer = await caller.get(f"{host.url}/hook")

        assert answer.status == 405
        assert answer.headers["allow"] == "POST, PUT"


async def test_a_bug_in_a_handler_shows_the_caller_a_trace_id_and_the_log_the_traceback(
    control: Told, caller: aiohttp.ClientSession, log: io.StringIO
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        raise RuntimeError("inner 'Schmidt' workings")

    async with HttpHost([post("/hook", run)], control, port=0) as host:
        answer = await caller.post(f"{host.url}/hook")
        told = await answer.json()

    assert answer.status == 500
    assert told.keys() == {"error", "trace_id"}
    (line,) = [line for line in lines(log) if line["event"] == "bug in an HTTP handler"]
    assert line["trace_id"] == told["trace_id"]
    assert "Traceback" in line["exception"]
    assert "Schmidt" not in log.getvalue().replace("raise RuntimeError(\\\"inner 'Schmidt'", "")


@pytest.mark.parametrize(
    "answer",
    [
        ApiResponse(200, {"a": object()}),
        ApiResponse(200, "\udc81"),
        ApiResponse(200, None, {"x": "a\r\nb"}),
    ],
)
async def test_an_answer_that_cannot_be_sent_is_a_500_with_its_trace(
    control: Told, caller: aiohttp.ClientSession, log: io.StringIO, answer: ApiResponse
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        return answer

    async with HttpHost([post("/hook", run)], control, port=0) as host:
        got = await caller.post(f"{host.url}/hook")
        text = await got.text()

    assert got.status == 500
    assert "internal error" in text
    assert [line["level"] for line in lines(log)][-1] == "error"


async def test_a_handler_whose_own_connections_fail_is_a_bug_too(
    control: Told, caller: aiohttp.ClientSession, log: io.StringIO
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        raise ConnectionResetError("somebody else's connection")

    async with HttpHost([post("/hook", run)], control, port=0) as host:
        assert (await caller.post(f"{host.url}/hook")).status == 500

    assert "bug in an HTTP handler" in log.getvalue()


async def test_a_log_that_does_not_acknowledge_is_a_503_to_try_again(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    async def run(request: ApiRequest[Any]) -> ApiResponse:
        raise LogUnavailableError("not acknowledged within 5 s")

    async with HttpHost([post("/hook", run)], control, port=0) as host:
        answer = await caller.post(f"{host.url}/hook")

        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"


async def test_no_answer_names_the_server_s_software(control: Told) -> None:
    async with HttpHost([post("/hook")], control, port=0) as host:
        normal = await spoken(host, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        before = metrics.value("bitbylaw_http_requests_total", **UNREADABLE)
        garbage = await spoken(host, b"\x16\x03\x01 no http\r\n\r\n")
        assert metrics.value("bitbylaw_http_requests_total", **UNREADABLE) == before + 1

    assert garbage.startswith(b"HTTP/1.0 400")
    for answer in (normal, garbage):
        assert b"aiohttp" not in answer.lower()
        assert b"python" not in answer.lower()


async def test_handlers_run_in_the_caller_s_trace_and_can_pass_it_on(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    seen: list[str] = []

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        trace = tracing.current()
        assert trace is not None
        assert trace.header == request.headers["traceparent"]
        seen.append(trace.trace_id)
        return ApiResponse(200)

    given = tracing.new()
    async with HttpHost([post("/hook", run)], control, port=0) as host:
        await caller.post(f"{host.url}/hook", headers={"traceparent": given.header})
        await caller.post(f"{host.url}/hook")

    assert seen[0] == given.trace_id
    assert seen[1] != given.trace_id


async def test_an_unknown_method_or_path_makes_no_new_series(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    labels = {"method": "other", "route": "unknown", "status": "404"}
    before = metrics.value("bitbylaw_http_requests_total", **labels)
    async with HttpHost([], control, port=0) as host:
        await caller.request("PROPFIND", f"{host.url}/coffee/1")

    assert metrics.value("bitbylaw_http_requests_total", **labels) == before + 1


def test_two_equal_routes_are_refused() -> None:
    with pytest.raises(DeclarationError, match="POST /hook is declared twice"):
        HttpHost([post("/hook"), post("/hook")], Told())


# -- coming and going -----------------------------------------------------------------------------


async def test_leaving_finishes_what_runs_and_answers_503_meanwhile(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def run(request: ApiRequest[Any]) -> ApiResponse:
        entered.set()
        await asyncio.wait_for(leave.wait(), 5)
        return ApiResponse(200, {"done": True})

    async with HttpHost([post("/hook", run)], control, port=0) as host:
        running = asyncio.create_task(caller.post(f"{host.url}/hook"))
        await asyncio.wait_for(entered.wait(), 5)
        draining = asyncio.create_task(host.drain())
        await asyncio.sleep(0)  # let the drain begin

        late = await caller.post(f"{host.url}/hook")
        probe = await caller.get(f"{host.url}/readyz")
        alive = await caller.get(f"{host.url}/healthz")
        assert (late.status, late.headers["connection"]) == (503, "close")
        assert (probe.status, alive.status) == (503, 200)
        assert not draining.done()

        leave.set()
        finished = await running
        assert finished.status == 200
        assert await draining == 0
        port = host.port

    with pytest.raises(OSError, match=r"[Cc]onnect"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_what_does_not_finish_within_the_drain_is_cancelled(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def run(request: ApiRequest[Any]) -> NoReturn:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with HttpHost([post("/hook", run)], control, port=0, drain_seconds=0.05) as host:
        running = asyncio.create_task(caller.post(f"{host.url}/hook"))
        await asyncio.wait_for(entered.wait(), 5)
        assert await host.drain() == 1

    assert cancelled.is_set()
    with pytest.raises(aiohttp.ClientError):
        await running


async def test_a_port_in_use_is_named_with_who_holds_it(control: Told) -> None:
    async with HttpHost([], control, port=0) as holder:
        with pytest.raises(SettingsError) as refused:
            await HttpHost([], control, port=holder.port).__aenter__()

    assert f"port {holder.port} is held by pid {os.getpid()} (" in str(refused.value)
    assert "HTTP_PORT" in str(refused.value)


async def test_an_address_that_is_not_ours_is_refused(control: Told) -> None:
    with pytest.raises(SettingsError, match=r"HTTP_HOST=203\.0\.113\.1"):
        await HttpHost(
            [], control, host="203.0.113.1", port=0, control_key=SecretStr(KEY)
        ).__aenter__()


async def test_nothing_is_left_open_after_leaving(control: Told) -> None:
    async with HttpHost([post("/hook")], control, port=0) as host:
        port = host.port
        _, writer = await asyncio.open_connection("127.0.0.1", port)  # idle, never asks
    writer.close()
    gc.collect()  # an unclosed socket would warn here, and warnings are errors

    with socket.create_server(("127.0.0.1", port)):
        pass
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


# -- keys -----------------------------------------------------------------------------------------


async def test_without_a_key_the_host_is_open_on_loopback_with_one_warning(
    control: Told, caller: aiohttp.ClientSession, log: io.StringIO
) -> None:
    async with HttpHost([], control, port=0) as host:
        answer = await caller.get(f"{host.url}/_console/functions")
        assert answer.status == 200

    warnings = [line for line in lines(log) if line["level"] == "warning"]
    assert len(warnings) == 1
    assert "BBL_CONTROL_KEY" in warnings[0]["event"]


async def test_without_a_key_a_host_that_can_be_reached_from_outside_does_not_start(
    control: Told,
) -> None:
    with pytest.raises(SettingsError, match="set BBL_CONTROL_KEY"):
        await HttpHost([], control, host="0.0.0.0", port=0).__aenter__()  # noqa: S104 - it is refused


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"apikey": KEY}, 200),
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer  {KEY}"}, 200),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"apikey": KEY + "x"}, 401),
        ({"apikey": ""}, 401),
        ({"apikey": "schlüssel"}, 401),
    ],
)
async def test_where_a_key_is_set_control_asks_for_it(
    control: Told, caller: aiohttp.ClientSession, headers: dict[str, str], status: int
) -> None:
    async with HttpHost([], control, port=0, control_key=SecretStr(KEY)) as host:
        for path in ("/metrics", "/_console/functions"):
            assert (await caller.get(f"{host.url}{path}", headers=headers)).status == status
        for probe in ("/healthz", "/readyz"):
            assert (await caller.get(f"{host.url}{probe}", headers=headers)).status == 200
        triggered = await caller.post(
            f"{host.url}/_console/cron/trigger", json={"function_id": "x"}, headers=headers
        )
        assert triggered.status == (404 if status == 200 else 401)


# -- control --------------------------------------------------------------------------------------


@step(
    name="VMH Beteiligte Sync Cron",
    description="Looks for parties that are due",
    flows=["vmh"],
    triggers=[cron("0 */15 * * * *")],
    enqueues=[topics.BETEILIGTE_SYNC_CHECK],
)
async def beteiligte_cron(tick: Tick, ctx: Context[None]) -> Outcome:
    return Skipped("none")


@step(
    name="Document Sync",
    description="Brings one document in line",
    flows=["vmh"],
    triggers=[queue(topics.DOCUMENT_CREATE), queue(topics.DOCUMENT_UPDATE)],
)
async def document_sync(event: events.EntityChanged, ctx: Context[None]) -> Outcome:
    return Skipped("already in line")


@step(name="Hook", description="Takes", flows=[], triggers=[http("POST", "/hook")])
async def hook(request: ApiRequest[bytes], ctx: Context[None]) -> ApiResponse:
    return ApiResponse(200)


def fleet() -> tuple[FunctionInfo, ...]:
    def no_deps(env: Any) -> NoReturn:
        raise AssertionError

    app: App[None] = App("beteiligte-sync", [beteiligte_cron, document_sync, hook], no_deps)
    return functions_of(app, owner="pod-0")


async def test_probes_say_why_not(control: Told, caller: aiohttp.ClientSession) -> None:
    async with HttpHost([], control, port=0) as host:
        assert await (await caller.get(f"{host.url}/healthz")).json() == {"status": "ok"}
        assert await (await caller.get(f"{host.url}/readyz")).json() == {"status": "ready"}

        control.sick, control.not_ready = ["no progress for 90 s"], ["base is loading"]
        sick = await caller.get(f"{host.url}/healthz")
        unready = await caller.get(f"{host.url}/readyz")
        assert (sick.status, unready.status) == (503, 503)
        assert (await sick.json())["reasons"] == ["no progress for 90 s"]
        assert (await unready.json())["reasons"] == ["base is loading"]


async def test_metrics_are_what_prometheus_reads(
    control: Told, caller: aiohttp.ClientSession
) -> None:
    async with HttpHost([], control, port=0) as host:
        answer = await caller.get(f"{host.url}/metrics")
        page = await answer.text()

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE bitbylaw_http_requests_total counter" in page


async def test_functions_are_listed_as_the_seed_lists_them(caller: aiohttp.ClientSession) -> None:
    ran = fleet()[0].model_copy(
        update={"last_success": datetime(2026, 3, 8, 12, tzinfo=UTC), "lag": 3}
    )
    async with HttpHost([], Told(*fleet()[1:], ran), port=0) as host:
        answer = await caller.get(f"{host.url}/_console/functions")
        listed = (await answer.json())["functions"]

    assert [function["function_id"] for function in listed] == [
        "steps::Document Sync::trigger::0",
        "steps::Document Sync::trigger::1",
        "steps::Hook::trigger::0",
        CRON,
    ]
    assert listed[3] == {
        "function_id": CRON,
        "name": "VMH Beteiligte Sync Cron",
        "description": "Looks for parties that are due",
        "service": "beteiligte-sync",
        "flows": ["vmh"],
        "trigger": {"type": "cron", "config": {"expression": "0 */15 * * * *"}},
        "enqueues": ["vmh.beteiligte.sync_check"],
        "last_success": "2026-03-08T12:00:00Z",
        "last_failure": None,
        "lag": 3,
        "owner": "pod-0",
    }
    assert listed[1]["trigger"] == {"type": "queue", "config": {"topic": "vmh.document.update"}}
    assert listed[2]["trigger"] == {"type": "http", "config": {"method": "POST", "path": "/hook"}}


def test_a_function_is_an_event_keyed_by_its_id_and_survives_the_topic() -> None:
    info = fleet()[0]

    assert info.type == "bitbylaw.function.declared"
    assert info.key == CRON
    assert FunctionInfo.model_validate_json(info.model_dump_json()) == info


async def test_a_cron_is_triggered_by_its_id_and_answers_with_the_run(
    caller: aiohttp.ClientSession,
) -> None:
    control = Told(*fleet())
    async with HttpHost([], control, port=0) as host:
        answer = await caller.post(f"{host.url}/_console/cron/trigger", json={"function_id": CRON})

        assert answer.status == 202
        assert await answer.json() == {"function_id": CRON, "run_id": "run-1"}
    assert control.runs == [CRON]


async def test_an_unknown_cron_is_answered_with_the_nearest_ids(
    caller: aiohttp.ClientSession,
) -> None:
    control = Told(*fleet())
    async with HttpHost([], control, port=0) as host:
        answer = await caller.post(
            f"{host.url}/_console/cron/trigger",
            json={"function_id": "steps::VMH Beteiligte Cron::trigger::0"},
        )

        assert answer.status == 404
        assert (await answer.json())["nearest"] == [CRON]
    assert control.runs == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"function_id": ""}',
        b'{"function_id": 1}',
        b'{"function_id": "' + b"x" * 300 + b'"}',
        b'{"function_id": "steps::Document Sync::trigger::0"}',
    ],
)
async def test_what_cannot_be_triggered_is_a_400(
    caller: aiohttp.ClientSession, body: bytes
) -> None:
    control = Told(*fleet())
    async with HttpHost([], control, port=0) as host:
        answer = await caller.post(
            f"{host.url}/_console/cron/trigger",
            data=body,
            headers={"content-type": "application/json"},
        )

        assert answer.status == 400
    assert control.runs == []


async def test_a_web_page_cannot_trigger_where_no_key_is_asked_for(
    caller: aiohttp.ClientSession,
) -> None:
    control = Told(*fleet())
    async with HttpHost([], control, port=0) as host:
        answer = await caller.post(
            f"{host.url}/_console/cron/trigger",
            data=json.dumps({"function_id": CRON}),
            headers={"content-type": "text/plain"},
        )

        assert answer.status == 400
    assert control.runs == []


async def test_a_trigger_that_kafka_does_not_take_is_a_503(caller: aiohttp.ClientSession) -> None:
    control = Told(*fleet())
    control.kafka_down = True
    async with HttpHost([], control, port=0) as host:
        answer = await caller.post(f"{host.url}/_console/cron/trigger", json={"function_id": CRON})

        assert answer.status == 503
