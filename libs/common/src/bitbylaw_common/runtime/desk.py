"""What all runs of one worker share: its app, its ports, its partitions and its schedule."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from bitbylaw_common import spans, topics, tracing
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import LogUnavailableError, OwnershipLost, UndeclaredTopicError
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime import ticks
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.context import Emit, StepLogger
from bitbylaw_common.runtime.offsets import Offsets
from bitbylaw_common.runtime.ports import (
    Appends,
    Gates,
    Locks,
    Log,
    Outgoing,
    Position,
    Record,
    State,
)
from bitbylaw_common.runtime.schedule import Schedule
from bitbylaw_common.runtime.step import Step
from bitbylaw_common.sync.brake import Extent

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works.

    Attributes:
        instance: names this process in journal and functions.
        concurrency: how many keys run at once.
        records_in_flight: beyond it delivery of a partition pauses, so that one key with a long
            queue holds up its partition at most.
        bytes_in_flight: beyond it all delivery pauses.
        code_version: goes into journal and dead letters.
        journal_seconds: how long the journal of a run that left nothing else to write waits for
            those of others; one append for many costs Kafka and us a fraction. Nothing waits for
            it but the offset.
    """

    instance: str = "local"
    concurrency: int = 64
    records_in_flight: int = 10_000
    bytes_in_flight: int = 64 * topics.MIB
    code_version: str = "dev"
    journal_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that fits no topic of ours; it goes to the dead letters as it is."""

    record: Record
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """What is due for a key that was given up: nothing but to forget that it was."""


@dataclass(slots=True)
class Partition:
    """Partition p of every topic, while a worker owns it.

    Attributes:
        epoch: tells this ownership from an earlier one of the same partition.
        state: writes base and schedule; refused as soon as another worker took over.
        base: what both sides agreed on last, by `{entity}:{id}`.
        scheduled: origins of records that an earlier owner ran, and whose run ended in the schedule:
            should their commits be lost, the schedule sees to them all the same.
        bytes_waiting: held for records whose outcome is not acknowledged yet.
        draining: it is being given up; nothing starts any more.
    """

    number: int
    epoch: int
    state: State
    offsets: dict[str, Offsets] = field(default_factory=dict)
    base: dict[bytes, bytes] = field(default_factory=dict)
    scheduled: set[str] = field(default_factory=set)
    bytes_waiting: int = 0
    draining: bool = False


@dataclass(slots=True)
class StepHealth:
    """When a step last went well and last failed, for `/_console/functions`."""

    last_success: datetime | None = None
    last_failure: datetime | None = None


@dataclass(slots=True)
class Desk(Generic[D]):
    """What all runs of one worker share.

    Attributes:
        owns: whether this very ownership of a partition still stands.
        lost: told when it turned out that it does not.
        released: called when the last wait for Kafka is over.
        extent: how much of the service this worker answers for.
        holding: how many runs wait for Kafka; meanwhile none starts.
        schedule_topic, base_topic, dlq_topic: what the worker keeps for itself.
    """

    app: App[D]
    deps: D
    log: Log
    clock: Clock
    locks: Locks
    gates: Gates
    options: WorkerOptions
    owns: Callable[[Partition], bool]
    lost: Callable[[Partition], None]
    released: Callable[[], None]
    extent: Callable[[], Extent]
    logger: StepLogger
    schedule: Schedule = field(default_factory=Schedule)
    holding: int = 0
    health: dict[str, StepHealth] = field(init=False)
    crons: dict[str, ticks.Cron] = field(init=False)
    schedule_topic: str = field(init=False)
    base_topic: str = field(init=False)
    dlq_topic: str = field(init=False)
    _steps: dict[str, Step[Any, Any, D]] = field(init=False)

    def __post_init__(self) -> None:
        """Look up once what every record asks for."""
        self.health = {step.name: StepHealth() for step in self.app.steps}
        self.schedule_topic = topics.schedule(self.app.name).name
        self.base_topic = topics.base(self.app.name).name
        self.dlq_topic = topics.dlq(self.app.name).name
        self.crons = ticks.declared(self.app.steps)
        self._steps = {step.name: step for step in self.app.steps}

    def step(self, name: str) -> Step[Any, Any, D]:
        """Return the declared step."""
        return self._steps[name]

    async def append(self, records: Sequence[Outgoing], partition: Partition) -> list[Position]:
        """Append until acknowledged; while Kafka is away no new run starts.

        Raises:
            OwnershipLost: the partition went to another worker meanwhile.
        """
        pause = 0.5
        while True:
            self.still_owner(partition)
            try:
                return await self.log.append(records)
            except LogUnavailableError as down:
                await self.pause(down, pause)
                pause = min(pause * 2, 5.0)

    async def keep(self, records: Sequence[Outgoing], partition: Partition) -> None:
        """Write what only the owner may: base and schedule, with the records that belong to them.

        All or nothing; returns once acknowledged.

        Raises:
            OwnershipLost: another worker took over, or nobody knows whether it was written; then
                the partition is taken over anew, and the record runs again.
        """
        self.still_owner(partition)
        try:
            await partition.state.write(records)
        except OwnershipLost:
            self.lost(partition)
            raise
        except LogUnavailableError as down:
            self.lost(partition)
            raise OwnershipLost(
                f"the state of partition {partition.number} is unknown: {down}"
            ) from down

    async def pause(self, down: LogUnavailableError, seconds: float) -> None:
        """Wait for Kafka, and let nothing start meanwhile; the first that waits says so."""
        if not self.holding:
            self.logger.warning("Kafka does not acknowledge; no new run starts", error=str(down))
        self.holding += 1
        try:
            await self.clock.sleep(seconds)
        finally:
            self.holding -= 1
            if not self.holding:
                self.released()

    def still_owner(self, partition: Partition) -> None:
        """Return if this ownership stands.

        Raises:
            OwnershipLost: it does not.
        """
        if not self.owns(partition):
            raise OwnershipLost(f"partition {partition.number} is not this worker's any more")


async def publish(
    emits: Sequence[Emit[Any]],
    *,
    log: Appends,
    declared: Collection[str],
    service: str,
    now: datetime,
    trace: tracing.Trace,
) -> list[str]:
    """Append the events and return their ids once Kafka acknowledged every one.

    Raises:
        UndeclaredTopicError: before anything was sent.
        LogUnavailableError: some may have been stored.
    """
    for emit in emits:
        if emit.topic.name not in declared:
            raise UndeclaredTopicError(
                f"{service} published to {emit.topic.name}, which the step does not declare; "
                "add the topic to its `enqueues`"
            )
    ids: list[str] = []
    records: list[Outgoing] = []
    if not emits:
        return ids
    with spans.publish([emit.topic.name for emit in emits], service=service, under=trace) as here:
        traceparent = here.header
        for emit in emits:
            event_id = new_event_id()
            ids.append(event_id)
            records.append(
                codec.encode(
                    emit.topic,
                    emit.event,
                    event_id=event_id,
                    source=service,
                    now=now,
                    traceparent=traceparent,
                    headers=emit.headers,
                )
            )
        spans.published(ids, await log.append(records))
    return ids
