"""One vocabulary over the memory host and over Kafka, for the suite that both must pass."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import Event
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog, from_kafka
from bitbylaw_common.locks import NoLocks
from bitbylaw_common.retry import LADDER
from bitbylaw_common.runtime import ApiRequest, ApiResponse
from bitbylaw_common.runtime.dead_letters import DeadLetter
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.hosts.kafka_host import KafkaHost
from bitbylaw_common.runtime.hosts.memory_host import MemoryHost
from bitbylaw_common.runtime.http_run import http_run
from bitbylaw_common.runtime.ports import Log, Outgoing, Record
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.runtime.worker import Worker
from bitbylaw_common.sync.base import BaseState
from bitbylaw_common.topics import Topic
from toy import CHANGED, ECHO, ORDERED, Ledger, toy

UNTIL_SECONDS = 60.0
NEVER = (timedelta(hours=1),) * 5
TOPICS: tuple[Topic[Any], ...] = (CHANGED, ORDERED, ECHO, topics.JOURNAL, *topics.of_service("toy"))


class Harness(Protocol):
    """What a test of the runtime says and asks, whatever carries the records."""

    ledger: Ledger
    ladder: tuple[timedelta, ...]

    @property
    def rung(self) -> timedelta: ...
    def thing(self, name: str) -> str: ...
    def now(self) -> datetime: ...
    async def publish(
        self, topic: Topic[Any], event: Event, headers: Mapping[str, str] | None = None
    ) -> None: ...
    async def publish_raw(self, topic: Topic[Any], key: bytes, value: bytes) -> None: ...
    async def post(self, path: str) -> ApiResponse: ...
    async def until(self, condition: Callable[[], bool]) -> None: ...
    async def delivered(self, topic: Topic[Any], count: int) -> None: ...
    async def committed(self, *, unfinished: int) -> None: ...
    async def usurp(self, thing: str, base: BaseState) -> None: ...
    async def restart(self) -> None: ...
    async def crash(self) -> None: ...
    def freeze(self) -> None: ...
    def records(self, topic: Topic[Any]) -> list[Record]: ...
    def journal(self, entity_id: str) -> list[JournalEntry]: ...
    def scheduled(self, entity_id: str) -> list[ScheduleEntry]: ...
    def dead_letters(self) -> list[DeadLetter]: ...


def encoded(
    topic: Topic[Any], event: Event, now: datetime, headers: Mapping[str, str] | None = None
) -> Outgoing:
    """Return `event` as a producer outside the system would write it."""
    event_id = new_event_id()
    return codec.encode(topic, event, event_id=event_id, source="test", now=now, headers=headers)


def journal_of(records: Sequence[Record], entity_id: str) -> list[JournalEntry]:
    """Return the journal entries about a record."""
    entries = [JournalEntry.model_validate_json(r.value) for r in records if r.value is not None]
    return [entry for entry in entries if entry.entity_id == entity_id]


def scheduled_of(worker: Worker[Any], entity_id: str) -> list[ScheduleEntry]:
    """Return what waits for a record."""
    return [entry for entry in worker.schedule.entries() if entry.entity_id == entity_id]


def said(worker: Worker[Any], unfinished: int) -> bool:
    """Whether the broker knows of everything but so many records that it is finished."""
    offsets = [o for part in worker._partitions.values() for o in part.offsets.values()]
    return sum(o.unfinished for o in offsets) == unfinished and not worker.commits()


def taken(worker: Worker[Any], records: Sequence[Record]) -> bool:
    """Whether the worker was given all these records."""
    for record in records:
        part = worker._partitions.get(record.partition)
        offsets = None if part is None else part.offsets.get(record.topic)
        position = None if offsets is None else offsets.position
        if position is None or position <= record.offset:
            return False
    return True


async def overwritten(log: Log, thing: str, base: BaseState) -> None:
    """Take the state of a thing's partition over, as its next owner does, and write its base."""
    number = codec.partition_of(thing.encode())
    state = await log.take_over("toy", number)
    key = f"thing:{thing}".encode()
    await state.write([Outgoing(topics.base("toy").name, key, base.to_bytes(), {}, number)])
    await state.close()


async def journalled(host: Harness, entity_id: str, count: int) -> list[JournalEntry]:
    """Return the journal of a record once it has `count` entries."""
    await host.until(lambda: len(host.journal(entity_id)) == count)
    return host.journal(entity_id)


class MemoryHarness:
    """Over the memory host: virtual time, moved on whenever nothing else moves."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ladder: tuple[timedelta, ...] = LADDER
        self.rung = timedelta(minutes=1)
        self._host = MemoryHost()
        self._frozen = False

    async def start(self) -> None:
        await self._host.start(toy(self.ledger))

    async def stop(self) -> None:
        self.ledger.gate.set()
        await self._host.crash("toy")

    def thing(self, name: str) -> str:
        return name

    def now(self) -> datetime:
        return self._host.clock.now()

    async def publish(
        self, topic: Topic[Any], event: Event, headers: Mapping[str, str] | None = None
    ) -> None:
        await self._host.log.append([encoded(topic, event, self.now(), headers)])

    async def publish_raw(self, topic: Topic[Any], key: bytes, value: bytes) -> None:
        await self._host.log.append([Outgoing(topic.name, key, value)])

    async def post(self, path: str) -> ApiResponse:
        return await self._host.request("POST", path)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(UNTIL_SECONDS):
            while not condition():
                if await self._host.go_on() or condition():
                    continue
                step = self._host.next_event()
                if step is None or self._frozen:
                    await asyncio.sleep(0.001)
                else:
                    self._host.clock.move(step)

    async def delivered(self, topic: Topic[Any], count: int) -> None:
        self._host.nudge()
        assert len(self.records(topic)) == count

    async def committed(self, *, unfinished: int) -> None:
        await self.until(lambda: said(self._host.worker("toy"), unfinished))

    async def usurp(self, thing: str, base: BaseState) -> None:
        await overwritten(self._host.log, thing, base)

    async def restart(self) -> None:
        self._host.nudge()
        await self._host.restart("toy")

    async def crash(self) -> None:
        await self._host.restart("toy")

    def freeze(self) -> None:
        self._frozen = True

    def fail_the_log(self, *, times: int) -> None:
        """Let the next appends fail."""
        left = times

        def count(_records: Sequence[Outgoing]) -> None:
            nonlocal left
            self._host.log.failing = left > 0
            left -= 1

        self._host.log.on_append = count

    def records(self, topic: Topic[Any]) -> list[Record]:
        return self._host.log.records(topic.name)

    def journal(self, entity_id: str) -> list[JournalEntry]:
        return journal_of(self.records(topics.JOURNAL), entity_id)

    def scheduled(self, entity_id: str) -> list[ScheduleEntry]:
        return scheduled_of(self._host.worker("toy"), entity_id)

    def dead_letters(self) -> list[DeadLetter]:
        letters = self.records(topics.dlq("toy"))
        return [DeadLetter.from_bytes(r.value) for r in letters if r.value is not None]


class KafkaHarness:
    """Over a real Kafka: real time, with a ladder of tenths of a second."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.ledger = Ledger()
        self.rung = timedelta(seconds=0.5)
        self.ladder: tuple[timedelta, ...] = (self.rung,) * 5
        self._connect = {"bootstrap_servers": bootstrap_servers}
        self._clock = SystemClock()
        self._log = KafkaLog(self._connect, service="toy")
        self._opened = AsyncExitStack()
        self._app = toy(self.ledger, ladder=self.ladder)
        # Topics are made once; things of a name of their own keep the tests apart.
        self._mark = self.ledger.mark = uuid.uuid4().hex[:8]
        self._tail = AIOKafkaConsumer(
            **self._connect, auto_offset_reset="latest", isolation_level="read_committed"
        )
        self._reading: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._host: KafkaHost[Ledger] | None = None
        self._read: dict[str, list[Record]] = {}

    async def start(self) -> None:
        async with asyncio.timeout(UNTIL_SECONDS), admin(self._connect) as kafka:
            await kafka.apply(TOPICS)
        await self._opened.enter_async_context(self._log)
        await self._tail.start()
        places = [TopicPartition(t.name, n) for t in TOPICS for n in range(topics.PARTITIONS)]
        self._tail.assign(places)
        await self._tail.seek_to_end(*places)
        for place in places:
            await self._tail.position(place)
        self._reading = asyncio.create_task(self._follow())
        await self._begin()

    async def stop(self) -> None:
        self.ledger.gate.set()
        await self._end(clean=False)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading}, timeout=5)
        await self._tail.stop()
        await self._opened.aclose()

    async def _follow(self) -> None:
        while True:
            batches = await self._tail.getmany(timeout_ms=100)
            for place, found in batches.items():
                self._read.setdefault(place.topic, []).extend(map(from_kafka, found))

    async def _begin(self) -> None:
        self._stopping = asyncio.Event()
        self._host = KafkaHost(
            self._app,
            self.ledger,
            connect=self._connect,
            log=self._log,
            clock=self._clock,
            locks=NoLocks(),
            options=WorkerOptions(),
            instance=None,
            drain_seconds=5,
        )
        self._task = asyncio.create_task(self._host.run(self._stopping))

    async def _end(self, *, clean: bool) -> None:
        assert self._task is not None
        assert self._host is not None
        if clean:
            self._stopping.set()
            await asyncio.wait_for(self._task, UNTIL_SECONDS)
            return
        self._host.worker.forget(tuple(self._host.worker.partitions))
        await self._host.worker.abandon()
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=10)

    def thing(self, name: str) -> str:
        return f"{name}-{self._mark}"

    def now(self) -> datetime:
        return self._clock.now()

    async def publish(
        self, topic: Topic[Any], event: Event, headers: Mapping[str, str] | None = None
    ) -> None:
        await self._log.append([encoded(topic, event, self.now(), headers)])

    async def publish_raw(self, topic: Topic[Any], key: bytes, value: bytes) -> None:
        await self._log.append([Outgoing(topic.name, key, value)])

    async def post(self, path: str) -> ApiResponse:
        step = next(step for step in self._app.steps if step.http_triggers)
        run = http_run(self._app, step, self.ledger, self._log, self._clock)
        thing = path.rpartition("/")[2]
        return await run(ApiRequest("POST", path, b"", path_params={"thing": thing}))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(UNTIL_SECONDS):
            while True:
                if condition():
                    return
                if self._task is not None and self._task.done():
                    self._task.result()
                await asyncio.sleep(0.05)

    async def delivered(self, topic: Topic[Any], count: int) -> None:
        await self.until(lambda: len(self.records(topic)) == count)
        assert self._host is not None
        worker = self._host.worker
        # not the lag: it goes by the ends that the last fetch told of
        await self.until(lambda: taken(worker, self.records(topic)))

    async def committed(self, *, unfinished: int) -> None:
        assert self._host is not None
        worker = self._host.worker
        await self.until(lambda: said(worker, unfinished))

    async def usurp(self, thing: str, base: BaseState) -> None:
        await overwritten(self._log, thing, base)

    async def restart(self) -> None:
        await self._end(clean=True)
        await self._begin()

    async def crash(self) -> None:
        await self._end(clean=False)
        await self._begin()

    def freeze(self) -> None:
        assert self._host is not None
        desk = self._host.worker._desk
        desk.app = replace(desk.app, ladder=NEVER)

    def records(self, topic: Topic[Any]) -> list[Record]:
        return self._read.get(topic.name, [])

    def journal(self, entity_id: str) -> list[JournalEntry]:
        return journal_of(self.records(topics.JOURNAL), entity_id)

    def scheduled(self, entity_id: str) -> list[ScheduleEntry]:
        assert self._host is not None
        return scheduled_of(self._host.worker, entity_id)

    def dead_letters(self) -> list[DeadLetter]:
        letters = self.records(topics.dlq("toy"))
        found = [DeadLetter.from_bytes(r.value) for r in letters if r.value is not None]
        return [letter for letter in found if letter.entity_id.endswith(self._mark) or letter.raw]


@asynccontextmanager
async def memory_harness() -> AsyncIterator[MemoryHarness]:
    """Start the toy app on the memory host."""
    harness = MemoryHarness()
    await harness.start()
    try:
        yield harness
    finally:
        await harness.stop()


@asynccontextmanager
async def kafka_harness(bootstrap_servers: str) -> AsyncIterator[KafkaHarness]:
    """Start the toy app on a real Kafka."""
    harness = KafkaHarness(bootstrap_servers)
    await harness.start()
    try:
        yield harness
    finally:
        await harness.stop()
