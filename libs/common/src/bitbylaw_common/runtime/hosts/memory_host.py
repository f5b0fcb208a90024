"""The whole system in one process and no time at all: topics are lists, time is a number.

The same worker and pipeline as on Kafka run here, so a test of a flow is a test of the product.
What was not acknowledged is lost in `crash`, as it would be there.
"""

import asyncio
import heapq
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from bitbylaw_common.errors import LogUnavailableError, OwnershipLost
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.locks import NoLocks
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.dead_letters import DeadLetter
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.http_run import http_run
from bitbylaw_common.runtime.offsets import Commit
from bitbylaw_common.runtime.ports import Locks, Outgoing, Position, Record
from bitbylaw_common.runtime.triggers import ApiRequest, ApiResponse, HttpTrigger
from bitbylaw_common.runtime.worker import Place, Worker
from bitbylaw_common.topics import JOURNAL, PARTITIONS, dlq

SETTLE_SECONDS = 20.0
"""Real seconds after which a world that does not come to rest is called stuck."""


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, start: datetime = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)) -> None:
        self._start = start
        self._seconds = 0.0
        self._serial = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the virtual instant."""
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """Return the virtual seconds since the start."""
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was moved on by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        self._serial += 1
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._seconds + seconds, self._serial, woken))
        await woken

    def next_sleeper(self) -> float | None:
        """Return in how many seconds the next sleeper wakes; None when nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] - self._seconds if self._sleepers else None

    def move(self, seconds: float) -> None:
        """Go on, and wake who slept until then."""
        self._seconds += seconds
        while self._sleepers and self._sleepers[0][0] <= self._seconds:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)


class MemoryState:
    """The state of one partition on a `MemoryLog`; refused once somebody else took it over."""

    def __init__(self, log: "MemoryLog", name: str, epoch: int) -> None:
        self._log = log
        self._name = name
        self._epoch = epoch

    async def write(self, records: Sequence[Outgoing]) -> None:
        """See `State.write`."""
        if self._log.epochs[self._name] != self._epoch:
            raise OwnershipLost(f"{self._name} is written by another worker now")
        await self._log.append(records)

    async def close(self) -> None:
        """See `State.close`."""


class MemoryLog:
    """Topics as lists. Appending acknowledges at once, unless told to fail.

    Attributes:
        failing: while True nothing is stored and every append is refused.
        epochs: how often each state was taken over, by `{service}.state.{partition}`.
        on_append: called before records are stored; may raise what a crash would.
        on_stored: called after records are stored, before anyone learns of it; likewise.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._records: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        self.epochs: defaultdict[str, int] = defaultdict(int)
        self.failing = False
        self.on_append: Callable[[Sequence[Outgoing]], None] = _nothing
        self.on_stored: Callable[[Sequence[Outgoing]], None] = _nothing

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        """Store all; see `Log.append`."""
        await asyncio.sleep(0)
        self.on_append(records)
        if self.failing:
            raise LogUnavailableError("the log was told to fail")
        positions = [self._store(record) for record in records]
        self.on_stored(records)
        return positions

    async def take_over(self, service: str, partition: int) -> MemoryState:
        """Fence who wrote this state before; see `Log.take_over`."""
        name = f"{service}.state.{partition}"
        self.epochs[name] += 1
        return MemoryState(self, name, self.epochs[name])

    def _store(self, record: Outgoing) -> Position:
        number = codec.partition_of(record.key) if record.partition is None else record.partition
        place = self._records[record.topic, number]
        stored = Record(
            record.topic,
            number,
            len(place),
            record.key,
            record.value,
            dict(record.headers),
            self._clock.now(),
        )
        place.append(stored)
        return Position(stored.topic, stored.partition, stored.offset)

    async def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """Yield to the ends as they are now; see `Log.read`."""
        wanted = {place: list(self._records[place][start:]) for place, start in starts.items()}
        for records in wanted.values():
            for record in records:
                yield record

    def since(self, topic: str, partition: int, offset: int) -> list[Record]:
        """Return the records of a partition from `offset` on."""
        return self._records[topic, partition][offset:]

    def records(self, topic: str) -> list[Record]:
        """Return a topic's records, partition by partition."""
        return [r for p in range(PARTITIONS) for r in self._records[topic, p]]


def _nothing(_records: Sequence[Outgoing]) -> None:
    return None


@dataclass
class _Member:
    """One running app: a worker if it consumes, its routes, and how far it was read."""

    app: App[Any]
    env: Mapping[str, str]
    deps: Any
    opened: AsyncExitStack
    worker: Worker[Any] | None
    positions: dict[tuple[str, int], int] = field(default_factory=dict)


class MemoryHost:
    """Hosts apps on a `MemoryLog` and a `ManualClock`. An async context manager's worth of world.

    Args:
        options: of every worker.
        locks: shared by all workers; none by default.
    """

    def __init__(self, *, options: WorkerOptions | None = None, locks: Locks | None = None) -> None:
        self.clock = ManualClock()
        self.log = MemoryLog(self.clock)
        self._options = options or WorkerOptions()
        self._locks: Locks = locks or NoLocks()
        self._members: dict[str, _Member] = {}
        self._committed: dict[str, dict[Place, Commit]] = defaultdict(dict)

    async def start(self, app: App[Any], env: Mapping[str, str] | None = None) -> None:
        """Open the app's dependencies and take over all partitions."""
        opened = AsyncExitStack()
        deps = await opened.enter_async_context(app.open_deps(env or {}))
        worker = None
        if app.works_on_records:
            worker = Worker(
                app,
                deps,
                log=self.log,
                clock=self.clock,
                locks=self._locks,
                options=self._options,
            )
            await worker.assign(range(PARTITIONS), self._committed[app.name])
        self._members[app.name] = _Member(app, env or {}, deps, opened, worker)

    async def crash(self, name: str) -> None:
        """Kill an app as SIGKILL does: its runs end where they are, nothing more is written."""
        member = self._members.pop(name)
        if member.worker is not None:
            member.worker.forget(range(PARTITIONS))
            await member.worker.abandon()
        await member.opened.aclose()

    async def restart(self, name: str) -> None:
        """Crash an app and start it again from what was committed."""
        member = self._members[name]
        await self.crash(name)
        await self.start(member.app, member.env)

    async def stop(self) -> None:
        """Drain and stop every app, in the order a rolling update would."""
        for name in list(self._members):
            member = self._members.pop(name)
            if member.worker is not None:
                await member.worker.stop(drain_seconds=1)
                self._commit(member)
                member.worker.forget(range(PARTITIONS))
            await member.opened.aclose()

    def worker(self, name: str) -> Worker[Any]:
        """Return a consuming app's worker."""
        worker = self._members[name].worker
        if worker is None:
            raise KeyError(f"{name} does not consume")
        return worker

    async def request(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> ApiResponse:
        """Send an HTTP request to whichever app has the route; no socket is opened.

        Raises:
            KeyError: no app has it.
        """
        for member in self._members.values():
            for step in member.app.steps:
                for trigger in step.http_triggers:
                    match = _pattern(trigger.path).fullmatch(path)
                    if trigger.method == method and match:
                        run = http_run(member.app, step, member.deps, self.log, self.clock)
                        lower = {name.lower(): value for name, value in (headers or {}).items()}
                        return await run(
                            ApiRequest(
                                method,
                                path,
                                _body(trigger, body),
                                body,
                                lower,
                                path_params=match.groupdict(),
                            )
                        )
        raise KeyError(f"no app has the route {method} {path}")

    async def settle(self) -> None:
        """Deliver and run until nothing is left to do now.

        Raises:
            TimeoutError: it does not come to rest within `SETTLE_SECONDS` real seconds.
            BaseException: what broke a worker, such as the death a test put there.
        """
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                moved = False
                for member in list(self._members.values()):
                    moved = await self._turn(member) or moved
                if not moved:
                    return

    async def advance(self, **span: float) -> None:
        """Let time pass, as `timedelta(**span)`, stopping at every instant something is due."""
        end = self.clock.now() + timedelta(**span)
        await self.settle()
        while (left := (end - self.clock.now()).total_seconds()) > 0:
            step = self.next_event()
            self.clock.move(left if step is None else min(step, left))
            await self.settle()

    def nudge(self) -> bool:
        """Deliver what is new, start what is due, commit what is done; say whether any moved."""
        moved = [self._nudge(member) for member in list(self._members.values())]
        return any(moved)

    def next_event(self) -> float | None:
        """Return in how many seconds the clock has something to do; None when it has nothing."""
        now = self.clock.now()
        times = [
            (due - now).total_seconds()
            for member in self._members.values()
            if member.worker is not None and (due := member.worker.schedule.next_due()) is not None
        ]
        sleeper = self.clock.next_sleeper()
        if sleeper is not None:
            times.append(sleeper)
        return max(0.0, min(times)) if times else None

    def _nudge(self, member: _Member) -> bool:
        worker = member.worker
        if worker is None:
            return False
        moved = False
        held = worker.held_back()
        for topic in worker.subscribed:
            for number in worker.partitions:
                place = (topic, number)
                if place in held:
                    continue
                start = member.positions.get(place)
                if start is None:
                    commit = self._committed[member.app.name].get(place)
                    start = 0 if commit is None else commit.offset
                for record in self.log.since(topic, number, start):
                    worker.deliver(record)
                    member.positions[place] = record.offset + 1
                    moved = True
        worker.fire_due()
        return self._commit(member) or moved

    async def _turn(self, member: _Member) -> bool:
        """Let one app come to rest, moving the clock for runs that sleep on it."""
        await self._retake(member)
        moved = self._nudge(member)
        worker = member.worker
        if worker is None:
            return moved
        moved = worker.busy or moved
        while True:
            resting = asyncio.ensure_future(worker.idle())
            done, _ = await asyncio.wait({resting}, timeout=0.02)
            if done:
                resting.result()
                return self._commit(member) or moved
            resting.cancel()
            sleeper = self.clock.next_sleeper()
            if sleeper is not None:
                self.clock.move(sleeper)

    async def _retake(self, member: _Member) -> None:
        """Take over anew what lost its state, and read on from there."""
        if member.worker is not None and member.worker.voided:
            for place, start in (await member.worker.retake()).items():
                member.positions[place] = start or 0

    def _commit(self, member: _Member) -> bool:
        if member.worker is None:
            return False
        commits = member.worker.commits()
        self._committed[member.app.name].update(commits)
        member.worker.committed(commits)
        return bool(commits)

    # What a test looks at ---------------------------------------------------------------------

    def journal(self, entity_id: str) -> list[JournalEntry]:
        """Return what the journal says about a record, in order."""
        entries = [
            JournalEntry.model_validate_json(record.value)
            for record in self.log.records(JOURNAL.name)
            if record.value is not None
        ]
        return [entry for entry in entries if entry.entity_id == entity_id]

    def dead_letters(self, service: str) -> list[DeadLetter]:
        """Return a service's dead letters."""
        return [
            DeadLetter.from_bytes(record.value)
            for record in self.log.records(dlq(service).name)
            if record.value is not None
        ]


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))


def _body(trigger: HttpTrigger[Any], body: bytes) -> Any:
    match trigger.kind:
        case "bytes":
            return body
        case "model":
            return TypeAdapter(trigger.model).validate_json(body)
        case "stream":
            return _once(body)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
