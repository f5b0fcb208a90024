"""Traces as a collector sees them: whole chains over a real OTLP/HTTP server of the test's own."""

import asyncio
import contextlib
import io
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bitbylaw_common import logs, metrics, spans, tracing
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import SettingsError, Transient
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.http.transport import Request, Transport
from bitbylaw_common.outcomes import Done, Outcome, Retry
from bitbylaw_common.runtime import ApiRequest, ApiResponse, Context
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.hosts.http_host import HttpHost, Route
from bitbylaw_common.runtime.hosts.memory_host import MemoryHost
from bitbylaw_common.runtime.http_run import http_run
from bitbylaw_common.settings import TraceSettings, secret_values
from harness import Harness
from toy import CHANGED, Ledger, ThingChanged, toy, toy_post

MARK = "Erika-Mustermann"
NOBODY = "http://127.0.0.1:9"
"""Where nobody listens."""
HANGS_SECONDS = 15.0
"""A bound against hanging, not a measure."""


# -- a collector ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One span as it arrived."""

    service: str
    raw: Span
    attributes: dict[str, str | int | float | bool]

    @property
    def name(self) -> str:
        return str(self.raw.name)

    @property
    def kind(self) -> str:
        return str(Span.SpanKind.Name(self.raw.kind)).removeprefix("SPAN_KIND_").lower()

    @property
    def trace_id(self) -> str:
        return self.raw.trace_id.hex()

    @property
    def id(self) -> str:
        return self.raw.span_id.hex()

    @property
    def parent(self) -> str:
        return self.raw.parent_span_id.hex()

    @property
    def links(self) -> list[str]:
        return [link.span_id.hex() for link in self.raw.links]

    @property
    def error(self) -> str | None:
        failed = self.raw.status.code == Status.STATUS_CODE_ERROR
        return str(self.raw.status.message) if failed else None


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _takes(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"", content_type="application/x-protobuf")


@dataclass
class Collector:
    """A small OpenTelemetry collector.

    Attributes:
        answer: how it answers; takes everything by default.
        spans: what arrived, in order, whatever the answer was.
        bodies: the same as it came.
    """

    answer: Answer = _takes
    url: str = ""
    spans: list[Seen] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def named(self, name: str) -> Seen:
        """Return the only span of a name."""
        (found,) = [one for one in self.spans if one.name == name]
        return found

    def runs(self, thing: str) -> int:
        """How many runs of a thing's records arrived: one ends later than its journal can be read.

        Those of other tests' things do not count: what none of them committed is delivered again.
        """
        return sum(
            one.name == "process toy.thing.changed"
            and one.attributes["bitbylaw.entity_id"] == thing
            for one in self.spans
        )

    def of(self, trace_id: str) -> list[Seen]:
        """Return a trace's spans by their beginning."""
        found = [one for one in self.spans if one.trace_id == trace_id]
        return sorted(found, key=lambda one: one.raw.start_time_unix_nano)

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                assert scope.scope.name == "bitbylaw"
                for raw in scope.spans:
                    self.spans.append(
                        Seen(str(about["service.name"]), raw, _attributes(raw.attributes))
                    )
        return await self.answer(request)


def _attributes(pairs: Any) -> dict[str, str | int | float | bool]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> str | int | float | bool:
    found: str | int | float | bool = getattr(value, str(value.WhichOneof("value")))
    return found


@asynccontextmanager
async def serving(handle: Answer) -> AsyncIterator[str]:
    """Serve every path with `handle`; yields the address."""
    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site.port}"
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _no_lock_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine make no spans of its own: any lock would be slow there now and then."""
    monkeypatch.setattr(spans, "LOCK_WAIT_SECONDS", 3600.0)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    async with serving(found.take) as found.url:
        yield found


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("json", "debug", stream)
    yield stream
    logs.configure("json", "warning", sys.stderr)


def warnings_of(log: io.StringIO) -> list[dict[str, Any]]:
    """Return what was warned of about traces."""
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    return [one for one in found if one["level"] == "warning" and "collector" in one["event"]]


def exported(url: str, *, service: str = "toy") -> contextlib.AbstractAsyncContextManager[None]:
    return tracing.export(TraceSettings(endpoint=url), service=service, version="1", instance="a")


def counted() -> dict[str, float]:
    return {
        result: metrics.value("bitbylaw_trace_spans_total", result=result)
        for result in ("sent", "failed", "dropped")
    }


def since(before: dict[str, float]) -> dict[str, float]:
    return {result: now - before[result] for result, now in counted().items()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANGS_SECONDS):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with aiohttp_transport(
        clock=SystemClock(), traceparent=tracing.outgoing, jitter=random.Random(1)
    ) as opened:
        yield opened


# -- whole chains ---------------------------------------------------------------------------------


async def test_a_post_its_runs_and_the_outside_call_are_one_trace_with_the_right_parents(
    host: Harness, collector: Collector, transport: Transport
) -> None:
    carried: list[str] = []

    async def outside(request: web.Request) -> web.StreamResponse:
        carried.append(request.headers["traceparent"])
        return web.Response(body=b"{}")

    async with serving(outside) as address, exported(collector.url, service="process"):

        async def look(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
            if ctx.attempt == 1:
                return Retry("not yet", error="Transient")
            asked = Request("espocrm", "get_entity", "GET", f"{address}/Document/1")
            async with transport.send(asked) as answer:
                await answer.read()
            return Done("looked")

        host.ledger.answer = look
        a = host.thing("a")
        await host.post(f"/toy/{a}")
        await host.until(lambda: len(host.journal(a)) == 2)
        await until(lambda: collector.runs(a) == 2)

    post = collector.named("POST Toy Post")
    found = collector.of(post.trace_id)
    assert [(one.kind, one.name) for one in found] == [
        ("server", "POST Toy Post"),
        ("producer", "send toy.thing.changed"),
        ("consumer", "process toy.thing.changed"),
        ("internal", "due Toy Sync"),
        ("consumer", "process toy.thing.changed"),
        ("client", "GET espocrm.get_entity"),
    ]
    _, sent, first, due, second, call = found
    assert post.parent == ""
    assert sent.parent == post.id
    # all that the event led to lies under its publishing; each attempt names the one before it
    assert [one.parent for one in (first, due, second)] == [sent.id] * 3
    assert (first.links, due.links, second.links) == ([], [first.id], [first.id])
    assert call.parent == second.id
    assert carried == [f"00-{post.trace_id}-{call.id}-01"]
    assert {one.service for one in found} == {"toy"}

    assert (first.error, second.error) == ("Transient", None)
    assert first.attributes["error.type"] == "Transient"
    assert [
        (one.attributes["bitbylaw.attempt"], one.attributes["bitbylaw.outcome"])
        for one in (first, second)
    ] == [(1, "retry"), (2, "done")]
    assert (first.attributes["bitbylaw.entity_id"], first.attributes["bitbylaw.step"]) == (
        a,
        "Toy Sync",
    )
    where = ("messaging.destination.partition.id", "messaging.kafka.offset", "messaging.message.id")
    assert [sent.attributes[name] for name in where] == [first.attributes[name] for name in where]
    assert post.attributes["http.response.status_code"] == 200
    assert call.attributes["http.response.status_code"] == 200
    assert call.attributes["server.address"] == "127.0.0.1"
    assert [entry.trace_id for entry in host.journal(a)] == [post.trace_id] * 2


async def test_after_a_third_attempt_the_trace_is_still_the_first_and_no_deeper(
    host: Harness, collector: Collector
) -> None:
    async def look(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return Done("looked") if ctx.attempt == 3 else Retry("not yet", error="Transient")

    async with exported(collector.url):
        host.ledger.answer = look
        a = host.thing("a")
        await host.post(f"/toy/{a}")
        await host.until(lambda: len(host.journal(a)) == 3)
        await until(lambda: collector.runs(a) == 3)

    found = collector.of(collector.named("POST Toy Post").trace_id)
    (sent,) = [one for one in found if one.kind == "producer"]
    runs = [one for one in found if one.kind == "consumer"]
    assert [run.parent for run in runs] == [sent.id] * 3
    assert [run.links for run in runs] == [[], [runs[0].id], [runs[1].id]]


async def test_a_run_that_answers_several_events_names_them_all(
    host: Harness, collector: Collector
) -> None:
    a = host.thing("a")

    async def slow(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        await ctx.deps.gate.wait()
        return Done("looked")

    async with exported(collector.url):
        host.ledger.answer = slow
        await host.post(f"/toy/{a}")
        await host.until(lambda: len(host.ledger.started) == 1)
        for _ in range(3):
            await host.post(f"/toy/{a}")
        await host.delivered(CHANGED, 4)
        host.ledger.gate.set()
        await host.until(lambda: len(host.journal(a)) == 2)
        await until(lambda: collector.runs(a) == 2)

    sends = sorted(
        (one for one in collector.spans if one.kind == "producer"),
        key=lambda one: one.raw.start_time_unix_nano,
    )
    (last,) = [one for one in collector.spans if one.parent == sends[3].id]
    assert last.attributes["messaging.batch.message_count"] == 3
    assert last.links == [sends[1].id, sends[2].id]
    assert len({one.trace_id for one in sends}) == 4


async def test_a_tick_begins_a_trace_where_it_became_due(collector: Collector) -> None:
    host = MemoryHost()
    ledger = Ledger()
    async with exported(collector.url):
        await host.start(toy(ledger))
        await host.advance(minutes=16)
        await host.stop()

    assert len(ledger.ticks) == 1
    due, run = collector.named("due Toy Cron"), collector.named("process cron")
    assert due.parent == ""
    assert (run.trace_id, run.parent) == (due.trace_id, due.id)
    assert run.attributes["bitbylaw.outcome"] == "done"


# -- requests and calls ---------------------------------------------------------------------------


class Well:
    """A control port of a process that is well."""

    def healthy(self) -> Sequence[str]:
        return ()

    def ready(self) -> Sequence[str]:
        return ()

    def functions(self) -> Sequence[FunctionInfo]:
        return ()

    async def trigger(self, function_id: str) -> str:
        return "run"


@asynccontextmanager
async def posts(memory: MemoryHost, ledger: Ledger) -> AsyncIterator[str]:
    """Serve the toy's post on a real socket, over the memory host's log."""
    app = toy(ledger)
    run = http_run(app, toy_post, ledger, memory.log, memory.clock)
    routes = [Route("Toy Post", trigger, run) for trigger in toy_post.http_triggers]
    async with HttpHost(routes, Well(), port=0) as served:
        yield served.url


async def test_a_request_has_one_span_however_it_ends_and_probes_have_none(
    collector: Collector,
) -> None:
    caller = tracing.new()
    memory, ledger = MemoryHost(), Ledger()
    async with (
        exported(collector.url, service="process"),
        posts(memory, ledger) as url,
        aiohttp.ClientSession() as session,
    ):
        await session.post(f"{url}/toy/a", headers={"traceparent": caller.header})
        memory.log.failing = True
        refused = await session.post(f"{url}/toy/b")
        await session.get(f"{url}/healthz")
        await session.get(f"{url}/metrics")
        missing = await session.get(f"{url}/toy/{MARK}/{MARK}")
        assert (refused.status, missing.status) == (503, 404)

    good, bad = (one for one in collector.spans if one.name == "POST /toy/{thing}")
    assert (good.trace_id, good.parent, good.kind) == (caller.trace_id, caller.span_id, "server")
    assert (good.service, good.attributes["bitbylaw.step"]) == ("toy", "Toy Post")
    assert good.attributes["http.route"] == "/toy/{thing}"
    assert (good.error, bad.error) == (None, "503")
    assert bad.attributes["http.response.status_code"] == 503
    nowhere = collector.named("GET unknown")
    assert (nowhere.service, nowhere.error) == ("process", None)
    sends = [one for one in collector.spans if one.kind == "producer"]
    assert [(one.parent, one.error) for one in sends] == [
        (good.id, None),
        (bad.id, "LogUnavailableError"),
    ]
    assert len(collector.spans) == 5


async def test_every_try_of_a_call_is_a_span_and_says_how_it_went(
    collector: Collector, transport: Transport
) -> None:
    answers = [503, 200]

    async def outside(request: web.Request) -> web.StreamResponse:
        return web.Response(status=answers.pop(0), body=b"{}")

    async with exported(collector.url):
        async with serving(outside) as address:
            with tracing.use(tracing.new()) as here:
                asked = Request("xai", "list", "GET", f"{address}/v1", idempotent=True)
                async with transport.send(asked) as answer:
                    assert answer.status == 200
        with tracing.use(tracing.new()):
            asked = Request("xai", "upload_file", "POST", f"{NOBODY}/v1", body=b"x")
            with pytest.raises(Transient):
                async with transport.send(asked):
                    raise AssertionError("nobody answers there")

    first, second, lost = collector.spans
    assert (first.parent, second.parent) == (here.span_id, here.span_id)
    assert first.id != second.id
    assert [one.error for one in collector.spans] == ["503", None, "ClientConnectorError"]
    assert second.attributes["http.request.resend_count"] == 1
    assert lost.name == "POST xai.upload_file"
    assert "http.response.status_code" not in lost.attributes


async def test_a_call_that_is_cancelled_is_recorded_as_that(
    collector: Collector, transport: Transport
) -> None:
    entered = asyncio.Event()

    async def outside(request: web.Request) -> web.StreamResponse:
        entered.set()
        await asyncio.sleep(HANGS_SECONDS)
        raise AssertionError("nobody waits any more")

    async def asks(address: str) -> None:
        with tracing.use(tracing.new()):
            async with transport.send(Request("xai", "list", "GET", address)):
                raise AssertionError("it does not answer")

    async with exported(collector.url), serving(outside) as address:
        asking = asyncio.create_task(asks(address))
        await entered.wait()
        asking.cancel()
        await asyncio.wait({asking})

    assert collector.named("GET xai.list").error == "CancelledError"


# -- what must not be seen ------------------------------------------------------------------------


async def test_nothing_that_people_wrote_is_in_a_span(
    collector: Collector, transport: Transport
) -> None:
    async def outside(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, body=MARK.encode(), headers={"x-name": MARK})

    async with serving(outside) as address:

        async def look(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
            asked = Request(
                "espocrm",
                "find",
                "POST",
                f"{address}/Contact/{MARK}",
                params=(("where", MARK),),
                headers={"X-Api-Key": MARK},
                body=MARK.encode(),
            )
            async with transport.send(asked) as answer:
                text = (await answer.read()).decode()
            ctx.decided("rule", text)
            match ctx.attempt:
                case 1:
                    return Retry(f"cannot read {text}")
                case 2:
                    raise ValueError(text)
                case _:
                    raise Transient("espocrm", "find", detail=text)

        memory, ledger = MemoryHost(), Ledger(look)
        async with (
            exported(collector.url),
            posts(memory, ledger) as url,
            aiohttp.ClientSession() as session,
        ):
            await memory.start(toy(ledger))
            await session.post(
                f"{url}/toy/a?name={MARK}", data=MARK.encode(), headers={"x-name": MARK}
            )
            await memory.advance(hours=7)
            await memory.stop()

    trace = collector.of(collector.named("POST /toy/{thing}").trace_id)
    runs = [one for one in trace if one.kind == "consumer"]
    assert [run.error for run in runs] == [runs[0].error, "Bug"] + ["Transient"] * 4
    assert len([one for one in trace if one.kind == "client"]) == len(runs) == 6
    assert MARK.encode() not in b"".join(collector.bodies)


async def test_the_collector_s_key_is_sent_and_shown_nowhere(log: io.StringIO) -> None:
    secret = "Bearer%20ganz-geheim,x-tenant=kanzlei"
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY,
        "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization={secret}",
    }
    assert {"Bearer ganz-geheim", "ganz-geheim", "kanzlei"} <= secret_values(env)
    settings = TraceSettings.from_env(env)

    async def refuses(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, text=request.headers["Authorization"])

    collector = Collector(refuses)
    async with serving(collector.take) as url:
        settings = settings.model_copy(update={"endpoint": url})
        async with tracing.export(settings, service="toy"):
            with tracing.span("one"):
                pass

    assert collector.headers[0]["authorization"] == "Bearer ganz-geheim"
    assert collector.headers[0]["x-tenant"] == "kanzlei"
    assert [one["reason"] for one in warnings_of(log)] == ["HTTP 401"]
    assert "geheim" not in log.getvalue() + repr(settings)


@pytest.mark.parametrize(
    "headers", ["no pair", "na me=x", "name=ä", "a=b,", "name=line%0Abreak", "=x"]
)
def test_headers_that_cannot_be_sent_are_refused_without_showing_them(headers: str) -> None:
    with pytest.raises(SettingsError) as refused:
        TraceSettings.from_env({"OTEL_EXPORTER_OTLP_HEADERS": headers})

    assert "OTEL_EXPORTER_OTLP_HEADERS does not fit" in str(refused.value)
    assert "entry" in str(refused.value)
    assert headers not in str(refused.value)


def test_the_endpoint_is_the_collector_s_base_address() -> None:
    assert TraceSettings(endpoint="http://collector:4318/").traces_url == (
        "http://collector:4318/v1/traces"
    )
    with pytest.raises(SettingsError, match="leave out /v1/traces"):
        TraceSettings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/v1/traces"})


async def test_a_certificate_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    settings = TraceSettings(endpoint=NOBODY, certificate=file)

    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_CERTIFICATE"):
        async with tracing.export(settings, service="toy"):
            raise AssertionError("it should not have begun")
    assert not tracing.exporting()


# -- a collector that is away ---------------------------------------------------------------------


async def _hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(HANGS_SECONDS)
    return web.Response()


async def _breaks(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="broken")


async def _leads_elsewhere(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": NOBODY})


async def _cuts(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def told(ledger: Ledger) -> list[tuple[str, str, int]]:
    """Run a small history over the memory host; return what the journal says of it."""
    memory = MemoryHost()

    async def look(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return Done("looked") if ctx.attempt == 2 else Retry("not yet", error="Transient")

    ledger.answer = look
    await memory.start(toy(ledger))
    for number in range(10):
        await memory.request("POST", f"/toy/t{number}")
    await memory.advance(minutes=3)
    await memory.stop()
    return [
        (entry.entity_id, entry.outcome or "", entry.attempt)
        for number in range(10)
        for entry in memory.journal(f"t{number}")
    ]


@pytest.mark.parametrize("answer", [_breaks, _leads_elsewhere, _cuts, _hangs, None])
async def test_a_collector_that_is_away_costs_one_warning_and_changes_nothing(
    answer: Answer | None, log: io.StringIO
) -> None:
    expected = await told(Ledger())
    assert len(expected) == 20
    before = counted()

    async with contextlib.AsyncExitStack() as stack:
        url = NOBODY
        if answer is not None:
            url = await stack.enter_async_context(serving(Collector(answer).take))
        async with asyncio.timeout(HANGS_SECONDS), exported(url):
            assert await told(Ledger()) == expected
            with tracing.span("one more"):
                pass
        # posts, sends, and for each attempt a run and for each second one a due entry; one more
        await until(lambda: since(before)["failed"] == 10 + 10 + 20 + 10 + 1)

    assert since(before) == {"sent": 0, "failed": 51, "dropped": 0}
    assert len(warnings_of(log)) == 1


async def test_more_spans_than_may_wait_are_dropped_and_counted(collector: Collector) -> None:
    before = counted()
    released = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await released.wait()
        return await _takes(request)

    collector.answer = slow
    async with exported(collector.url):
        for _ in range(5_000):
            with tracing.span("one"):
                pass
        assert since(before)["dropped"] == 5_000 - 2_048
        released.set()
        await until(lambda: since(before)["sent"] == 2_048)

        with tracing.span("after"):
            pass

    assert since(before) == {"sent": 2_049, "failed": 0, "dropped": 5_000 - 2_048}
    assert "after" in [one.name for one in collector.spans]


async def test_a_collector_that_comes_back_is_told_of_once_and_gets_what_follows(
    collector: Collector, log: io.StringIO
) -> None:
    before = counted()
    collector.answer = _breaks
    async with exported(collector.url):
        for number in range(2):
            with tracing.span(f"lost {number}"):
                pass
            await until(lambda count=number + 1: since(before)["failed"] == count)  # type: ignore[misc]
        collector.answer = _takes
        with tracing.span("taken"):
            pass
        await until(lambda: since(before)["sent"] == 1)

    assert len(warnings_of(log)) == 1
    assert log.getvalue().count("takes spans again") == 1


async def test_a_text_that_is_no_utf_8_or_very_long_does_not_cost_the_batch(
    collector: Collector,
) -> None:
    async with exported(collector.url):
        with tracing.span("odd", attributes={"bitbylaw.a": "\ud800", "bitbylaw.b": "x" * 9_999}):
            pass

    assert collector.named("odd").attributes == {"bitbylaw.a": "?", "bitbylaw.b": "x" * 256}


async def test_only_the_share_of_traces_that_was_asked_for_is_sent(collector: Collector) -> None:
    settings = TraceSettings(endpoint=collector.url, sample_ratio=0)
    async with tracing.export(settings, service="toy"):
        with tracing.span("not recorded") as here:
            assert here.header.endswith("-00")
        with tracing.span("recorded", parent=tracing.Trace("1" * 32, "2" * 16)):
            pass

    assert [one.name for one in collector.spans] == ["recorded"]
    assert tracing.new().flags == 1


async def test_a_second_export_in_the_process_joins_the_first(collector: Collector) -> None:
    async with exported(collector.url), exported(NOBODY):
        with tracing.span("one"):
            pass

    assert [one.name for one in collector.spans] == ["one"]


async def test_without_an_endpoint_nothing_that_exports_spans_is_loaded() -> None:
    program = """
import asyncio, sys
from bitbylaw_common import tracing
from bitbylaw_common.runtime import run
from bitbylaw_common.settings import TraceSettings

async def main() -> None:
    async with tracing.export(TraceSettings.from_env({}), service="toy"):
        with tracing.span("one"):
            assert not tracing.exporting()

asyncio.run(main())
# The Redis client loads a part of its own choice, which is none of these.
exports = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf", "requests")
print([name for name in exports if name in sys.modules])
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(HANGS_SECONDS):
        out, _ = await process.communicate()

    assert (process.returncode, out.decode().strip()) == (0, "[]")


async def test_waiting_for_a_lock_is_a_span_and_a_lock_that_is_there_at_once_is_none(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "LOCK_WAIT_SECONDS", 1.0)

    @asynccontextmanager
    async def slow(
        entity: str, entity_id: str, lost: Callable[[], None] | None = None
    ) -> AsyncIterator[bool]:
        await asyncio.sleep(1.2 if entity_id == "slow" else 0)
        yield True

    class Slow:
        hold = staticmethod(slow)

    memory = MemoryHost(locks=Slow())
    async with exported(collector.url):
        await memory.start(toy(Ledger()))
        for name in ("quick", "slow"):
            await memory.request("POST", f"/toy/{name}")
        await memory.settle()
        await memory.stop()

    lock = collector.named("lock thing")
    (run,) = [one for one in collector.spans if one.id == lock.parent]
    assert run.attributes["bitbylaw.entity_id"] == "slow"


async def test_an_unfit_answer_of_a_handler_is_an_error_of_its_request(
    collector: Collector,
) -> None:
    async def broken(request: ApiRequest[Any]) -> ApiResponse:
        raise ValueError(MARK)

    (trigger,) = toy_post.http_triggers
    async with (
        exported(collector.url),
        HttpHost([Route("Toy Post", trigger, broken)], Well(), port=0) as served,
        aiohttp.ClientSession() as session,
    ):
        answer = await session.post(f"{served.url}/toy/a")
        assert answer.status == 500
        trace_id = (await answer.json())["trace_id"]

    request = collector.named("POST /toy/{thing}")
    assert (request.trace_id, request.error) == (trace_id, "500")
    assert MARK.encode() not in b"".join(collector.bodies)


# -- what it costs --------------------------------------------------------------------------------


async def busy(events: int) -> float:
    """Post events over the memory host and run them; return the processor's seconds."""
    memory = MemoryHost()
    await memory.start(toy(Ledger()))
    began = time.process_time()
    for number in range(events):
        await memory.request("POST", f"/toy/t{number}")
    await memory.settle()
    spent = time.process_time() - began
    await memory.stop()
    return spent


async def test_an_exported_run_costs_a_small_multiple_of_one_that_is_not(
    collector: Collector,
) -> None:
    await busy(100)
    ratios: list[float] = []
    for _ in range(5):
        without = await busy(100)
        began = time.process_time()
        async with exported(collector.url):
            await busy(100)
        # With the last batch sent, and with the collector, which works in this process too.
        ratios.append((time.process_time() - began) / without)

    assert len(collector.spans) == 5 * 100 * 3
    assert statistics.median(ratios) < 8, ratios
