"""`bbl lag` over a real Kafka: groups, commits with metadata, ends, what workers say; Kafka away."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from typer.testing import CliRunner, Result

from bitbylaw_cli.lag_model import LagReport, ServiceLag
from bitbylaw_cli.main import build
from bitbylaw_cli.output import Exit
from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.events import EntityChanged, Event
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.admin import Group, admin, extents
from bitbylaw_common.kafka.assignor import NumberAssignor
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.outcomes import Done, Outcome
from bitbylaw_common.runtime import App, Context, queue, step
from bitbylaw_common.runtime.control import FunctionInfo, TriggerInfo
from bitbylaw_common.runtime.hosting import hosting
from bitbylaw_common.runtime.lanes import LaneKey
from bitbylaw_common.runtime.offsets import Commit, encoded
from bitbylaw_common.runtime.ports import Outgoing, Position
from bitbylaw_common.runtime.status import (
    Rates,
    RunningLane,
    StatusReports,
    WorkerFacts,
    status_of,
)
from bitbylaw_common.topics import PARTITIONS, Topic
from bitbylaw_devstack import Stack

pytestmark = pytest.mark.kafka

T = TypeVar("T")
SERVICE = "document-sync"
STEP = "Document Sync"
TOPIC = topics.DOCUMENT_UPDATE
SUBSCRIBED = (TOPIC.name, topics.requests(SERVICE).name)
WITHIN_SECONDS = 60
COMMAND = (sys.executable, "-c", "from bitbylaw_cli.main import main; main()")
_CLOCK = SystemClock()


class Loop:
    """An event loop in a thread of its own, so that a member lives on while commands run."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something there and return what came out."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN_SECONDS)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN_SECONDS)
        self._loop.close()


@dataclass
class System:
    """A Kafka with the topics of the catalogue, as `bbl` and as a service see it."""

    connect: Mapping[str, Any]
    loop: Loop

    @property
    def env(self) -> dict[str, str]:
        """The environment that tells where it is."""
        return {"KAFKA_BOOTSTRAP_SERVERS": str(self.connect["bootstrap_servers"])}

    def bbl(self, *words: str) -> Result:
        """Type `bbl words...`."""
        return CliRunner().invoke(build(), words, env=self.env)

    def typed(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Type `bbl words...` in a process of its own, with the log lines that people see."""
        return subprocess.run(  # noqa: S603 - the command under test
            [*COMMAND, *words],
            env=dict(os.environ) | self.env,  # noqa: TID251 - the child needs the machine's
            capture_output=True,
            text=True,
            timeout=2 * WITHIN_SECONDS,
            check=False,
        )

    def lag(self, verdict: str = "") -> ServiceLag:
        """Type `bbl lag`, until it gives this verdict, or any."""
        found = self.until(lambda lag: verdict in ("", lag.verdict))
        assert found.verdict == (verdict or found.verdict), found.words
        return found

    def until(self, fits: Callable[[ServiceLag], bool]) -> ServiceLag:
        """Type `bbl lag` until the answer fits: what a group or a worker did takes a moment.

        Returns:
            The last answer, whether it fits or not; the caller asserts.
        """
        deadline = _CLOCK.monotonic() + WITHIN_SECONDS
        while True:
            answer = self.bbl("lag", SERVICE, "--json")
            (found,) = LagReport.model_validate_json(answer.stdout).services
            assert answer.exit_code == (Exit.OK if found.verdict == "well" else Exit.FINDING)
            if fits(found) or _CLOCK.monotonic() > deadline:
                return found

    def put(self, topic: Topic[Any], *events: Event) -> None:
        """Store events as a service would."""
        records = [
            codec.encode(topic, e, event_id=new_event_id(), source="test", now=_CLOCK.now())
            for e in events
        ]
        self.append(*records)

    def append(self, *records: Outgoing) -> list[Position]:
        """Store records."""

        async def append() -> list[Position]:
            async with KafkaLog(self.connect, service="test") as log:
                return await log.append(records)

        return self.loop.do(append())

    def warm_up(self) -> None:
        """Return once every partition takes records: right after their creation some do not yet."""
        deadline = _CLOCK.monotonic() + 3 * WITHIN_SECONDS
        for number in range(PARTITIONS):
            while True:
                try:
                    self.append(Outgoing(TOPIC.name, b"warm-up", b"{}", {}, number))
                except LogUnavailableError:
                    assert _CLOCK.monotonic() < deadline
                else:
                    break

    def group(self) -> tuple[Group, dict[tuple[str, int], Commit]]:
        """Return the group and its commits."""

        async def look() -> tuple[Group, dict[tuple[str, int], Commit]]:
            async with admin(self.connect) as kafka:
                return await kafka.group(SERVICE), await kafka.committed(SERVICE)

        return self.loop.do(look())


class Member:
    """A member of the service's group that works when told to, and says how it stands."""

    def __init__(self, connect: Mapping[str, Any]) -> None:
        self.facts = WorkerFacts(
            service=SERVICE,
            instance="document-sync-0",
            code_version="1.2",
            now=_CLOCK.now(),
            began=_CLOCK.now(),
            draining=False,
            partitions=range(PARTITIONS),
            running=(),
            ready_by_step={},
            waiting=0,
            in_flight=0,
            entries=(),
            schedule={"retry": 0, "wait": 0, "tick": 0},
            gates=(),
            circuits=(),
            needs={},
            rates=Rates(),
            last_commit=None,
        )
        self.log = KafkaLog(connect, service=SERVICE)
        self.consumer = AIOKafkaConsumer(
            **connect,
            group_id=SERVICE,
            client_id=f"{SERVICE}-{self.facts.instance}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(NumberAssignor,),
        )
        self.reports = StatusReports(
            lambda: [status_of(replace(self.facts, now=_CLOCK.now()))],
            self.log,
            _CLOCK,
            source=SERVICE,
        )
        self._publishing: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Join, and publish from now on."""
        await self.log.__aenter__()
        self.consumer.subscribe(list(SUBSCRIBED))
        await self.consumer.start()
        while len(self.consumer.assignment()) < len(SUBSCRIBED) * PARTITIONS:
            await self.consumer.getmany(timeout_ms=100)
        self.consumer.pause(*self.consumer.assignment())
        self._publishing = asyncio.create_task(self.reports.publish())

    async def commit(self, number: int, offset: int, metadata: str = "") -> None:
        """Commit on the topic of the documents."""
        place = TopicPartition(TOPIC.name, number)
        await self.consumer.commit({place: OffsetAndMetadata(offset, metadata)})

    async def finish_all(self) -> None:
        """Commit every end."""
        ends = await self.consumer.end_offsets(self.consumer.assignment())
        await self.consumer.commit(ends)

    async def leave(self, *, farewell: bool) -> None:
        """Leave the group, with or without a good-bye."""
        if self._publishing is not None:
            if farewell:
                await self.reports.withdraw()
            self._publishing.cancel()
            await asyncio.wait([self._publishing])
        await self.consumer.stop()
        await self.log.__aexit__(None, None, None)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """Run what lives beside the commands."""
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def system(stack: Stack, loop: Loop) -> System:
    """Give a Kafka whose topics `bbl topics apply` made, and the service's declaration."""
    system = System({"bootstrap_servers": stack.kafka.bootstrap_servers}, loop)
    assert system.bbl("topics", "apply", "--yes").exit_code == Exit.OK
    system.warm_up()
    system.put(
        topics.FUNCTIONS,
        FunctionInfo(
            function_id=f"steps::{STEP}::trigger::0",
            name=STEP,
            description="d",
            service=SERVICE,
            flows=("vmh",),
            trigger=TriggerInfo(type="queue", config={"topic": TOPIC.name}),
            enqueues=(),
        ),
    )
    return system


@contextmanager
def working(
    system: System, change: Callable[[WorkerFacts], WorkerFacts] = lambda facts: facts
) -> Iterator[Member]:
    """Have a member in the group for the block; it says good-bye."""

    async def begin() -> Member:
        member = Member(system.connect)
        member.facts = change(member.facts)
        await member.join()
        return member

    member = system.loop.do(begin())
    try:
        yield member
    finally:
        system.loop.do(member.leave(farewell=True))


def _update(entity_id: str) -> EntityChanged:
    return EntityChanged(entity_type="CDokumente", entity_id=entity_id, action="update")


def test_a_system_without_topics_is_told_as_such(stack: Stack, loop: Loop) -> None:
    bare = System({"bootstrap_servers": stack.kafka.bootstrap_servers}, loop)
    found = bare.lag("no_owner")
    assert "the topic control.workers is missing: bbl topics apply --yes" in found.notes
    assert "none was ever heard of" in found.words


def test_nobody_in_the_group_is_no_owner_and_everything_waits(system: System) -> None:
    before = system.lag("no_owner").behind
    system.put(TOPIC, *(_update(f"first{number}") for number in range(30)))
    found = system.lag("no_owner")
    assert found.behind - before == 30
    assert sum(one.behind for one in found.partitions) == found.behind
    assert {one.step for one in found.partitions} == {STEP}
    assert found.arrivals_per_second > 0
    assert found.finished_per_second is None


def test_a_member_that_finished_everything_is_all_well(system: System) -> None:
    with working(system) as member:
        system.loop.do(member.finish_all())
        found = system.lag("well")
        assert (found.words, found.behind) == ("All well: nothing waits.", 0)
        (worker,) = found.workers
        assert (worker.instance, worker.state, len(worker.partitions)) == (
            "document-sync-0",
            "working",
            PARTITIONS,
        )


def test_a_stuck_key_is_told_with_the_record_that_holds_the_watermark(system: System) -> None:
    number = codec.partition_of(b"stuck")
    others = [f"o{n}" for n in range(200) if codec.partition_of(f"o{n}".encode()) == number][:9]
    run = RunningLane.of(
        LaneKey(STEP, "document", "stuck"),
        None,
        started=_CLOCK.now() - timedelta(minutes=4),
        attempt=1,
        behind=0,
    )
    with working(system, lambda facts: replace(facts, running=(run,))) as member:
        system.loop.do(member.finish_all())
        system.put(TOPIC, _update("stuck"), *map(_update, others))
        (held,) = [one for one in system.lag("stuck").partitions if one.partition == number]
        first = int(held.record.rpartition(":")[2])
        assert (held.behind, held.key, held.step) == (10, "stuck", STEP)
        # all beyond the stuck one are finished but the last, and the commit says so
        metadata = encoded(first, first + 10, [first, first + 9])
        system.loop.do(member.commit(number, first, metadata))
        found = system.lag("stuck")
        assert (found.behind, found.findings[0].waiting) == (2, 1)
        assert found.findings[0].record == f"{TOPIC.name}:{number}:{first}"
        assert found.command == "bbl why document stuck"


def test_a_pause_is_told_until_it_is_ended(system: System) -> None:
    with working(system) as member:
        system.loop.do(member.finish_all())
        asked = system.bbl("pause", SERVICE, STEP, "--reason", "xAI moves house", "--yes")
        assert asked.exit_code == Exit.OK, asked.stderr
        found = system.lag("paused")
        assert "xAI moves house" in found.words
        assert found.command == f"bbl resume {SERVICE} '{STEP}' --yes"
        assert system.bbl("resume", SERVICE, STEP, "--yes").exit_code == Exit.OK
        system.lag("well")


def test_what_cannot_be_read_on_the_workers_topic_is_noted_and_all_else_goes_on(
    system: System,
) -> None:
    system.append(Outgoing(topics.WORKERS.name, b"document-sync|broken", b"\xff{"))
    with working(system) as member:
        system.loop.do(member.finish_all())
        found = system.lag("well")
        assert found.notes == (
            "1 of the records on control.workers cannot be read by this version",
        )


def test_a_good_bye_tells_since_when_nobody_works(system: System) -> None:
    with working(system) as member:
        system.loop.do(member.finish_all())
        system.lag("well")
        before = _CLOCK.now()
    found = system.lag("no_owner")
    assert "when document-sync-0 stopped" in found.words
    since = found.findings[0].since
    assert since is not None
    assert before - timedelta(seconds=1) <= since <= _CLOCK.now() + timedelta(seconds=1)
    assert [one.state for one in found.workers] == ["stopped"]


def test_looking_joins_no_group_and_moves_no_offset(system: System) -> None:
    with working(system) as member:
        system.loop.do(member.finish_all())
        system.put(TOPIC, *(_update(f"late{number}") for number in range(5)))
        before = system.group()
        assert len(before[0].members) == 1
        answer = system.bbl("lag", "--watch", "--count", "3", "--every", "0.5", "--json")
        looks = [LagReport.model_validate_json(line) for line in answer.stdout.splitlines()]
        assert [look.services[0].behind for look in looks] == [5, 5, 5]
        assert system.group() == before


async def test_marks_of_transactions_wait_for_nobody(system: System) -> None:
    async with extents(system.connect) as ends:
        producer = KafkaLog(system.connect, service="test")
        async with producer as log:
            state = await log.take_over("lag-marks", 5)
            # a record of ours, then the mark that its transaction leaves behind it
            topic = topics.schedule(SERVICE).name
            await state.write([Outgoing(topic, b"a|b|c", b"{}", {}, 5)])
            await state.close()
        async with asyncio.timeout(WITHIN_SECONDS):
            # the mark is written a moment after the transaction is acknowledged
            while (extent := (await ends.of([(topic, 5)], []))[topic, 5]).end < 2:  # noqa: ASYNC110 - the broker tells only who asks
                await asyncio.sleep(0.05)
        last = extent.end - 1
        assert await ends.records({(topic, 5): last}, seconds=10) == {(topic, 5): None}
        found = await ends.records({(topic, 5): extent.first}, seconds=10)
        record = found[topic, 5]
        assert record is not None
        assert record.value == b"{}"


@dataclass
class Hosted:
    """A service in a process of ours, whose handler waits at the door until it is opened."""

    door: asyncio.Event
    stopping: asyncio.Event
    task: "asyncio.Task[None] | None" = None

    @classmethod
    async def start(cls, env: Mapping[str, str]) -> "Hosted":
        """Start it; it joins the group in its own time."""
        hosted = cls(asyncio.Event(), asyncio.Event())

        @step(name=STEP, description="Waits", flows=["vmh"], triggers=[queue(TOPIC)])
        async def wait(_: EntityChanged, __: Context[None]) -> Outcome:
            await hosted.door.wait()
            return Done("it was opened")

        @asynccontextmanager
        async def nothing(_: Mapping[str, str]) -> AsyncGenerator[None, None]:
            yield None

        async def serve() -> None:
            async with hosting([App(SERVICE, [wait], nothing)], env):
                await hosted.stopping.wait()

        hosted.task = asyncio.create_task(serve())
        return hosted

    async def open(self) -> None:
        """Let every run go on."""
        self.door.set()

    async def stop(self) -> None:
        """Let it drain and end."""
        self.door.set()
        self.stopping.set()
        if self.task is not None:
            await self.task


def test_a_hosted_service_tells_how_it_stands_and_says_good_bye(
    system: System, stack: Stack
) -> None:
    env = system.env | {
        "REDIS_URL": stack.redis.url,
        "HTTP_PORT": "0",
        "HTTP_HOST": "127.0.0.1",
        "BBL_INSTANCE": "document-sync-0",
        "BBL_VERSION": "1.2",
    }
    hosted = system.loop.do(Hosted.start(env))
    try:
        # those that lie there from the tests before are its first work
        before = system.lag().behind
        system.put(TOPIC, _update("live"))
        waiting = system.until(lambda lag: bool(lag.workers) and lag.workers[0].running > 0)
        assert waiting.behind >= max(1, before)
        assert (waiting.workers[0].code_version, len(waiting.workers[0].partitions)) == (
            "1.2",
            PARTITIONS,
        )
        assert {one.owner for one in waiting.partitions} == {"document-sync-0"}
        system.loop.do(hosted.open())
        done = system.until(lambda lag: lag.behind == 0 and lag.workers[0].running == 0)
        assert done.verdict == "well", done.words
    finally:
        system.loop.do(hosted.stop())
    gone = system.lag("no_owner")
    assert "when document-sync-0 stopped" in gone.words


def test_kafka_away_is_one_line_and_its_own_exit_code(system: System, stack: Stack) -> None:
    system.loop.do(stack.kafka.stop())
    answer = system.typed("lag")
    assert (answer.returncode, answer.stdout) == (Exit.UNREACHABLE, "")
    assert answer.stderr.count("\n") == 1, answer.stderr


def test_watching_a_kafka_that_is_away_says_so_and_goes_on(system: System) -> None:
    away = replace(system, connect={"bootstrap_servers": "127.0.0.1:1"})
    watched = away.typed("lag", "--watch", "--count", "2", "--every", "0.5")
    assert watched.stdout.count("Kafka does not answer") == 2
    assert watched.returncode == Exit.UNREACHABLE
