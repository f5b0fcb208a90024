"""Every declared metric moves in one run of the whole system, and no other is on its page.

`ACTS` tells what provokes which metric. A new metric needs a line there, or the test fails.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn
from urllib.parse import urlsplit

import pytest
from aiokafka import AIOKafkaConsumer
from redis.asyncio import Redis

from bitbylaw_common import locks, metrics, topics
from bitbylaw_common.circuits import Circuits
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import Transient
from bitbylaw_common.events import Event, StepPaused
from bitbylaw_common.http.guarded import GuardedTransport
from bitbylaw_common.http.transport import Request, Response
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.outcomes import Done, Outcome, Rejected, Retry
from bitbylaw_common.runtime import App, Context, Tick, cron, queue, step
from bitbylaw_common.runtime.commands import encoded
from bitbylaw_common.runtime.hosting import Hosting, hosting, topics_of
from bitbylaw_common.runtime.hosts import kafka_host
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_common.sync.base import BaseState
from bitbylaw_common.topics import Topic
from bitbylaw_devstack import Stack
from bitbylaw_document_sync.app import app as document_sync
from bitbylaw_ingest.app import app as ingest
from system import System

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]

WITHIN_SECONDS = 60.0
LOOK_SECONDS = 0.02
"""How often the metrics are looked at: some show for a moment only."""

CONCURRENCY = 4
BLOCKED_SECONDS = 3.0
WEBHOOK, SECRET = "65f0c1d2e3a4b5c6d", "0123456789abcdef0123456789abcdef"
LIBRARY = re.compile(r"(process|python)_\w+")
"""What the client library tells by itself."""

_CLOCK = SystemClock()
Deed = Literal[
    "work", "hold", "retry", "reject", "bug", "block", "large", "base", "call", "refused"
]


# -- a service that does what it is told -------------------------------------------------------------


class Asked(Event):
    """Something to do, with a thing of its own."""

    type: ClassVar[str] = "meter.asked"
    thing: str
    deed: Deed = "work"
    content: str = ""

    @property
    def key(self) -> str:
        return self.thing

    @property
    def entity(self) -> str:
        return "thing"


class Agreed(BaseState):
    """What was agreed on; nobody asks what."""


TASKS = Topic("meter.task.asked", Asked, "meter", "to be done, each by itself")
LOOKS = Topic("meter.look.asked", Asked, "meter", "to be looked at, what waits by one run")
BUGS = Topic("meter.bug.asked", Asked, "meter", "fails on everything")
REJECTS = Topic("meter.reject.asked", Asked, "meter", "is rejected, all of it")
ECHOES = Topic("meter.task.done", Asked, "meter", "what was done")


@dataclass
class World:
    """What the runs reach: a door that holds them up, and a system that is away."""

    door: asyncio.Event
    circuits: Circuits

    def __post_init__(self) -> None:
        """Put the guard before what is away."""
        self._away = GuardedTransport(self, circuits=self.circuits, clock=_CLOCK)

    async def call(self) -> None:
        """Ask the system."""
        request = Request("meter", "look", "GET", "http://127.0.0.1/")
        async with self._away.send(request):
            raise AssertionError("it is away")

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Carry nothing."""
        raise Transient(request.system, request.operation)


ENDINGS: Mapping[Deed, Outcome] = {"retry": Retry("as told"), "reject": Rejected("as told")}


async def _do(event: Asked, ctx: Context[World]) -> Outcome:
    match event.deed:
        case "hold":
            await ctx.deps.door.wait()
        case "bug":
            raise ZeroDivisionError
        case "block":
            time.sleep(BLOCKED_SECONDS)  # noqa: ASYNC251 - this very mistake is measured
        case "large":
            for number in range(5_000):
                async with ctx.effect("meter", "write", target=f"{number}-" + "x" * 200):
                    pass
        case "base":
            now = datetime.now(UTC)  # noqa: TID251 - a label, nothing is decided by it
            await ctx.agree(Agreed(key_id="meter", written_at=now, written_by=ctx.run_id))
        case "call":
            await ctx.deps.call()
        case "refused":
            large = Asked(thing=event.thing, content="x" * 2 * ECHOES.max_message_bytes)
            await ctx.enqueue(ECHOES, large)
    return ENDINGS.get(event.deed, Done("done"))


@step(
    name="Meter",
    description="Does what it is told",
    flows=["meter"],
    triggers=[queue(TASKS)],
    enqueues=[ECHOES],
    lock="thing",
)
async def meter(event: Asked, ctx: Context[World]) -> Outcome:
    return await _do(event, ctx)


@step(
    name="Meter Look",
    description="Answers what waits by one run",
    flows=["meter"],
    triggers=[queue(LOOKS)],
    coalesce=True,
)
async def look(event: Asked, ctx: Context[World]) -> Outcome:
    return await _do(event, ctx)


@step(name="Meter Bug", description="Fails", flows=["meter"], triggers=[queue(BUGS)])
async def fail(event: Asked, ctx: Context[World]) -> Outcome:
    return await _do(event, ctx)


@step(name="Meter Reject", description="Rejects", flows=["meter"], triggers=[queue(REJECTS)])
async def reject(event: Asked, ctx: Context[World]) -> Outcome:
    return await _do(event, ctx)


@step(
    name="Meter Tick",
    description="Takes longer than to its next instant",
    flows=["meter"],
    triggers=[cron("* * * * * *")],
)
async def tick(tick: Tick, ctx: Context[World]) -> Outcome:
    await asyncio.sleep(2.2)
    return Done("late")


def app(door: asyncio.Event) -> App[World]:
    """Return the service."""

    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[World]:
        circuits = Circuits(_CLOCK)
        world = World(door, circuits)
        circuits.declare("meter", world.call)
        try:
            yield world
        finally:
            await circuits.close()

    return App("meter", [meter, look, fail, reject, tick], open_deps)


# -- the system, and who looks at its metrics ---------------------------------------------------------


@dataclass
class Stage:
    """The services in this process, and what may be done to them.

    Attributes:
        moved: the metrics of which a series changed since the beginning.
    """

    stack: Stack
    system: System
    process: Hosting
    door: asyncio.Event
    monkeypatch: pytest.MonkeyPatch
    before: dict[Any, float] = field(default_factory=metrics.samples)
    moved: set[str] = field(default_factory=set)

    async def watch(self) -> None:
        """Look at the metrics until cancelled."""
        while True:
            for series, value in metrics.samples().items():
                if value != self.before.get(series, 0.0):
                    self.moved.add(series[0])
            await asyncio.sleep(LOOK_SECONDS)

    async def shows(self, names: Iterable[str]) -> None:
        """Return once these metrics moved.

        Raises:
            AssertionError: some did not within the limit.
        """
        wanted = set(names)
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHIN_SECONDS):
                while not wanted <= self.moved:  # noqa: ASYNC110 - metrics ring no bell
                    await asyncio.sleep(0.02)
        assert wanted - self.moved == set()

    async def ask(self, topic: Topic[Asked], deed: Deed, *things: str) -> None:
        """Publish one event for each thing."""
        await self.system.log.append(
            [
                codec.encode(
                    topic,
                    Asked(thing=thing, deed=deed),
                    event_id=new_event_id(),
                    source="test",
                    now=_CLOCK.now(),
                )
                for thing in things
            ]
        )

    async def post(self, items: list[dict[str, Any]] | bytes, secret: str = SECRET) -> int:
        """Post a webhook and return the status of the answer."""
        body = items if isinstance(items, bytes) else json.dumps(items).encode()
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        signed = {"Signature": base64.b64encode(f"{WEBHOOK}:{digest}".encode()).decode()}
        url = f"{self.process.url}/vmh/webhook/document/update"
        async with self.system.session.post(url, data=body, headers=signed) as answer:
            return answer.status


def things(count: int, name: str) -> list[str]:
    """Return so many names."""
    return [f"{name}{number}" for number in range(count)]


@asynccontextmanager
async def staged(
    stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    """Run simulators as processes and all services in this one, as `bbl up` does."""
    door = asyncio.Event()
    apps: list[App[Any]] = [ingest, document_sync, app(door)]
    monkeypatch.setattr(kafka_host, "WATCH_SECONDS", 0.3)
    monkeypatch.setattr(locks, "TTL_SECONDS", 1.5)
    env = {
        "INGEST_UNSIGNED": "reject",
        "ESPOCRM_WEBHOOK_SECRETS": f"{WEBHOOK}={SECRET}",
        "ESPOCRM_RATE_PER_SECOND": "100",
        "CONCURRENCY": str(CONCURRENCY),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    async with AsyncExitStack() as opened:
        system = System(stack, folder, env)
        opened.push_async_callback(system.stop)
        async with admin(system.connect) as kafka:
            wanted = {t.name: t for t in (*topics.catalogue(), *topics_of(apps[-1]))}
            await kafka.apply(wanted.values())
        await opened.enter_async_context(system.log)
        await system.start_simulators()
        before = metrics.samples()
        process = await opened.enter_async_context(hosting(apps, system.env("metrics-0")))
        stage = Stage(stack, system, process, door, monkeypatch, before)
        watching = asyncio.create_task(stage.watch())
        opened.callback(watching.cancel)
        opened.callback(door.set)
        async with asyncio.timeout(WITHIN_SECONDS):
            while process.ready():  # noqa: ASYNC110 - a group tells only who asks
                await asyncio.sleep(0.05)
        yield stage


# -- what provokes what -------------------------------------------------------------------------------

Act = Callable[[Stage], Awaitable[None]]
ACTS: list[tuple[Act, frozenset[str]]] = []
"""What is done, in this order, and which metrics it moves."""


def moves(*names: str) -> Callable[[Act], Act]:
    """Put an act on the list, with the metrics that it moves; "bitbylaw_" is left out."""

    def listed(act: Act) -> Act:
        words = " ".join(names).split()
        ACTS.append((act, frozenset(f"bitbylaw_{word}" for word in words)))
        return act

    return listed


@moves(
    "webhooks_received_total webhook_answers_total webhook_items_total",
    "webhook_quarantined_total webhook_duplicates_total webhook_signature_failures_total",
    "http_requests_total http_request_seconds_count http_request_seconds_sum",
    "kafka_append_seconds_count kafka_append_seconds_sum kafka_waiting_bytes",
    "outside_requests_total outside_request_seconds_count outside_request_seconds_sum",
    "rate_wait_seconds_count rate_wait_seconds_sum build_info redis_up",
)
async def webhooks(stage: Stage) -> None:
    """Post what is changed, what was posted before, what cannot be read, what nobody signed."""
    made = await stage.system.edit(action="create", name="Klage.pdf", content=b"v1")
    items = [{"id": str(made["id"])}, {"id": "another"}]
    assert [await stage.post(items) for _ in range(2)] == [200, 200]
    assert await stage.post([{"no": "id"}]) == 200
    assert await stage.post(b"[{") == 200
    assert await stage.post(items, secret="wrong" * 8) == 401
    many = [{"id": f"d{number}"} for number in range(500)]
    await asyncio.gather(*(stage.post(many) for _ in range(4)))


@moves("http_requests_in_flight http_body_bytes")
async def slow_post(stage: Stage) -> None:
    """Send half of a body, and wait."""
    place = urlsplit(stage.process.url)
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    head = "POST /vmh/webhook/document/update HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b"half")
    await writer.drain()
    await stage.shows({"bitbylaw_http_body_bytes", "bitbylaw_http_requests_in_flight"})
    writer.close()


@moves(
    "lanes_running lanes_ready records_in_flight records_in_flight_bytes", "records_coalesced_total"
)
async def held(stage: Stage) -> None:
    """Hold more keys than there is room for, and let more come for them."""
    await stage.ask(TASKS, "hold", *things(3 * CONCURRENCY, "held"))
    await stage.ask(LOOKS, "hold", *["looked"] * 20)
    await stage.shows({"bitbylaw_lanes_ready", "bitbylaw_records_in_flight"})
    stage.door.set()


@moves(
    "step_runs_total step_seconds_count step_seconds_sum step_success_timestamp_seconds",
    "journal_records_total records_consumed_total commits_total",
    "consumer_progress_timestamp_seconds state_write_seconds_count state_write_seconds_sum",
    "loop_lag_seconds_count loop_lag_seconds_sum",
)
async def work(stage: Stage) -> None:
    """Let runs end well, and write a base."""
    await stage.ask(TASKS, "work", *things(20, "worked"))
    await stage.ask(TASKS, "base", "based")


@moves("retries_total schedule_entries journal_cut_total kafka_append_failures_total")
async def failures(stage: Stage) -> None:
    """Let a run be tried again, one tell too much, one publish too much."""
    await stage.ask(TASKS, "retry", "again")
    await stage.ask(TASKS, "large", "talker")
    await stage.ask(TASKS, "refused", "shouter")


@moves(
    "cron_missed_total cron_overdue_seconds due_delay_seconds_count due_delay_seconds_sum",
    "trace_spans_total",
)
async def nothing(stage: Stage) -> None:
    """Wait: the cron takes longer than to its next instant; spans go to nobody."""


@moves("rejected_surges_total dead_letters_total")
async def rejections(stage: Stage) -> None:
    """Let a step reject everything."""
    await stage.ask(REJECTS, "reject", *things(20, "rejected"))


@moves("step_halted")
async def halt(stage: Stage) -> None:
    """Let a step fail on everything."""
    await stage.ask(BUGS, "bug", *things(8, "broken"))


@moves("step_paused")
async def pause(stage: Stage) -> None:
    """Pause a step, as an operator does."""
    wanted = StepPaused(since=_CLOCK.now(), service="meter", step="Meter Look", reason="audit")
    await stage.system.log.append([encoded(wanted, _CLOCK, source="test")])


@moves("undecodable_records_total")
async def garbage(stage: Stage) -> None:
    """Store what fits no event."""
    await stage.system.log.append([Outgoing(TASKS.name, b"garbage", b"\xff")])


@moves("circuit_open circuit_openings_total circuit_probes_total calls_held_back_total")
async def outside_is_away(stage: Stage) -> None:
    """Call what does not answer for many records, then for one more."""
    await stage.ask(TASKS, "call", *things(6, "caller"))
    await stage.shows({"bitbylaw_circuit_openings_total"})
    await stage.ask(TASKS, "call", "spared")


@moves("lock_waits_total locks_lost_total")
async def other_hands(stage: Stage) -> None:
    """Take a lock before a run does, and one from a run."""
    stage.door.clear()
    async with Redis.from_url(stage.stack.redis.url) as redis:
        await redis.set("sync_lock:thing:locked", "somebody else")
        await stage.ask(TASKS, "work", "locked")
        await stage.ask(TASKS, "hold", "robbed")
        async with asyncio.timeout(WITHIN_SECONDS):
            while not await redis.exists("sync_lock:thing:robbed"):  # noqa: ASYNC110 - Redis rings no bell
                await asyncio.sleep(0.02)
        await redis.set("sync_lock:thing:robbed", "somebody else")
        await stage.shows({"bitbylaw_locks_lost_total"})
    stage.door.set()


@moves("lock_store_down_total rate_store_down_total")
async def redis_is_away(stage: Stage) -> None:
    """Stop Redis for a while."""
    await stage.stack.redis.stop()
    await stage.ask(TASKS, "work", "unlocked")
    assert await stage.post([{"id": "without"}]) == 200
    await stage.shows({"bitbylaw_lock_store_down_total", "bitbylaw_rate_store_down_total"})
    await stage.stack.redis.start()


@moves("loop_blocked_total")
async def blocked(stage: Stage) -> None:
    """Block the loop."""
    await stage.ask(TASKS, "block", "blocker")


@moves("state_write_failures_total partitions_lost_total")
async def overtaken(stage: Stage) -> None:
    """Take a partition's state over, as another owner would, before its next write."""
    number = codec.partition_of(b"overtaken")
    state = await stage.system.log.take_over("meter", number)
    await state.close()
    await stage.ask(TASKS, "base", "overtaken")


@moves("fetch_stuck_seconds")
async def fetches_hang(stage: Stage) -> None:
    """Let the consumers' fetches bring nothing any more."""

    async def hang(*_: object, **__: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    stage.monkeypatch.setattr(AIOKafkaConsumer, "getmany", hang)
    await asyncio.sleep(1)  # until the fetches that are under way are over
    await stage.ask(TASKS, "work", *things(50, "unread"))


TOLD_ELSEWHERE: Mapping[str, str] = {
    "advoware_clock_skew_seconds": "unit/common/test_advoware_auth.py",
    "advoware_logins_total": "unit/common/test_advoware_auth.py",
    "brake_engaged": "unit/common/test_brake.py",
    "brake_held_total": "sim/test_document_brake.py",
    "brake_trips_total": "sim/test_document_brake.py",
    "comparison_complete_timestamp_seconds": "sim/test_document_comparison.py",
    "comparison_records": "sim/test_document_comparison.py",
    "coverage_complete_timestamp_seconds": "sim/test_document_coverage.py",
    "coverage_gaps": "sim/test_document_coverage.py",
    "coverage_unread_lists": "unit/document_sync/test_coverage.py",
    "proxy_events_lost_total": "contract/test_proxy_http.py",
    "proxy_refused_total": "contract/test_proxy_http.py",
    "sync_checks_total": "sim/test_document_coverage.py",
    "token_store_down_total": "contract/test_advoware_tokens.py",
    "webhook_registration_faults": "sim/test_webhook_check.py",
}
"""What only one service tells, and the tests beside it that read it."""


def test_every_declared_metric_has_an_act_that_moves_it() -> None:
    known = [name for _, names in ACTS for name in names]
    known += [f"bitbylaw_{name}" for name in TOLD_ELSEWHERE]
    assert sorted(known) == sorted(metrics.declared())


@pytest.mark.parametrize("name", TOLD_ELSEWHERE)
def test_what_one_service_tells_is_read_by_a_test_beside_it(name: str) -> None:
    tests = Path(__file__).parent.parent / TOLD_ELSEWHERE[name]
    assert f'"bitbylaw_{name}"' in tests.read_text("utf-8")


async def test_every_declared_metric_moves_and_no_other_is_on_the_page(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(stack, tmp_path, monkeypatch) as stage:
        for act, names in ACTS:
            await act(stage)
            await stage.shows(names)

        async with stage.system.session.get(f"{stage.process.url}/metrics") as answer:
            page = await answer.text()
    families = set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))
    ours = {re.sub("_(count|sum)$", "", name) for name in metrics.declared()}
    assert {name for name in families - ours if not LIBRARY.fullmatch(name)} == set()
    assert ours <= families
