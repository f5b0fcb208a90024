"""A real system for `bbl` to look at: brought from nothing to trouble, by records of its own models."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from pydantic import SecretStr
from redis.asyncio import Redis

from bitbylaw_cli import letters
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import (
    BrakeTripped,
    EntityChanged,
    Event,
    Quarantined,
    QuarantineResolved,
    ReplayCancelled,
    RunRequested,
    StepPaused,
)
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.assignor import NumberAssignor
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.locks import TTL_SECONDS
from bitbylaw_common.runtime import commands
from bitbylaw_common.runtime.control import FunctionInfo, TriggerInfo, functions_of
from bitbylaw_common.runtime.dead_letters import DeadLetter, Redriven
from bitbylaw_common.runtime.hosts.http_host import HttpHost
from bitbylaw_common.runtime.lanes import LaneKey
from bitbylaw_common.runtime.ports import Outgoing, Position
from bitbylaw_common.runtime.schedule import Carried, ScheduleEntry
from bitbylaw_common.runtime.status import WorkerStatus
from bitbylaw_common.runtime.ticks import ENTITY
from bitbylaw_common.settings import RedisSettings
from bitbylaw_common.sync.brake import Held
from bitbylaw_common.topics import PARTITIONS, Topic
from bitbylaw_document_sync.app import app as document_sync
from bitbylaw_document_sync.domain.coverage import CoverageState, Gap
from bitbylaw_document_sync.steps.document_coverage_cron_step import document_coverage
from bitbylaw_ingest.app import app as ingest
from cli_verbs.cases import Stage
from unit.cli.shelf import SERVICE, STEP, entry, letter

CONTROL_KEY = "the key of this scene's control routes"
SWEEP = "steps::Document Sweep::trigger::0"
WITHIN_SECONDS = 60
_CLOCK = SystemClock()
_OFFSETS = "__consumer_offsets"
_MINUTE = timedelta(minutes=1)
_UNDECODABLE = b"\xff\x00\xfe no"
_FUNCTIONS = (
    *functions_of(ingest, owner="ingest-0"),
    *functions_of(document_sync, owner="document-sync-0"),
    FunctionInfo(
        function_id=SWEEP,
        name="Document Sweep",
        description="Looks at every document",
        service=SERVICE,
        flows=("vmh",),
        trigger=TriggerInfo(type="cron", config={"expression": "0 0 2 * * *"}),
        enqueues=(),
        owner="document-sync-0",
    ),
)


@asynccontextmanager
async def scene(bootstrap_servers: str, redis_url: str) -> AsyncIterator["Scene"]:
    """Open a system in which nothing is yet.

    One reader looks at all ends: it asks for each topic's whereabouts once, which takes a while.
    """
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers)
    await reader.start()
    try:
        yield Scene(bootstrap_servers, redis_url, reader)
    finally:
        await reader.stop()


World = Mapping[str, object]
"""Where every partition of every topic ends, and what every key of Redis holds."""


class Scene:
    """A system on a Kafka and a Redis of its own.

    Attributes:
        names: what cases call things, and what they are here.
    """

    def __init__(self, bootstrap_servers: str, redis_url: str, reader: AIOKafkaConsumer) -> None:
        self._connect = {"bootstrap_servers": bootstrap_servers}
        self._reader = reader
        self._stage = Stage.EMPTY
        self.env = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers, "REDIS_URL": redis_url}
        self.names: dict[str, str] = {}

    async def become(self, stage: Stage) -> None:
        """Go on to a later stage, through all between.

        Raises:
            ValueError: that one is over.
        """
        if stage < self._stage:
            raise ValueError(f"the scene is {self._stage.name} and never {stage.name} again")
        steps = {
            Stage.CROOKED: self._crooked,
            Stage.SHORT: self._short,
            Stage.WELL: self._well,
            Stage.TROUBLED: self._troubled,
        }
        for later in Stage:
            if self._stage < later <= stage:
                await steps[later]()
                self._stage = later

    async def world(self) -> World:
        """Return what a verb may have changed."""
        found: dict[str, object] = {}
        async with self._administration() as client:
            names = await client.list_topics()
            described = await client.describe_topics(sorted(names))
            places = [
                TopicPartition(one["topic"], part["partition"])
                for one in described
                for part in one["partitions"]
            ]
            for place, end in (await self._reader.end_offsets(places)).items():
                if place.topic == _OFFSETS and not end:
                    continue  # the broker makes it when somebody asks for a group
                found[f"{place.topic}:{place.partition}"] = end
        async with self._redis() as redis:
            async for key in redis.scan_iter():
                found[f"redis {key!r}"] = await redis.get(key)
        return found

    async def tidy(self) -> None:
        """Free all locks: one that ran out during a later case would look like a write."""
        async with self._redis() as redis:
            await redis.flushdb()

    # -- stages -----------------------------------------------------------------------------------

    async def _crooked(self) -> None:
        async with self._administration() as client:
            await client.create_topics([NewTopic(topics.CONFLICTS.name, 3, 1)])

    async def _short(self) -> None:
        async with self._administration() as client:
            await client.create_partitions({topics.CONFLICTS.name: NewPartitions(PARTITIONS)})
        async with admin(self._connect) as kafka:
            await kafka.apply(topics.catalogue())
            await kafka.delete([topics.CONFLICTS.name])

    async def _well(self) -> None:
        async with admin(self._connect) as kafka:
            await kafka.apply(topics.catalogue())
        crons = [info for info in _FUNCTIONS if info.trigger.type == "cron"]
        await self._append(
            *(_encoded(topics.FUNCTIONS, info) for info in _FUNCTIONS),
            *(_due(info, _CLOCK.now() + 60 * _MINUTE) for info in crons),
            _encoded(topics.DOCUMENT_UPDATE, _update("d-well")),
        )
        await self._append(_ended("document", "d-well", "done"))

    async def _troubled(self) -> None:
        (sweep,) = (info for info in _FUNCTIONS if info.function_id == SWEEP)
        await self._append(
            _encoded(topics.DOCUMENT_UPDATE, _update("d-lost")),
            _ended("document", "d-lost", "rejected"),
            _ended(ENTITY, SWEEP, "done", run_id="run-of-sweep", step=sweep.name),
            _due(sweep, _CLOCK.now() - 10 * _MINUTE),
            _scheduled(entry("d-again", due=timedelta(days=1))),
            _buried(letter("d-lost", died=_CLOCK.now())),
            *_held("q-readable", b'[{"id":"d-held"}]'),
            *_held("q-broken", b"{broken"),
            *_held("q-dropped", b"{broken"),
            _encoded(
                topics.QUARANTINE, QuarantineResolved(quarantine_id="q-dropped", how="dropped")
            ),
            _replayed("r-under-way"),
            _replayed("r-called-off"),
            commands.encoded(
                ReplayCancelled(replay_id="r-called-off", since=_CLOCK.now()), _CLOCK, source="test"
            ),
        )
        asked, unreadable = await self._append(
            _buried(letter("d-asked", died=_CLOCK.now())), _undecodable()
        )
        mark = Redriven(letter=_place(asked), run_id="run-asked", at=_CLOCK.now())
        marked = _encoded(topics.dlq(SERVICE), mark)
        await self._append(replace(marked, partition=asked.partition))
        self.names["unreadable"] = _place(unreadable)

    # -- what a case is given just before ---------------------------------------------------------

    async def give(self, what: str) -> None:
        """Put there what a case wants to find."""
        if what:
            await getattr(self, f"_give_{what}")()

    async def _give_paused_step(self) -> None:
        await self._pause("", stands=False)
        await self._pause(STEP, stands=True)

    async def _give_paused_service(self) -> None:
        await self._pause("", stands=True)

    async def _pause(self, step: str, *, stands: bool) -> None:
        wanted = StepPaused(service=SERVICE, step=step, since=_CLOCK.now(), reason="audit")
        record = (
            commands.encoded(wanted, _CLOCK, source="test")
            if stands
            else commands.withdrawn(wanted.key, _CLOCK, source="test")
        )
        await self._append(record)

    async def _give_covered(self) -> None:
        await self._cover()

    async def _give_gap(self) -> None:
        since = _CLOCK.now() - 60 * _MINUTE
        await self._cover(Gap(document_id="d-lost", since=since, seen="0" * 16, told=2))

    async def _cover(self, *gaps: Gap) -> None:
        now, function = _CLOCK.now(), document_coverage.function_id()
        state = CoverageState(
            key_id="test", written_at=now, complete_since=now, complete_until=now, gaps=gaps
        )
        key = f"{ENTITY}:{function}".encode()
        home = codec.partition_of(function.encode())
        await self._append(
            Outgoing(topics.base(SERVICE).name, key, state.to_bytes(), partition=home)
        )

    async def _give_braked(self) -> None:
        trip = BrakeTripped(
            service=SERVICE, effect="delete", since=_CLOCK.now(), reason="too many at once"
        )
        held = Held({"delete": 2}, timedelta(hours=6)).wait()
        carried = Carried(
            topic=topics.DOCUMENT_UPDATE.name, value=_update("d-braked").model_dump_json()
        )
        day = timedelta(days=1)
        waits = entry("d-braked", kind="wait", due=day, reason=held.reason, carried=carried)
        await self._append(
            commands.encoded(trip, _CLOCK, source="test"),
            _scheduled(waits),
        )

    async def _give_letter(self) -> None:
        await self._append(_buried(letter("d-lost", died=_CLOCK.now())))

    async def _give_more(self) -> None:
        await self._append(_buried(letter("d-more", died=_CLOCK.now())))

    async def _give_all_asked(self) -> None:
        async with KafkaLog(self._connect, service="test") as log:
            try:
                await letters.redrive_all(log, _CLOCK, SERVICE, write=True)
            except CommandError as refused:
                if refused.exit is not Exit.REFUSED:  # all were asked for before: as it should be
                    raise

    async def _give_held(self) -> None:
        await self._append(*_held("q-readable", b'[{"id":"d-held"}]'))

    async def _give_lock_at_work(self) -> None:
        await self._lock(TTL_SECONDS)

    async def _give_lock_left(self) -> None:
        await self._lock(TTL_SECONDS / 2)

    async def _lock(self, seconds_left: float) -> None:
        token = f"{SERVICE}/host-7-abcd/{'0' * 32}/{int(_CLOCK.now().timestamp())}"
        async with self._redis() as redis:
            await redis.set("sync_lock:document:d-locked", token, px=int(seconds_left * 1000))

    # -- what lives beside a case -----------------------------------------------------------------

    @asynccontextmanager
    async def beside(self, what: str) -> AsyncIterator[Mapping[str, str]]:
        """Let something live for the block; yields what cases call it, and its environment."""
        if what == "worker":
            async with self._worker():
                yield {}
        elif what == "service":
            key = SecretStr(CONTROL_KEY)
            async with HttpHost([], _Told(), port=0, control_key=key) as host:
                yield {"service": host.url}
        else:
            yield {}

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[None]:
        """Have a member in the group that has finished everything and says that it is well."""
        subscribed = sorted(
            {topic.name for topic in topics.DOCUMENT} | {topics.requests(SERVICE).name}
        )
        consumer = AIOKafkaConsumer(
            **self._connect,
            group_id=SERVICE,
            client_id=f"{SERVICE}-document-sync-0",
            enable_auto_commit=False,
            partition_assignment_strategy=(NumberAssignor,),
        )
        consumer.subscribe(subscribed)
        await consumer.start()
        try:
            async with asyncio.timeout(WITHIN_SECONDS):
                while len(consumer.assignment()) < len(subscribed) * PARTITIONS:
                    await consumer.getmany(timeout_ms=100)
            consumer.pause(*consumer.assignment())
            await consumer.commit(await consumer.end_offsets(consumer.assignment()))
            now = _CLOCK.now()
            status = WorkerStatus(
                service=SERVICE,
                instance="document-sync-0",
                code_version="1.0",
                at=now,
                began=now,
                partitions=tuple(range(PARTITIONS)),
            )
            await self._append(_encoded(topics.WORKERS, status))
            yield
        finally:
            await consumer.stop()

    # -- ways in ----------------------------------------------------------------------------------

    async def _append(self, *records: Outgoing) -> list[Position]:
        async with KafkaLog(self._connect, service="test") as log:
            return await log.append(records)

    @asynccontextmanager
    async def _administration(self) -> AsyncIterator[AIOKafkaAdminClient]:
        client = AIOKafkaAdminClient(**self._connect)
        await client.start()
        try:
            yield client
        finally:
            await client.close()

    @asynccontextmanager
    async def _redis(self) -> AsyncIterator[Redis]:
        settings = RedisSettings.from_env(self.env)
        url = settings.connection_url(settings.db_advoware_cache).get_secret_value()
        async with Redis.from_url(url) as redis:
            yield redis


class _Told:
    """What a process knows about itself, told by a process that knows the fleet."""

    def healthy(self) -> Sequence[str]:
        return ()

    def ready(self) -> Sequence[str]:
        return ()

    def functions(self) -> Sequence[FunctionInfo]:
        return _FUNCTIONS

    async def trigger(self, function_id: str) -> str:
        raise NotImplementedError(f"no case asks for a run of {function_id} here")


# -- records ----------------------------------------------------------------------------------------


def _encoded(topic: Topic[Any], event: Event, headers: Mapping[str, str] | None = None) -> Outgoing:
    return codec.encode(
        topic,
        event,
        event_id=new_event_id(),
        source="test",
        now=_CLOCK.now(),
        headers=headers,
    )


def _update(entity_id: str) -> EntityChanged:
    return EntityChanged(entity_type="CDokumente", entity_id=entity_id, action="update")


def _ended(
    entity: str, entity_id: str, outcome: str, *, run_id: str = "", step: str = STEP
) -> Outgoing:
    now = _CLOCK.now()
    run = JournalEntry(
        phase="end",
        service=SERVICE,
        step=step,
        entity=entity,
        entity_id=entity_id,
        run_id=run_id or f"run-{entity_id}",
        event_id="e",
        began=now,
        ended=now,
        outcome=outcome,
        summary="as it is",
    )
    number = codec.partition_of(entity_id.encode())
    return Outgoing(topics.JOURNAL.name, run.key, run.model_dump_json().encode(), {}, number)


def _due(info: FunctionInfo, at: Any) -> Outgoing:
    return _scheduled(
        ScheduleEntry(
            step=info.name,
            entity=ENTITY,
            entity_id=info.function_id,
            due=at,
            kind="tick",
            since=_CLOCK.now() - 60 * _MINUTE,
            instant=at,
        )
    )


def _scheduled(held: ScheduleEntry) -> Outgoing:
    number = codec.partition_of(held.entity_id.encode())
    name = topics.schedule(SERVICE).name
    return Outgoing(name, held.lane.to_bytes(), held.to_bytes(), {}, number)


def _buried(dead: DeadLetter) -> Outgoing:
    key = LaneKey(dead.step, dead.entity, dead.entity_id).to_bytes()
    number = codec.partition_of(dead.entity_id.encode())
    return Outgoing(topics.dlq(SERVICE).name, key, dead.to_bytes(), {}, number)


def _undecodable() -> Outgoing:
    dead = letter(
        "",
        step="",
        entity="",
        carried=None,
        error="Undecodable",
        reason="the value is no JSON",
        raw=base64.b64encode(_UNDECODABLE).decode(),
        died=_CLOCK.now(),
    )
    return Outgoing(topics.dlq(SERVICE).name, b"", dead.to_bytes(), {}, 3)


def _held(quarantine_id: str, raw: bytes) -> tuple[Outgoing]:
    held = Quarantined(
        quarantine_id=quarantine_id,
        route="/vmh/webhook/document/update",
        webhook_id="",
        reason="the body could not be read",
        raw=base64.b64encode(raw).decode(),
    )
    return (_encoded(topics.QUARANTINE, held),)


def _replayed(replay_id: str) -> Outgoing:
    asked = RunRequested(
        function_id=f"steps::{STEP}::trigger::1",
        run_id=f"run-of-{replay_id}",
        subject="d-replayed",
        requested=_update("d-replayed").model_dump(mode="json"),
        topic=topics.DOCUMENT_UPDATE.name,
        origin=f"{topics.DOCUMENT_UPDATE.name}:0:0",
        number=1,
        of=1,
    )
    return _encoded(topics.requests(SERVICE), asked, {codec.REPLAY: replay_id})


def _place(position: Position) -> str:
    return f"{position.topic}:{position.partition}:{position.offset}"
