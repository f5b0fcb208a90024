"""The worker: one app's consuming side, from a delivered record to its committed offset.

A host feeds it (`assign`, `deliver`, `fire_due`, `revoke`) and commits what `commits` returns.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from bitbylaw_common import metrics, spans, topics, tracing
from bitbylaw_common.circuits import Circuits
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import DecodeError, LogUnavailableError, OwnershipLost
from bitbylaw_common.events import Event
from bitbylaw_common.kafka import codec
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime import ticks
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.desk import (
    Desk,
    Forget,
    Partition,
    StepHealth,
    Unreadable,
    WorkerOptions,
)
from bitbylaw_common.runtime.gates import GateState
from bitbylaw_common.runtime.lanes import Cause, Item, LaneKey, Lanes, Work
from bitbylaw_common.runtime.offsets import Commit, Offsets
from bitbylaw_common.runtime.pipeline import Closing, Pipeline, Run
from bitbylaw_common.runtime.ports import (
    Gates,
    Locks,
    Log,
    OpenGates,
    Outgoing,
    Position,
    Record,
    State,
)
from bitbylaw_common.runtime.schedule import Schedule, ScheduleEntry
from bitbylaw_common.runtime.status import (
    Meter,
    RunningLane,
    WorkerFacts,
    WorkerStatus,
    status_of,
)
from bitbylaw_common.runtime.step import Step
from bitbylaw_common.runtime.triggers import Tick
from bitbylaw_common.sync.brake import Extent

D = TypeVar("D")
Place = tuple[str, int]
"""A topic's name and a partition."""

Entries = dict[bytes, tuple[int, ScheduleEntry]]
"""What lies in the schedule: by record key, with its partition."""

JOURNALS_TOGETHER = 256
"""At most so many runs are ahead of their journal: a kill makes them again."""
JOURNALS_GATHERED = 64
"""So many are written at once, without waiting for more."""


class Underway(NamedTuple):
    """One run under way."""

    work: Work
    began: datetime


class Worker(Generic[D]):
    """One app at work on the partitions it owns. Lives on one event loop.

    Args:
        gates: which steps may start.
        lease: whether the group still counts this process as its member, as far as the process can
            know; asked before every effect and every write.
    """

    def __init__(
        self,
        app: App[D],
        deps: D,
        *,
        log: Log,
        clock: Clock,
        locks: Locks,
        options: WorkerOptions,
        gates: Gates | None = None,
        lease: Callable[[], bool] = lambda: True,
    ) -> None:
        self.app = app
        self._desk = Desk(
            app,
            deps,
            log,
            clock,
            locks,
            gates or OpenGates(),
            options,
            owns=self._owns,
            lost=self._lost,
            released=self._pump,
            extent=self.extent,
            logger=step_logger(service=app.name),
        )
        self._lease = lease
        self._circuits: Circuits | None = getattr(deps, "circuits", None)
        self._pipeline = Pipeline(self._desk)
        self._lanes = Lanes()
        self._partitions: dict[int, Partition] = {}
        self._voided: dict[int, dict[str, Offsets]] = {}
        self._epochs = 0
        self._running: dict[asyncio.Task[None], Underway] = {}
        self._closing: deque[tuple[Partition, Work, Closing]] = deque()
        self._recording: asyncio.Task[None] | None = None
        self._gathered = asyncio.Event()
        self._letting_go: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._began = clock.now()
        self._last_commit: datetime | None = None
        self._meter = Meter(clock.monotonic)
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._by_topic = {
            trigger.topic.name: (step, trigger.topic)
            for step in app.steps
            for trigger in step.queue_triggers
        }
        self._functions = {
            step.function_id(number): step
            for step in app.steps
            for number, _ in enumerate(step.triggers)
        }
        self._cron_steps = {cron.step for cron in self._desk.crons.values()}
        self._requests = topics.requests(app.name)
        self._desk.gates.listen(self._pump)
        if self._circuits is not None:
            self._circuits.listen(self._pump)

    @property
    def schedule(self) -> Schedule:
        """What is due later on the partitions owned."""
        return self._desk.schedule

    @property
    def health(self) -> Mapping[str, StepHealth]:
        """By step name."""
        return self._desk.health

    # What a host asks -------------------------------------------------------------------------

    @property
    def subscribed(self) -> tuple[str, ...]:
        """The topics to deliver: what starts steps, and the app's requests."""
        return (*self._by_topic, self._requests.name)

    @property
    def requests(self) -> frozenset[Place]:
        """Where operators' requests lie, of the partitions owned."""
        return frozenset((self._requests.name, number) for number in self._partitions)

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions owned and loaded."""
        return frozenset(self._partitions)

    def extent(self) -> Extent:
        """Return how much of the service's records lies in the partitions owned."""
        known = sum(len(part.base) for part in self._partitions.values())
        return Extent(known, len(self._partitions) / topics.PARTITIONS)

    @property
    def voided(self) -> frozenset[int]:
        """The partitions that must be taken over anew, because their state is not certain."""
        return frozenset(self._voided)

    @property
    def full(self) -> bool:
        """Whether delivery of everything must pause: too many bytes are held."""
        held = sum(p.bytes_waiting for p in self._partitions.values())
        return held >= self._desk.options.bytes_in_flight

    def held_back(self) -> frozenset[Place]:
        """Return what must not be delivered now.

        A partition that holds too much, alone or because all together do, and the topics of a step
        that may not start: nothing else waits behind it.
        """
        everything = self.full
        limit = self._desk.options.records_in_flight
        held: set[Place] = set()
        for number, part in self._partitions.items():
            unfinished, crowded = 0, False  # asked in every round, so in one pass
            for offsets in part.offsets.values():
                unfinished += offsets.unfinished
                crowded = crowded or offsets.crowded
            if everything or crowded or unfinished >= limit:
                held.update((topic, number) for topic in self.subscribed)
        for topic, (step, _) in self._by_topic.items():
            if self._room(step.name) == 0:
                held.update((topic, number) for number in self._partitions)
        held.update((topic, number) for number in self._voided for topic in self.subscribed)
        return frozenset(held)

    @property
    def busy(self) -> bool:
        """Whether anything runs or could start."""
        return not self._idle.is_set()

    @property
    def failure(self) -> asyncio.Future[None]:
        """Ends with the exception when the worker itself is broken; the process must stop then."""
        return self._failure

    async def idle(self) -> None:
        """Return once nothing runs and nothing could start."""
        await self._idle.wait()
        if self._failure.done():
            self._failure.result()

    # What a host does -------------------------------------------------------------------------

    async def assign(
        self, partitions: Collection[int], commits: Mapping[Place, Commit] | None = None
    ) -> None:
        """Take over partitions: fence the old owner, load schedule and base, then work may start.

        Args:
            commits: the last acknowledged commit of each topic and partition that has one.

        Raises:
            LogUnavailableError: they could not be taken over or loaded; nothing was.
        """
        offsets: dict[int, dict[str, Offsets]] = {number: {} for number in partitions}
        for (topic, number), commit in (commits or {}).items():
            if number in offsets:
                offsets[number][topic] = Offsets.restored(commit)
        await self._take_over(offsets)

    async def retake(self) -> dict[Place, int | None]:
        """Take the voided partitions over anew; the host is sure that the group gave them to it.

        Returns:
            Where each topic must be read on, of the partitions that were taken; None for its
            beginning.

        Raises:
            LogUnavailableError: as `assign`; they stay voided.
        """
        voided = dict(self._voided)
        await self._take_over(voided)
        for number in voided:
            self._voided.pop(number, None)
        return {
            (topic, number): offsets[topic].position if topic in offsets else None
            for number, offsets in voided.items()
            for topic in self.subscribed
        }

    async def _take_over(self, wanted: Mapping[int, dict[str, Offsets]]) -> None:
        states = await self._fence(wanted)
        taken: dict[int, Partition] = {}
        for number, offsets in wanted.items():
            self._epochs += 1
            taken[number] = Partition(number, self._epochs, states[number], offsets)
        try:
            entries = await self._load(taken)
            await self._plan_ticks(taken, entries)
        except BaseException as failed:
            for part in taken.values():
                self._let_go(part)
            if isinstance(failed, OwnershipLost):
                raise LogUnavailableError(f"overtaken while loading: {failed}") from failed
            raise
        # At once: an entry that fires before its partition is owned would never fire again.
        for number, entry in entries.values():
            self._desk.schedule.put(entry, number)
            if entry.carried is not None:
                taken[number].scheduled.add(entry.carried.origin)
        self._partitions.update(taken)
        self.fire_due()

    async def revoke(self, partitions: Collection[int], *, drain_seconds: float) -> None:
        """Give partitions up: start nothing more, let what runs end, cancel the rest.

        The host commits after this returns; it must still be a member of the group then.
        """
        leaving = frozenset(partitions) & frozenset(self._partitions)
        for number in leaving:
            self._partitions[number].draining = True
        self._lanes.drop(leaving)
        running = [t for t, run in self._running.items() if run.work.item.partition in leaving]
        if running:
            _, late = await asyncio.wait(running, timeout=drain_seconds)
            for task in late:
                task.cancel()
            if late:
                self._desk.logger.warning("cancelled after the drain", runs=len(late))
                await asyncio.wait(late, timeout=5)
        if self._recording is not None:
            self._gathered.set()
            await asyncio.wait({self._recording}, timeout=5)

    def forget(self, partitions: Collection[int]) -> None:
        """Drop the state of partitions that were revoked and committed."""
        for number in partitions:
            self._voided.pop(number, None)
            part = self._partitions.pop(number, None)
            if part is not None:
                self._desk.schedule.drop(number)
                self._let_go(part)
        self._settle()

    def lose(self, reason: str) -> None:
        """The group counts this process as no member any more: cancel every run where it is.

        Args:
            reason: "refused" by the group.
        """
        metrics.PARTITIONS_LOST.labels(self.app.name, reason).inc(len(self._partitions))
        leaving = frozenset(self._partitions) | frozenset(self._voided)
        self._lanes.drop(leaving)
        self.forget(leaving)
        for task in self._running:
            task.cancel()

    async def stop(self, *, drain_seconds: float) -> None:
        """Start nothing more and drain everything; `commits` then has the last word."""
        self._stopping = True
        await self.revoke(tuple(self._partitions), drain_seconds=drain_seconds)

    async def abandon(self) -> None:
        """Cancel every run where it is, as a killed process would; nothing is drained."""
        self._stopping = True
        running: list[asyncio.Task[None]] = list(self._running)
        if self._recording is not None:
            running.append(self._recording)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=5)
        await self.released()

    async def released(self) -> None:
        """Return once what was given up is closed; within seconds."""
        if self._letting_go:
            await asyncio.wait(self._letting_go, timeout=10)

    def fail(self, reason: BaseException) -> None:
        """Declare the worker broken; `failure` and `idle` raise it, nothing starts any more."""
        self._stopping = True
        if not self._failure.done():
            self._failure.set_exception(reason)
        self._idle.set()

    def rely_on(self, ended: asyncio.Task[None]) -> None:
        """Take note of how a task ended that nobody awaits: what it raised breaks the worker.

        A done callback for what runs beside the loop; it must not end in silence.
        """
        if not ended.cancelled() and (broken := ended.exception()) is not None:
            self.fail(broken)

    def deliver(self, *records: Record) -> None:
        """Take records in their order; the run of each starts when its key's turn comes."""
        for record in records:
            self._take(record)
        self._pump()

    def _take(self, record: Record) -> None:
        part = self._partitions.get(record.partition)
        if part is None or part.draining:
            return
        offsets = part.offsets.setdefault(record.topic, Offsets())
        if not offsets.delivered(record.offset):
            return
        self._meter.arrived()
        key, item, coalesce = self._lane_of(record)
        if (
            part.scheduled
            and f"{record.topic}:{record.partition}:{record.offset}" in part.scheduled
        ):
            # Only the commit of its offset was lost; the next attempt may be over by now, too.
            offsets.finished(record.offset)
            return
        entry = self._desk.schedule.get(key)
        if isinstance(item.given, Tick) and ticks.answered(entry, item.given.run_id):
            # A run by hand that is over; only the commit of its request was lost.
            offsets.finished(record.offset)
            return
        held = self._waits_in_order(key, coalesce=coalesce)
        spared = self._lanes.add(key, item, coalesce=coalesce, held=held)
        part.bytes_waiting += record.size - spared

    def fire_due(self) -> None:
        """Start what the schedule holds for now."""
        now = self._desk.clock.now()
        for partition, entry in self._desk.schedule.due(now):
            if entry.step not in self._desk.health:
                self._desk.logger.error(
                    "a scheduled step does not exist any more; its entry stays",
                    scheduled_step=entry.step,
                )
                continue
            late = max(0.0, (now - entry.due).total_seconds())
            metrics.DUE_DELAY_SECONDS.labels(self.app.name, entry.kind).observe(late)
            try:
                with spans.due(entry, service=self.app.name, late_seconds=late) as here:
                    item = self._due_item(entry, partition, here)
            except DecodeError as unreadable:
                metrics.UNDECODABLE.labels(self.app.name, "schedule").inc()
                self._desk.logger.error(
                    "a scheduled event fits its topic no longer; its entry stays",
                    scheduled_step=entry.step,
                    reason=str(unreadable),
                )
                continue
            if entry.kind == "dead" and self._lanes.waiting_behind(entry.lane):
                continue  # what waits finds the entry, and settles it
            step = self._desk.step(entry.step)
            coalesce = step.coalesce and entry.entity != ticks.ENTITY
            spared = self._lanes.add(entry.lane, item, coalesce=coalesce)
            if (part := self._partitions.get(partition)) is not None:
                part.bytes_waiting -= spared
        self._pump()

    def commits(self) -> dict[Place, Commit]:
        """Return what may be committed now: (topic, partition) to the commit to make.

        Also of partitions that are void: what they had finished is certain, and whoever has them
        next need not make it again.
        """
        return {
            (topic, number): commit
            for number, by_topic in self._offsets().items()
            for topic, offsets in by_topic.items()
            if (commit := offsets.commit()) is not None
        }

    def committed(self, commits: Mapping[Place, Commit]) -> None:
        """Note that the broker acknowledged these commits."""
        self._last_commit = self._desk.clock.now()
        known = self._offsets()
        for (topic, partition), commit in commits.items():
            offsets = known.get(partition, {}).get(topic)
            if offsets is not None:
                offsets.committed(commit)

    def _offsets(self) -> dict[int, dict[str, Offsets]]:
        return {number: part.offsets for number, part in self._partitions.items()} | self._voided

    def measure(self) -> None:
        """Tell the metrics how much is held and how much waits for its time."""
        held = [o for p in self._partitions.values() for o in p.offsets.values()]
        metrics.RECORDS_IN_FLIGHT.labels(self.app.name).set(sum(o.unfinished for o in held))
        metrics.BYTES_IN_FLIGHT.labels(self.app.name).set(
            sum(p.bytes_waiting for p in self._partitions.values())
        )
        metrics.LANES_RUNNING.labels(self.app.name).set(len(self._running))
        metrics.LANES_READY.labels(self.app.name).set(
            sum(n for step, n in self._lanes.ready_by_step().items() if self._room(step) != 0)
        )
        for kind, count in self._desk.schedule.counts().items():
            metrics.SCHEDULE_ENTRIES.labels(self.app.name, kind).set(count)
        now, overdue = self._desk.clock.now(), dict.fromkeys(self._cron_steps, 0.0)
        for cron in self._desk.crons.values():
            entry = self._desk.schedule.get(cron.lane)
            if entry is not None:
                late = ticks.overdue(entry, now).total_seconds()
                overdue[cron.step] = max(overdue[cron.step], late)
        for step, seconds in overdue.items():
            metrics.CRON_OVERDUE_SECONDS.labels(self.app.name, step).set(seconds)

    def status(self, gates: Sequence[GateState] = ()) -> WorkerStatus:
        """Return how it stands now.

        Args:
            gates: what holds its steps back.
        """
        desk, now = self._desk, self._desk.clock.now()
        return status_of(
            WorkerFacts(
                service=self.app.name,
                instance=desk.options.instance,
                code_version=desk.options.code_version,
                now=now,
                began=self._began,
                draining=self._stopping,
                partitions=self._partitions,
                running=[self._running_lane(run) for run in self._running.values()],
                ready_by_step=self._lanes.ready_by_step(),
                waiting=self._lanes.waiting,
                in_flight=sum(
                    o.unfinished for p in self._partitions.values() for o in p.offsets.values()
                ),
                entries=desk.schedule,
                schedule=desk.schedule.counts(),
                gates=gates,
                circuits=() if self._circuits is None else self._circuits.states(),
                needs={step.name: step.needs for step in self.app.steps},
                rates=self._meter.rates(),
                last_commit=self._last_commit,
            )
        )

    def _running_lane(self, run: Underway) -> RunningLane:
        entry = self._desk.schedule.get(run.work.key)
        return RunningLane.of(
            run.work.key,
            run.work.item.position,
            started=run.began,
            attempt=1 if entry is None else entry.attempt + 1,
            behind=self._lanes.waiting_behind(run.work.key),
        )

    # From a record to its lane ----------------------------------------------------------------

    def _lane_of(self, record: Record) -> tuple[LaneKey, Item, bool]:
        position = Position(record.topic, record.partition, record.offset)
        try:
            if record.topic == self._requests.name:
                step, given, event, source, envelope = self._requested(record)
                cause: Cause = "request"
            else:
                step, topic = self._by_topic[record.topic]
                event, envelope = codec.decode(topic, record)
                given, cause, source = event, "record", record.topic
            _at_home(record)
        except DecodeError as unreadable:
            item = Item(
                Unreadable(record, str(unreadable)),
                None,
                codec.envelope(record),
                record.partition,
                "record",
                position,
                record.topic,
                record.size,
            )
            # In the step's own lanes: a halt keeps what cannot be read from the dead letters, too.
            name = (
                "" if record.topic == self._requests.name else self._by_topic[record.topic][0].name
            )
            self._desk.gates.unreadable(name, repr(record.key or position))
            return LaneKey(name, "unreadable", f"{position}"), item, False
        self._desk.gates.readable(step.name)
        item = Item(
            given,
            event,
            envelope,
            record.partition,
            cause,
            position,
            source,
            record.size,
            replay=record.headers.get(codec.REPLAY, "") if cause == "request" else "",
            origin=record.headers.get(codec.ORIGIN, "") if cause == "request" else "",
        )
        if isinstance(given, Tick):
            # Each by itself: a run by hand does not answer the instant it waits beside.
            return LaneKey(step.name, ticks.ENTITY, event.key), item, False
        return LaneKey(step.name, event.entity, event.key), item, step.coalesce

    def _requested(
        self, record: Record
    ) -> tuple[Step[Any, Any, D], object, Event, str, codec.Envelope]:
        """Return what is asked for: the step, what it takes, the event and its topic."""
        asked, envelope = codec.decode(self._requests, record)
        step = self._functions.get(asked.function_id)
        if step is None:
            raise DecodeError(f"{record.topic}: it asks for a function that is not declared")
        if step.cron_triggers:
            tick = Tick(self._desk.clock.now(), asked.run_id, manual=True)
            return step, tick, asked, record.topic, envelope
        if not step.queue_triggers or asked.requested is None:
            raise DecodeError(
                f"{record.topic}: {asked.function_id} cannot be run with this request"
            )
        number = int(asked.function_id.rpartition("::")[2])
        topic = next(
            (t.topic for t in step.queue_triggers if t.topic.name == asked.topic),
            step.queue_triggers[number].topic,
        )
        try:
            event = topic.event.model_validate(asked.requested)
        except ValueError:
            raise DecodeError(
                f"{record.topic}: the requested event is no {topic.event.__name__}"
            ) from None
        if event.key != asked.subject:
            raise DecodeError(f"{record.topic}: the request's subject is not its event's key")
        return step, event, event, topic.name, envelope

    def _due_item(self, entry: ScheduleEntry, partition: int, here: tracing.Trace) -> Item:
        step = self._desk.step(entry.step)
        if entry.kind == "dead":
            return Item(
                Forget(), None, codec.Envelope(entry.chain), partition, "due", due=entry.due
            )
        if entry.carried is None:
            tick = ticks.tick_of(entry)
            envelope = codec.Envelope(tick.run_id, traceparent=here.header)
            return Item(tick, None, envelope, partition, "due", due=entry.due)
        carried = entry.carried
        envelope = codec.Envelope(
            event_id=carried.headers.get("ce_id", entry.chain),
            type=carried.headers.get("ce_type", ""),
            traceparent=carried.headers.get("traceparent", ""),
        )
        topic = next(
            (t.topic for t in step.queue_triggers if t.topic.name == carried.topic),
            step.queue_triggers[0].topic,
        )
        event = codec.decode_value(topic, carried.value.encode())
        return Item(
            event,
            event,
            envelope,
            partition,
            "due",
            topic=carried.topic,
            due=entry.due,
            origin=carried.headers.get(codec.ORIGIN, ""),
        )

    # Runs -------------------------------------------------------------------------------------

    def _owns(self, partition: Partition) -> bool:
        current = self._partitions.get(partition.number)
        return current is not None and current.epoch == partition.epoch and self._lease()

    def _room(self, step: str) -> int | None:
        """Return how many runs of a step may be under way; the narrowest limit counts."""
        limit = self._desk.gates.room(step)
        if self._circuits is None or not step:
            return limit
        needs = self._desk.step(step).needs
        room = self._circuits.room(needs) if needs else None
        if limit is None or room is None:
            return limit if room is None else room
        return min(limit, room)

    def _lost(self, part: Partition) -> None:
        """Void a partition: cancel its runs, keep what is known to be finished, for `retake`."""
        current = self._partitions.get(part.number)
        if current is not part or part.draining:
            return
        metrics.PARTITIONS_LOST.labels(self.app.name, "unknown").inc()
        self._desk.logger.warning(
            "the state of a partition is not certain; it is taken over anew", partition=part.number
        )
        del self._partitions[part.number]
        self._voided[part.number] = {
            topic: offsets.rewound() for topic, offsets in part.offsets.items()
        }
        self._lanes.drop({part.number})
        self._desk.schedule.drop(part.number)
        self._let_go(part)
        itself = asyncio.current_task()
        for task, run in self._running.items():
            if run.work.item.partition == part.number and task is not itself:
                task.cancel()

    def _let_go(self, part: Partition) -> None:
        closing = asyncio.create_task(part.state.close())
        self._letting_go.add(closing)
        closing.add_done_callback(self._letting_go.discard)

    def _waits_in_order(self, key: LaneKey, *, coalesce: bool) -> bool:
        """Whether what follows for a key must wait, because an earlier event is still to be tried.

        Where one run answers for all that waits, a later event may go first. Where each event
        counts, running it first would break the order, and its success would drop the earlier one.
        """
        if coalesce:
            return False
        entry = self._desk.schedule.get(key)
        return entry is not None and entry.carried is not None

    def _pump(self) -> None:
        while (
            self._lanes.waiting
            and len(self._running) < self._desk.options.concurrency
            and len(self._closing) < JOURNALS_TOGETHER
            and not self._stopping
            and not self._desk.holding
            and self._lease()
            and (work := self._lanes.take(self._room)) is not None
        ):
            task = asyncio.create_task(self._work(work), name=f"{self.app.name} {work.key.step}")
            self._running[task] = Underway(work, self._desk.clock.now())
            task.add_done_callback(self._ended)
        self._settle()

    def _ended(self, task: asyncio.Task[None]) -> None:
        ended = self._running.pop(task)
        key = ended.work.key
        took = (self._desk.clock.now() - ended.began).total_seconds()
        self._meter.finished(took, len(ended.work.positions))
        coalesce = not key.step or self._desk.step(key.step).coalesce
        self._lanes.finish(key, held=self._waits_in_order(key, coalesce=coalesce))
        self.rely_on(task)
        self._pump()

    def _settle(self) -> None:
        """Say whether anything is left to do now; asked at every record, so it stops early."""
        if self._running or self._closing or self._startable():
            self._idle.clear()
        else:
            self._idle.set()

    def _startable(self) -> bool:
        return not self._stopping and any(
            self._room(step) != 0 for step in self._lanes.ready_by_step()
        )

    async def _work(self, work: Work) -> None:
        part = self._partitions.get(work.item.partition)
        if part is None or part.draining:
            return
        if isinstance(work.item.given, Forget):
            with suppress(OwnershipLost):  # whoever owns the partition forgets it
                await self._pipeline.forget(work, part)
            _finish(part, work)
            return
        begun: ticks.Begun | None = None
        if isinstance(work.item.given, Tick):
            cron, entry = self._desk.crons[work.key.entity_id], self._desk.schedule.get(work.key)
            begun = ticks.begin(cron, entry, work.item.given, self._desk.clock.now())
            if begun.how == "stale":
                _finish(part, work)
                return
            work = work._replace(item=work.item._replace(given=begun.tick))
        run = Run(self._desk, part, work, begun)
        closing: Closing | None = None
        try:
            if isinstance(work.item.given, Unreadable):
                await self._pipeline.bury(work.item.given, run)
            elif not run.overtaken:
                closing = await self._pipeline.carry_out(work, run)
        except OwnershipLost as lost:
            run.logger.warning(
                "the run ended; its partition is not certainly ours any more", error=str(lost)
            )
            self._lost(part)
            return
        if closing is None:
            _finish(part, work)
        else:
            self._close(part, work, closing)

    def _close(self, part: Partition, work: Work, closing: Closing) -> None:
        """Let the journal be written beside the runs that follow."""
        self._closing.append((part, work, closing))
        if len(self._closing) >= JOURNALS_GATHERED:
            self._gathered.set()
        if self._recording is None or self._recording.done():
            self._recording = asyncio.create_task(self._record())
            self._recording.add_done_callback(self.rely_on)

    async def _record(self) -> None:
        """Write the journal of runs that left nothing else to write, many at once.

        The next run of a key starts meanwhile; the offsets are finished when this is acknowledged.
        """
        while self._closing:
            await self._gather()
            batch = list(islice(self._closing, JOURNALS_TOGETHER))
            await self._append_journals(batch)
            for part, work, closing in batch:
                closing.then()
                _finish(part, work)
                self._closing.popleft()
                # What arrives meanwhile need not wait for all of them.
                await asyncio.sleep(0)
            self._pump()

    async def _gather(self) -> None:
        """Let more runs end for a moment, so that one append serves them all."""
        seconds = self._desk.options.journal_seconds
        if seconds and len(self._closing) < JOURNALS_GATHERED and not self._stopping:
            self._gathered.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._gathered.wait()

    async def _append_journals(self, batch: Sequence[tuple[Partition, Work, Closing]]) -> None:
        pause = 0.5
        while True:
            # Of a partition that is lost the record runs again elsewhere, and tells of itself there.
            ours = [closing.journal for part, _, closing in batch if self._owns(part)]
            try:
                await self._desk.log.append(ours)
            except LogUnavailableError as down:
                await self._desk.pause(down, pause)
                pause = min(pause * 2, 5.0)
            else:
                return

    # Loading ----------------------------------------------------------------------------------

    async def _load(self, taken: Mapping[int, Partition]) -> Entries:
        """Read the base into its partitions; return what is due later in them."""
        entries: Entries = {}
        starts = {
            (topic, number): 0
            for number in taken
            for topic in (self._desk.schedule_topic, self._desk.base_topic)
        }
        if not starts:
            return entries
        async for record in self._desk.log.read(starts):
            if record.key is None:
                continue
            if record.topic == self._desk.base_topic:
                base = taken[record.partition].base
                if record.value is None:
                    base.pop(record.key, None)
                else:
                    base[record.key] = record.value
                continue
            if record.value is None:
                entries.pop(record.key, None)
                continue
            try:
                entries[record.key] = (record.partition, ScheduleEntry.from_bytes(record.value))
            except DecodeError as unreadable:
                entries.pop(record.key, None)
                metrics.UNDECODABLE.labels(self.app.name, "schedule").inc()
                self._desk.logger.error(
                    "an unreadable schedule entry was passed over",
                    origin=f"{record.topic}:{record.partition}:{record.offset}",
                    reason=str(unreadable),
                )
        return entries

    async def _fence(self, numbers: Iterable[int]) -> dict[int, State]:
        """Become the only writer of each partition's state."""
        asked = {
            number: asyncio.create_task(self._desk.log.take_over(self.app.name, number))
            for number in numbers
        }
        try:
            return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        except BaseException:
            for task in asked.values():
                task.cancel()
            for state in await asyncio.gather(*asked.values(), return_exceptions=True):
                if not isinstance(state, BaseException):
                    await state.close()
            raise

    async def _plan_ticks(self, taken: Mapping[int, Partition], entries: Entries) -> None:
        """Give every cron of these partitions an entry that fits; forget those that are gone."""
        now = self._desk.clock.now()
        for function_id, cron in self._desk.crons.items():
            number = codec.partition_of(function_id.encode())
            if number not in taken:
                continue
            _, before = entries.get(cron.lane.to_bytes(), (number, None))
            entry = ticks.planned(cron, before, now)
            if entry is None:
                continue
            if before is not None:
                self._desk.logger.warning(
                    "a cron's pending instant does not fit its expression any more",
                    function_id=function_id,
                    was=before.due.isoformat(timespec="seconds"),
                    due=entry.due.isoformat(timespec="seconds"),
                )
            await self._keep_entry(taken[number], cron.lane, entry)
            entries[cron.lane.to_bytes()] = (number, entry)
        found = [entry for _, entry in entries.values()]
        for gone in ticks.orphans(found, self._desk.crons):
            number, _ = entries.pop(gone.lane.to_bytes())
            self._desk.logger.warning(
                "a cron is declared no more; its entry is forgotten", function_id=gone.entity_id
            )
            await self._keep_entry(taken[number], gone.lane, None)

    async def _keep_entry(self, part: Partition, key: LaneKey, entry: ScheduleEntry | None) -> None:
        value = None if entry is None else entry.to_bytes()
        topic = self._desk.schedule_topic
        await part.state.write([Outgoing(topic, key.to_bytes(), value, {}, part.number)])


def _finish(part: Partition, work: Work) -> None:
    for position in work.positions:
        part.offsets[position.topic].finished(position.offset)
    part.bytes_waiting -= work.size


def _at_home(record: Record) -> None:
    """Return if the record, whose key names its event's, lies in the key's partition.

    Raises:
        DecodeError: it does not; two workers could then work on one record.
    """
    if codec.partition_of(record.key or b"") != record.partition:
        raise DecodeError(
            f"{record.topic}: it lies in partition {record.partition}, where its key does not belong"
        )
