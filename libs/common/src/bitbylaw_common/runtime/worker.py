"""The worker: one app's consuming side, from a delivered record to its committed offset.

A host feeds it (`assign`, `deliver`, `fire_due`, `revoke`) and commits what `commits` returns.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Generic, TypeVar

from bitbylaw_common import metrics, topics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import DecodeError, OwnershipLost
from bitbylaw_common.events import Event
from bitbylaw_common.kafka import codec
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.desk import Desk, Partition, StepHealth, Unreadable, WorkerOptions
from bitbylaw_common.runtime.lanes import Cause, Item, LaneKey, Lanes, Work
from bitbylaw_common.runtime.offsets import Offsets
from bitbylaw_common.runtime.pipeline import Pipeline, Run, new_run_id, next_tick
from bitbylaw_common.runtime.ports import Locks, Log, Outgoing, Position, Record
from bitbylaw_common.runtime.schedule import Schedule, ScheduleEntry
from bitbylaw_common.runtime.step import Step
from bitbylaw_common.runtime.triggers import Tick

D = TypeVar("D")


class Worker(Generic[D]):
    """One app at work on the partitions it owns. Lives on one event loop."""

    def __init__(
        self,
        app: App[D],
        deps: D,
        *,
        log: Log,
        clock: Clock,
        locks: Locks,
        options: WorkerOptions,
    ) -> None:
        self.app = app
        self._desk = Desk(
            app,
            deps,
            log,
            clock,
            locks,
            options,
            owns=self._owns,
            released=self._pump,
            logger=step_logger(service=app.name),
        )
        self._pipeline = Pipeline(self._desk)
        self._lanes = Lanes()
        self._partitions: dict[int, Partition] = {}
        self._epochs = 0
        self._running: dict[asyncio.Task[None], Work] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
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
        self._requests = topics.requests(app.name)
        # Set for every record: the labels are looked up once.
        self._running_gauge = metrics.LANES_RUNNING.labels(app.name)
        self._ready_gauge = metrics.LANES_READY.labels(app.name)

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
    def partitions(self) -> frozenset[int]:
        """The partitions owned and loaded."""
        return frozenset(self._partitions)

    @property
    def full(self) -> bool:
        """Whether delivery must pause: too many records or bytes are held."""
        unfinished = sum(
            o.unfinished for p in self._partitions.values() for o in p.offsets.values()
        )
        held = sum(p.bytes_waiting for p in self._partitions.values())
        return (
            unfinished >= self._desk.options.records_in_flight
            or held >= self._desk.options.bytes_in_flight
        )

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

    async def assign(self, partitions: Collection[int]) -> None:
        """Take over partitions: load schedule and base to their ends, then work may start.

        Raises:
            LogUnavailableError: they could not be loaded; nothing was taken over.
        """
        taken: dict[int, Partition] = {}
        for number in partitions:
            self._epochs += 1
            taken[number] = Partition(number, self._epochs)
        entries = await self._load(taken)
        self._partitions.update(taken)
        for number, entry in entries.values():
            self._desk.schedule.put(entry, number)
        await self._plan_ticks(frozenset(taken))
        self.fire_due()

    async def revoke(self, partitions: Collection[int], *, drain_seconds: float) -> None:
        """Give partitions up: start nothing more, let what runs end, cancel the rest.

        The host commits after this returns; it must still be a member of the group then.
        """
        leaving = frozenset(partitions) & frozenset(self._partitions)
        for number in leaving:
            self._partitions[number].draining = True
        self._lanes.drop(leaving)
        running = [t for t, work in self._running.items() if work.item.partition in leaving]
        if running:
            _, late = await asyncio.wait(running, timeout=drain_seconds)
            for task in late:
                task.cancel()
            if late:
                self._desk.logger.warning("cancelled after the drain", runs=len(late))
                await asyncio.wait(late, timeout=5)

    def forget(self, partitions: Collection[int]) -> None:
        """Drop the state of partitions that were revoked and committed."""
        for number in partitions:
            if self._partitions.pop(number, None) is not None:
                self._desk.schedule.drop(number)
        self._settle()

    async def stop(self, *, drain_seconds: float) -> None:
        """Start nothing more and drain everything; `commits` then has the last word."""
        self._stopping = True
        await self.revoke(tuple(self._partitions), drain_seconds=drain_seconds)

    async def abandon(self) -> None:
        """Cancel every run where it is, as a killed process would; nothing is drained."""
        self._stopping = True
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=5)

    def fail(self, reason: BaseException) -> None:
        """Declare the worker broken; `failure` and `idle` raise it, nothing starts any more."""
        self._stopping = True
        if not self._failure.done():
            self._failure.set_exception(reason)
        self._idle.set()

    def deliver(self, record: Record) -> None:
        """Take one record; its run starts when its key's turn comes."""
        part = self._partitions.get(record.partition)
        if part is None or part.draining:
            return
        if not part.offsets.setdefault(record.topic, Offsets()).delivered(record.offset):
            return
        part.bytes_waiting += record.size
        key, item, coalesce = self._lane_of(record)
        self._lanes.add(key, item, coalesce=coalesce)
        self._pump()

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
                item = self._due_item(entry, partition)
            except DecodeError as unreadable:
                metrics.UNDECODABLE.labels(self.app.name, "schedule").inc()
                self._desk.logger.error(
                    "a scheduled event fits its topic no longer; its entry stays",
                    scheduled_step=entry.step,
                    reason=str(unreadable),
                )
                continue
            step = self._desk.step(entry.step)
            self._lanes.add(entry.lane, item, coalesce=step.coalesce)
        self._pump()

    def commits(self) -> dict[tuple[str, int], int]:
        """Return what may be committed now: (topic, partition) to the next offset to read."""
        return {
            (topic, part.number): offset
            for part in self._partitions.values()
            for topic, offsets in part.offsets.items()
            if (offset := offsets.committable) is not None
        }

    def committed(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Note that the broker acknowledged this commit."""
        for (topic, partition), offset in offsets.items():
            part = self._partitions.get(partition)
            if part is not None and topic in part.offsets:
                part.offsets[topic].committed(offset)

    def measure(self) -> None:
        """Tell the metrics how much is held and how much waits for its time."""
        held = [o for p in self._partitions.values() for o in p.offsets.values()]
        metrics.RECORDS_IN_FLIGHT.labels(self.app.name).set(sum(o.unfinished for o in held))
        metrics.BYTES_IN_FLIGHT.labels(self.app.name).set(
            sum(p.bytes_waiting for p in self._partitions.values())
        )
        for kind, count in self._desk.schedule.counts().items():
            metrics.SCHEDULE_ENTRIES.labels(self.app.name, kind).set(count)

    # From a record to its lane ----------------------------------------------------------------

    def _lane_of(self, record: Record) -> tuple[LaneKey, Item, bool]:
        position = Position(record.topic, record.partition, record.offset)
        try:
            if record.topic == self._requests.name:
                step, given, event, cause, envelope = self._requested(record)
            else:
                step, topic = self._by_topic[record.topic]
                event, envelope = codec.decode(topic, record)
                given, cause = event, "record"
            _at_home(event, record)
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
            return LaneKey("", "unreadable", f"{position}"), item, False
        item = Item(
            given,
            event,
            envelope,
            record.partition,
            cause,
            position,
            record.topic,
            record.size,
        )
        entity = "cron" if isinstance(given, Tick) else event.entity
        return LaneKey(step.name, entity, event.key), item, step.coalesce

    def _requested(
        self, record: Record
    ) -> tuple[Step[Any, Any, D], object, Event, Cause, codec.Envelope]:
        asked, envelope = codec.decode(self._requests, record)
        step = self._functions.get(asked.function_id)
        if step is None:
            raise DecodeError(f"{record.topic}: it asks for a function that is not declared")
        if step.cron_triggers:
            tick = Tick(self._desk.clock.now(), asked.run_id, manual=True)
            return step, tick, asked, "request", envelope
        if not step.queue_triggers or asked.requested is None:
            raise DecodeError(
                f"{record.topic}: {asked.function_id} cannot be run with this request"
            )
        topic = step.queue_triggers[0].topic
        try:
            event = topic.event.model_validate(asked.requested)
        except ValueError:
            raise DecodeError(
                f"{record.topic}: the requested event is no {topic.event.__name__}"
            ) from None
        if event.key != asked.subject:
            raise DecodeError(f"{record.topic}: the request's subject is not its event's key")
        return step, event, event, "request", envelope

    def _due_item(self, entry: ScheduleEntry, partition: int) -> Item:
        step = self._desk.step(entry.step)
        if entry.carried is None:
            run_id = new_run_id()
            return Item(Tick(entry.due, run_id), None, codec.Envelope(run_id), partition, "due")
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
        return Item(event, event, envelope, partition, "due", None, carried.topic)

    # Runs -------------------------------------------------------------------------------------

    def _owns(self, partition: Partition) -> bool:
        current = self._partitions.get(partition.number)
        return current is not None and current.epoch == partition.epoch

    def _pump(self) -> None:
        while (
            not self._stopping
            and not self._desk.holding
            and len(self._running) < self._desk.options.concurrency
            and (work := self._lanes.take()) is not None
        ):
            task = asyncio.create_task(self._work(work), name=f"{self.app.name} {work.key.step}")
            self._running[task] = work
            task.add_done_callback(self._ended)
        self._settle()

    def _ended(self, task: asyncio.Task[None]) -> None:
        work = self._running.pop(task)
        self._lanes.finish(work.key)
        if not task.cancelled() and (broken := task.exception()) is not None:
            self.fail(broken)
        self._pump()

    def _settle(self) -> None:
        self._running_gauge.set(len(self._running))
        self._ready_gauge.set(self._lanes.ready)
        if self._running or (self._lanes.ready and not self._stopping):
            self._idle.clear()
        else:
            self._idle.set()

    async def _work(self, work: Work) -> None:
        part = self._partitions.get(work.item.partition)
        if part is None or part.draining:
            return
        run = Run(self._desk, part, work)
        try:
            if isinstance(work.item.given, Unreadable):
                await self._pipeline.bury(work.item.given, run)
            elif not run.answered:
                await self._pipeline.carry_out(work, run)
        except OwnershipLost:
            run.logger.warning("the partition went to another worker; nothing more was written")
            return
        for position in work.positions:
            part.offsets[position.topic].finished(position.offset)
        part.bytes_waiting -= work.size

    # Loading ----------------------------------------------------------------------------------

    async def _load(
        self, taken: Mapping[int, Partition]
    ) -> dict[tuple[int, bytes], tuple[int, ScheduleEntry]]:
        entries: dict[tuple[int, bytes], tuple[int, ScheduleEntry]] = {}
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
            place = (record.partition, record.key)
            if record.value is None:
                entries.pop(place, None)
                continue
            try:
                entries[place] = (record.partition, ScheduleEntry.from_bytes(record.value))
            except DecodeError as unreadable:
                entries.pop(place, None)
                metrics.UNDECODABLE.labels(self.app.name, "schedule").inc()
                self._desk.logger.error(
                    "an unreadable schedule entry was passed over",
                    origin=f"{record.topic}:{record.partition}:{record.offset}",
                    reason=str(unreadable),
                )
        return entries

    async def _plan_ticks(self, partitions: frozenset[int]) -> None:
        """Give every cron of these partitions its next tick, if the schedule has none."""
        now = self._desk.clock.now()
        for step in self.app.steps:
            for number, _ in enumerate(step.cron_triggers):
                function_id = step.function_id(number)
                partition = codec.partition_of(function_id.encode())
                key = LaneKey(step.name, "cron", function_id)
                if partition not in partitions or self._desk.schedule.get(key) is not None:
                    continue
                entry = next_tick(step, function_id, now)
                await self._desk.log.append(
                    [
                        Outgoing(
                            self._desk.schedule_topic,
                            key.to_bytes(),
                            entry.to_bytes(),
                            {},
                            partition,
                        )
                    ]
                )
                self._desk.schedule.put(entry, partition)


def _at_home(event: Event, record: Record) -> None:
    """Return if the record lies in its key's partition.

    Raises:
        DecodeError: it does not; two workers could then work on one record.
    """
    if codec.partition_of(event.key.encode()) != record.partition:
        raise DecodeError(
            f"{record.topic}: it lies in partition {record.partition}, where its key does not belong"
        )
