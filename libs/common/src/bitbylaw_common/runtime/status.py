"""How each worker stands right now: the record of `control.workers`, its rates, and publishing it."""

import asyncio
import heapq
import math
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_common import metrics, topics
from bitbylaw_common.circuits import CircuitState, State
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.events import Event
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.gates import GateState
from bitbylaw_common.runtime.lanes import LaneKey
from bitbylaw_common.runtime.ports import Outgoing, Position, Record
from bitbylaw_common.runtime.schedule import Kind, ScheduleEntry

PUBLISH_SECONDS = 5.0
"""How soon a change is seen by others, at the latest."""

ALIVE_SECONDS = 30.0
"""How often a worker says that it is there, also when nothing changed."""

GONE_SECONDS = 90.0
"""A worker that said nothing for so long counts as gone."""

SHOWN = 5
"""How many of the oldest runs, and of the oldest failing keys, a status names."""

LOOKED_AT = 2_000
"""Among so many failing keys the oldest are looked for: with more, which five is no matter, and the
event loop must not wait for a sort."""

WINDOW_SECONDS = 60
LATELY_SECONDS = 10
"""Rates are of so long where at least one a second came in the window, else of the window."""

_TOMBSTONE_SECONDS = 10.0

What = Literal["halted", "paused", "ramping", "circuit", "rate limit"]


class RunningLane(BaseModel):
    """One run under way.

    Attributes:
        position: the newest record that it answers, `topic:partition:offset`; empty when it came
            from the schedule.
        started: when it began, UTC.
        attempt: 1 for the first.
        behind: how many records and due entries wait for the same key meanwhile.
    """

    model_config = ConfigDict(frozen=True)

    step: str
    entity: str
    entity_id: str
    position: str = ""
    started: datetime
    attempt: int = 1
    behind: int = 0

    @classmethod
    def of(
        cls,
        key: LaneKey,
        position: Position | None,
        *,
        started: datetime,
        attempt: int,
        behind: int,
    ) -> "RunningLane":
        """Return the run of a lane."""
        return cls(
            step=key.step,
            entity=key.entity,
            entity_id=key.entity_id,
            position=""
            if position is None
            else f"{position.topic}:{position.partition}:{position.offset}",
            started=started,
            attempt=attempt,
            behind=behind,
        )


class FailingKey(BaseModel):
    """One key that failed and is tried again.

    Attributes:
        since: when this chain of attempts began, UTC.
        failures: how many so far.
        due: when it is tried again, UTC.
        origin: the record that it came from, `topic:partition:offset`.
        error: the class of the last failure.
    """

    model_config = ConfigDict(frozen=True)

    step: str
    entity: str
    entity_id: str
    since: datetime
    failures: int
    due: datetime
    origin: str = ""
    error: str = ""


class Held(BaseModel):
    """Why some runs do not start, or only few at once.

    Attributes:
        what: by a halt, a pause, the ramp after either of halt and circuit, an open circuit, or a
            system that asked to be left alone.
        step: empty where it is about a system.
        system: the outside system; empty where it is about a step.
        since: UTC; None for a rate limit, of which only the end is known.
        until: when it ends, or when the system is asked again; None when nobody knows.
        reason: in words, without values of a record.
        command: what an operator may type to end it; empty where nothing is to be done.
        keys: how many keys wait for it here.
    """

    model_config = ConfigDict(frozen=True)

    what: What
    step: str = ""
    system: str = ""
    since: datetime | None = None
    until: datetime | None = None
    reason: str = ""
    by: str = ""
    command: str = ""
    keys: int = 0


class WorkerStatus(Event):
    """How one worker stands: a record of `control.workers`. Ids only, nothing of a record's content.

    Attributes:
        instance: the process.
        code_version: which code it runs.
        at: when it was so, by the worker's clock, UTC.
        began: when the worker began, UTC.
        draining: it is about to stop and starts nothing more.
        partitions: the numbers it owns and has loaded.
        running: how many runs are under way.
        oldest: the oldest of them.
        ready: keys that wait for nothing but a free place.
        waiting: records and due entries that wait, for a place, for their key or held back.
        in_flight: records that were taken and have no acknowledged outcome yet.
        failing: how many keys failed and are tried again.
        failing_oldest: those that fail longest.
        held: why some runs do not start.
        finished_per_second: records, over the last ten seconds; over the last minute where it was
            less than one a second.
        runs_per_second: runs that answered them or came from the schedule, likewise.
        arrivals_per_second: records taken, likewise; under back-pressure fewer than were appended.
        p95_run_seconds: 95 of 100 runs of the last minute took at most so long; None without runs.
        schedule: entries that wait, by kind.
        loop_lag_seconds: how late the event loop woke sleepers, on the average since the status
            before.
        last_commit: when the group last took a commit, UTC.
    """

    type: ClassVar[str] = "bitbylaw.worker.status"

    service: str
    instance: str
    code_version: str
    at: datetime
    began: datetime
    draining: bool = False
    partitions: tuple[int, ...] = ()
    running: int = 0
    oldest: tuple[RunningLane, ...] = ()
    ready: int = 0
    waiting: int = 0
    in_flight: int = 0
    failing: int = 0
    failing_oldest: tuple[FailingKey, ...] = ()
    held: tuple[Held, ...] = ()
    finished_per_second: float = 0.0
    runs_per_second: float = 0.0
    arrivals_per_second: float = 0.0
    p95_run_seconds: float | None = None
    schedule: Mapping[Kind, int] = {}
    loop_lag_seconds: float = 0.0
    last_commit: datetime | None = None

    @property
    def key(self) -> str:
        """The service and the instance: its newest status is the one that counts."""
        return f"{self.service}|{self.instance}"

    @property
    def entity(self) -> str:
        """Workers are their own kind."""
        return "worker"


# -- rates ----------------------------------------------------------------------------------------

_BUCKETS_PER_DOUBLING = 4
_BUCKETS = 18 * _BUCKETS_PER_DOUBLING  # from 1 ms to more than four minutes
_DURATION_SLOT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Rates:
    """What a meter measured lately; see the fields of `WorkerStatus`."""

    finished_per_second: float = 0.0
    runs_per_second: float = 0.0
    arrivals_per_second: float = 0.0
    p95_run_seconds: float | None = None


class _Ring:
    """Rows of numbers, one for each slot of time; old ones are emptied as time goes on."""

    def __init__(self, slots: int, slot_seconds: int, width: int, begun: float) -> None:
        self._rows = [[0] * width for _ in range(slots)]
        self._slot_seconds = slot_seconds
        self._width = width
        self._slot = int(begun) // slot_seconds

    def at(self, now: float) -> list[int]:
        """Return the row of now."""
        slot = int(now) // self._slot_seconds
        if slot > self._slot:
            for old in range(max(self._slot + 1, slot - len(self._rows) + 1), slot + 1):
                self._rows[old % len(self._rows)] = [0] * self._width
            self._slot = slot
        return self._rows[self._slot % len(self._rows)]

    def sums(self, slots: int) -> list[int]:
        """Return the sums of the current slot and so many before it."""
        rows = (self._rows[(self._slot - back) % len(self._rows)] for back in range(slots + 1))
        return [sum(column) for column in zip(*rows, strict=True)]


class Meter:
    """Counts what arrives and what is finished, over a sliding minute; some additions a run.

    Args:
        monotonic: seconds that never go back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._begun = monotonic()
        # One slot more than the window: the current one is not full yet.
        self._counts = _Ring(WINDOW_SECONDS + 1, 1, 3, self._begun)
        self._durations = _Ring(
            WINDOW_SECONDS // _DURATION_SLOT_SECONDS + 1,
            _DURATION_SLOT_SECONDS,
            _BUCKETS,
            self._begun,
        )

    def arrived(self, records: int = 1) -> None:
        """Count records that were taken."""
        self._counts.at(self._monotonic())[0] += records

    def finished(self, seconds: float, records: int) -> None:
        """Count a run that ended.

        Args:
            seconds: how long it took.
            records: how many it answered; 0 for one that came from the schedule alone.
        """
        now = self._monotonic()
        counts = self._counts.at(now)
        counts[1] += records
        counts[2] += 1
        self._durations.at(now)[_bucket(seconds)] += 1

    def rates(self) -> Rates:
        """Return the rates; of all the time while the meter is younger than a minute."""
        now = self._monotonic()
        self._counts.at(now)
        self._durations.at(now)
        arrived, finished, runs = zip(
            self._counts.sums(WINDOW_SECONDS), self._counts.sums(LATELY_SECONDS), strict=True
        )
        return Rates(
            finished_per_second=self._rate(finished, now),
            runs_per_second=self._rate(runs, now),
            arrivals_per_second=self._rate(arrived, now),
            p95_run_seconds=self._p95(),
        )

    def _rate(self, counts: tuple[int, int], now: float) -> float:
        whole, lately = counts
        count, window = (
            (lately, LATELY_SECONDS) if whole >= WINDOW_SECONDS else (whole, WINDOW_SECONDS)
        )
        # The slots hold the window and the part of the current second.
        return count / max(1.0, min(now - self._begun, window + now % 1))

    def _p95(self) -> float | None:
        buckets = self._durations.sums(WINDOW_SECONDS // _DURATION_SLOT_SECONDS)
        left = math.ceil(sum(buckets) * 0.95)
        if not left:
            return None
        for number, count in enumerate(buckets):
            left -= count
            if left <= 0:
                return _bound(number)
        return _bound(_BUCKETS - 1)


def _bucket(seconds: float) -> int:
    if seconds <= 0.001:
        return 0
    return min(_BUCKETS - 1, math.ceil(math.log2(seconds * 1000) * _BUCKETS_PER_DOUBLING))


def _bound(bucket: int) -> float:
    """Return how long the longest run of a bucket may have taken, in seconds."""
    return float(2 ** (bucket / _BUCKETS_PER_DOUBLING) / 1000)


# -- from a worker's facts to its status ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker knows of itself; `status_of` makes its status of it.

    Attributes:
        running: all runs under way.
        ready_by_step: keys that wait for a place, those of held steps among them.
        needs: the outside systems that each step needs.
        entries: those of the schedule, in any order.
        gates, circuits: what holds steps and systems back, as they describe themselves.
        rates: of the worker's `Meter`.

    The other attributes are those of `WorkerStatus`.
    """

    service: str
    instance: str
    code_version: str
    now: datetime
    began: datetime
    draining: bool
    partitions: Iterable[int]
    running: Sequence[RunningLane]
    ready_by_step: Mapping[str, int]
    waiting: int
    in_flight: int
    entries: Iterable[ScheduleEntry]
    schedule: Mapping[Kind, int]
    gates: Sequence[GateState]
    circuits: Sequence[CircuitState]
    needs: Mapping[str, Sequence[str]]
    rates: Rates
    last_commit: datetime | None


def status_of(facts: WorkerFacts) -> WorkerStatus:
    """Return the status; rates are rounded, so that a worker at rest does not seem to change."""
    held = tuple(_held(facts))
    failing = (entry for entry in facts.entries if entry.kind == "retry")
    longest = heapq.nsmallest(SHOWN, islice(failing, LOOKED_AT), key=lambda entry: entry.since)
    shut = {one.step for one in held if one.what in ("halted", "paused")}
    away = {one.system for one in facts.circuits if one.room == 0}
    startable = sum(
        keys
        for step, keys in facts.ready_by_step.items()
        if step not in shut and not away.intersection(facts.needs.get(step, ()))
    )
    p95 = facts.rates.p95_run_seconds
    return WorkerStatus(
        service=facts.service,
        instance=facts.instance,
        code_version=facts.code_version,
        at=facts.now,
        began=facts.began,
        draining=facts.draining,
        partitions=tuple(sorted(facts.partitions)),
        running=len(facts.running),
        oldest=tuple(heapq.nsmallest(SHOWN, facts.running, key=lambda run: run.started)),
        ready=startable,
        waiting=facts.waiting,
        in_flight=facts.in_flight,
        failing=facts.schedule.get("retry", 0),
        failing_oldest=tuple(_failing(entry) for entry in longest),
        held=held,
        finished_per_second=_rounded(facts.rates.finished_per_second),
        runs_per_second=_rounded(facts.rates.runs_per_second),
        arrivals_per_second=_rounded(facts.rates.arrivals_per_second),
        p95_run_seconds=None if p95 is None else _rounded(p95),
        schedule=dict(facts.schedule),
        last_commit=facts.last_commit,
    )


def _held(facts: WorkerFacts) -> Iterable[Held]:
    for gate in facts.gates:
        yield Held(
            what=gate.state,
            step=gate.step,
            since=gate.since,
            reason=gate.reason,
            by=gate.by,
            command=gate.command,
            keys=facts.ready_by_step.get(gate.step, 0),
        )
    for circuit in facts.circuits:
        # While it asks for more patience than lanes have, runs start, and wait in the schedule.
        keys = sum(
            count
            for step, count in facts.ready_by_step.items()
            if circuit.room is not None and circuit.system in facts.needs.get(step, ())
        )
        limited = circuit.not_before is not None and circuit.not_before > facts.now
        if circuit.state in (State.OPEN, State.PROBING):
            yield _upstream("circuit", circuit, keys, circuit.next_probe)
        elif limited:
            yield _upstream("rate limit", circuit, keys, circuit.not_before)
        elif circuit.state is State.RAMPING:
            yield _upstream("ramping", circuit, keys, None)


def _upstream(what: What, circuit: CircuitState, keys: int, until: datetime | None) -> Held:
    return Held(
        what=what,
        system=circuit.system,
        since=None if what == "rate limit" else circuit.since,
        # It is computed anew at each look; parts of a second would make news of it.
        until=None if until is None else until.replace(microsecond=0),
        reason=circuit.reason,
        keys=keys,
    )


def _failing(entry: ScheduleEntry) -> FailingKey:
    return FailingKey(
        step=entry.step,
        entity=entry.entity,
        entity_id=entry.entity_id,
        since=entry.since,
        failures=entry.attempt,
        due=entry.due,
        origin="" if entry.carried is None else entry.carried.origin,
        error=entry.error,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


# -- publishing -----------------------------------------------------------------------------------


class Appends(Protocol):
    """What publishing takes of a log."""

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        """See `Log.append`."""
        ...


class StatusReports:
    """Publishes how this process's workers stand, and says good-bye.

    Args:
        own: returns the status of each worker of this process as it is now.
        source: the service name for the events' headers.
    """

    def __init__(
        self,
        own: Callable[[], Sequence[WorkerStatus]],
        log: Appends,
        clock: Clock,
        *,
        source: str,
    ) -> None:
        self._own = own
        self._log = log
        self._clock = clock
        self._source = source
        self._told: dict[str, WorkerStatus] = {}
        self._withdrawn = False
        self._away = False
        self._loop = _LoopLag()
        self._logger = step_logger(service=source)

    async def publish(self) -> None:
        """Publish what changed, now and every `PUBLISH_SECONDS`, until cancelled or withdrawn."""
        while not self._withdrawn:
            await self._publish()
            await self._clock.sleep(PUBLISH_SECONDS)

    async def withdraw(self) -> None:
        """Say good-bye for all of them; nothing is published any more.

        Kafka being away costs a warning and `_TOMBSTONE_SECONDS` at most: the statuses grow old
        and count as gone then.
        """
        self._withdrawn = True
        farewells = [
            Outgoing(topics.WORKERS.name, key.encode(), None) for key in sorted(self._told)
        ]
        if not farewells:
            return
        try:
            async with asyncio.timeout(_TOMBSTONE_SECONDS):
                await self._log.append(farewells)
        except (LogUnavailableError, TimeoutError) as down:
            self._logger.warning("the good-bye was not acknowledged", error=str(down))

    async def _publish(self) -> None:
        lag = _rounded(self._loop.mean_seconds())
        statuses = [
            status.model_copy(update={"loop_lag_seconds": lag})
            for status in self._own()
            if not self._withdrawn
        ]
        news = [status for status in statuses if self._is_news(status)]
        if not news:
            return
        # Before it is acknowledged: a good-bye must also follow what may have arrived.
        self._told |= {status.key: status for status in news}
        now = self._clock.now()
        try:
            await self._log.append(
                [
                    codec.encode(
                        topics.WORKERS,
                        status,
                        event_id=new_event_id(),
                        source=self._source,
                        now=now,
                    )
                    for status in news
                ]
            )
        except LogUnavailableError as down:
            if not self._away:
                self._logger.warning("the status was not published; again soon", error=str(down))
            self._away = True
        else:
            self._away = False

    def _is_news(self, status: WorkerStatus) -> bool:
        told = self._told.get(status.key)
        if told is None or self._away:
            return True
        if status.at - told.at >= timedelta(seconds=ALIVE_SECONDS):
            return True
        # The time and the loop's breathing alone are no change.
        same = {"at": told.at, "loop_lag_seconds": told.loop_lag_seconds}
        return status.model_copy(update=same) != told


class _LoopLag:
    """The mean lateness of the event loop since the last look, from the metric that counts it."""

    def __init__(self) -> None:
        self._sum, self._count = self._read()

    def mean_seconds(self) -> float:
        """Return it; 0 when nothing was measured since."""
        total, count = self._read()
        late, looks = total - self._sum, count - self._count
        self._sum, self._count = total, count
        return late / looks if looks else 0.0

    @staticmethod
    def _read() -> tuple[float, float]:
        return (
            metrics.value("bitbylaw_loop_lag_seconds_sum"),
            metrics.value("bitbylaw_loop_lag_seconds_count"),
        )


# -- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last that was heard of a worker.

    Attributes:
        status: None once it said good-bye.
        at: when the broker took that record, UTC; the worker's own clock where it did not say.
    """

    service: str
    instance: str
    status: WorkerStatus | None
    at: datetime

    def alive(self, now: datetime) -> bool:
        """Say whether it counts as there: no good-bye, and not silent for too long."""
        return self.status is not None and now - self.at <= timedelta(seconds=GONE_SECONDS)


async def sightings(records: AsyncIterable[Record]) -> tuple[tuple[Sighting, ...], int]:
    """Return the last sign of each worker, from all records of the topic, and the unreadable ones.

    A record that this version cannot read is passed over and counted; the one before it counts.
    """
    found: dict[str, Sighting] = {}
    unreadable = 0
    async for record in records:
        key = (record.key or b"").decode(errors="replace")
        service, parted, instance = key.partition("|")
        if not parted:
            unreadable += 1
            continue
        if record.value is None:
            if record.time is not None:
                found[key] = Sighting(service, instance, None, record.time)
            continue
        try:
            status = WorkerStatus.model_validate_json(record.value)
        except ValidationError:
            unreadable += 1
            continue
        found[key] = Sighting(service, instance, status, record.time or status.at)
    return tuple(found[key] for key in sorted(found)), unreadable
