"""The whole system in one process and no time at all: topics are lists, time is a number.

The same worker and pipeline as on Kafka run here, so a test of a flow is a test of the product.
Members of one app form a group, as they do there: partitions are handed out by the same assignor,
given up and taken over in a rebalance, and taken from a member that is silent for too long, which
may come back as a zombie. What was not acknowledged is lost in `crash`.
"""

import asyncio
import heapq
import re
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from pydantic import TypeAdapter

from bitbylaw_common.errors import LogUnavailableError, OwnershipLost
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.assignor import NumberAssignor
from bitbylaw_common.locks import NoLocks
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.commands import Commands, encoded
from bitbylaw_common.runtime.dead_letters import DeadLetter
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.http_run import http_run
from bitbylaw_common.runtime.offsets import Commit
from bitbylaw_common.runtime.ports import (
    Gates,
    Locks,
    Outgoing,
    Position,
    Record,
    check_sizes,
)
from bitbylaw_common.runtime.triggers import ApiRequest, ApiResponse, HttpTrigger
from bitbylaw_common.runtime.worker import Place, Worker
from bitbylaw_common.topics import JOURNAL, PARTITIONS, dlq

SETTLE_SECONDS = 60.0
"""Real seconds after which a world that does not come to rest is called stuck."""

SESSION_SECONDS = 30.0
"""Virtual seconds after which a silent member's partitions go to the others."""

LOAD_TRIES = 10
_REAL_PAUSE_SECONDS = 0.02
_NEVER_SECONDS = 24 * 3600.0


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
        self._spent: OwnershipLost | LogUnavailableError | None = None

    async def write(self, records: Sequence[Outgoing]) -> None:
        """See `State.write`."""
        await asyncio.sleep(0)
        # From here on nothing can come in between: what is checked still holds when it is stored.
        if self._spent is not None:
            raise type(self._spent)(str(self._spent))
        if self._log.epochs[self._name] != self._epoch:
            self._spent = OwnershipLost(f"{self._name} is written by another worker now")
            raise self._spent
        try:
            self._log.store(records)
        except LogUnavailableError as down:
            self._spent = down
            raise

    async def close(self) -> None:
        """See `State.close`."""
        self._spent = OwnershipLost(f"{self._name} was given up")


class MemoryLog:
    """Topics as lists. Appending acknowledges at once, unless told to fail.

    Attributes:
        failing: while True the broker is away: nothing is stored, read or taken over, and every
            append is refused.
        ahead: how far the broker's clock, by which records are stamped, is ahead of the workers'.
        stored: how many records were stored in all.
        epochs: how often each state was taken over, by `{service}.state.{partition}`.
        on_append: called before records are stored; may raise what a crash would, or
            `LogUnavailableError` for an append that never arrived.
        on_stored: called after records are stored, before anyone learns of it; likewise,
            `LogUnavailableError` being an acknowledgement that was lost.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._records: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        self.epochs: defaultdict[str, int] = defaultdict(int)
        self.stored = 0
        self.failing = False
        self.ahead = timedelta()
        self.on_append: Callable[[Sequence[Outgoing]], None] = _nothing
        self.on_stored: Callable[[Sequence[Outgoing]], None] = _nothing

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        """Store all; see `Log.append`."""
        await asyncio.sleep(0)
        return self.store(records)

    def store(self, records: Sequence[Outgoing]) -> list[Position]:
        """Store all at once.

        Raises:
            LogUnavailableError: as `Log.append`.
        """
        check_sizes(records)
        self.on_append(records)
        self._answer()
        positions = [self._store(record) for record in records]
        self.on_stored(records)
        return positions

    def _answer(self) -> None:
        if self.failing:
            raise LogUnavailableError("the log was told to fail")

    async def take_over(self, service: str, partition: int) -> MemoryState:
        """Fence who wrote this state before; see `Log.take_over`."""
        self._answer()
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
            self._clock.now() + self.ahead,
        )
        place.append(stored)
        self.stored += 1
        return Position(stored.topic, stored.partition, stored.offset)

    async def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """Yield to the ends as they are now; see `Log.read`."""
        self._answer()
        wanted = {place: list(self._records[place][start:]) for place, start in starts.items()}
        for records in wanted.values():
            for record in records:
                yield record

    def since(self, topic: str, partition: int, offset: int) -> list[Record]:
        """Return the records of a partition from `offset` on."""
        return self._records[topic, partition][offset:]

    def end(self, topic: str, partition: int) -> int:
        """Return the offset that the partition's next record gets."""
        return len(self._records[topic, partition])

    def records(self, topic: str) -> list[Record]:
        """Return a topic's records, partition by partition."""
        return [r for p in range(PARTITIONS) for r in self._records[topic, p]]


def _nothing(_records: Sequence[Outgoing]) -> None:
    return None


def _no_commit(_member: str, _commits: Mapping[Place, Commit]) -> None:
    return None


# Members ------------------------------------------------------------------------------------------


class _Member:
    """One process: an app, its worker if it consumes, and what the process knows of its group.

    Attributes:
        gates: which steps may start here; None where nobody pauses.
        commands: what follows `control.commands` for its brake; None where it has none.
        heard: how many records the log had stored when it looked for commands last.
        assigned: the partitions that the group gave it, by what it knows.
        generation: of the group when it took them over.
        joined: it gave everything up and waits for the rebalance to end.
        positions: where to read on, of what was taken over.
        changing: what it gives up or takes over just now.
        retaking: voided partitions that are taken over anew just now.
        leaving: it drains, and leaves the group then.
        silent_since: virtual seconds when it was frozen or killed; None while it works.
        moving: set unless it is frozen.
        lease: whether it believes that the group counts on it.
    """

    def __init__(self, name: str, group: "_Group", deps: Any, opened: AsyncExitStack) -> None:
        self.id = name
        self.group = group
        self.app = group.app
        self.deps = deps
        self.opened = opened
        self.gates: Gates | None = None
        self.commands: Commands | None = None
        self.heard = -1
        self.worker: Worker[Any] | None = None
        self.assigned: frozenset[int] = frozenset()
        self.generation = -1
        self.joined = False
        self.positions: dict[Place, int] = {}
        self.changing: asyncio.Task[None] | None = None
        self.retaking: asyncio.Task[None] | None = None
        self.leaving = False
        self.silent_since: float | None = None
        self.moving = asyncio.Event()
        self.moving.set()
        self.lease = True

    @property
    def silent(self) -> bool:
        """Whether it is frozen or dead."""
        return self.silent_since is not None

    @property
    def settled(self) -> bool:
        """Whether it owns what the group gave it, and nothing changes."""
        return (
            self.changing is None
            and not self.leaving
            and not self.group.rebalancing
            and self.generation == self.group.generation
            and self.group.counts_on(self)
        )


@dataclass
class _Group:
    """The members of one app as the broker knows them.

    Attributes:
        env, gates: what every member is started with; see `MemoryHost.start`.
        members: those it counts on, by id, the silent ones too until their session is over.
        given: what each was given in the last rebalance.
        rebalancing: it waits until every member gave up what it had.
    """

    app: App[Any]
    env: Mapping[str, str]
    gates: Callable[[str], Gates] | None
    members: dict[str, _Member] = field(default_factory=dict)
    given: dict[str, frozenset[int]] = field(default_factory=dict)
    commits: dict[Place, Commit] = field(default_factory=dict)
    generation: int = 0
    rebalancing: bool = False
    started: int = 0

    def counts_on(self, member: _Member) -> bool:
        """Whether the member was not given up."""
        return self.members.get(member.id) is member

    def count_on(self, member: _Member) -> None:
        """Take the member in; one that comes back under its id gets what it had, as static ones do."""
        before = self.members.get(member.id)
        self.members[member.id] = member
        if before is None:
            self.rebalance()

    def drop(self, member: _Member) -> None:
        """Count on the member no more."""
        if self.counts_on(member):
            del self.members[member.id]
            self.rebalance()

    def rebalance(self) -> None:
        """Have every member give up what it has."""
        self.rebalancing = bool(self.members)
        for member in self.members.values():
            member.joined = False

    def coordinate(self, now: float, session_seconds: float) -> bool:
        """Give up members that are silent for too long, end a rebalance; say whether any happened.

        Args:
            now: virtual seconds.
        """
        late = [
            member
            for member in self.members.values()
            if member.silent_since is not None and now >= member.silent_since + session_seconds
        ]
        for member in late:
            self.drop(member)
        if not self.rebalancing or not all(member.joined for member in self.members.values()):
            return bool(late)
        self.rebalancing = False
        self.generation += 1
        self.given = _handed_out(self.members)
        return True


class _EveryPartition:
    """A cluster whose topics all have the same partitions, as the assignor asks for it."""

    def partitions_for_topic(self, _topic: str) -> range:
        return range(PARTITIONS)


def _handed_out(members: Mapping[str, _Member]) -> dict[str, frozenset[int]]:
    """Return what each member gets: the numbers that are its own in every topic it reads."""
    said = {
        name: NumberAssignor.metadata(member.worker.subscribed)
        for name, member in members.items()
        if member.worker is not None
    }
    given: dict[str, frozenset[int]] = {}
    for name, assignment in NumberAssignor.assign(_EveryPartition(), said).items():
        numbers = [frozenset(partitions) for _, partitions in assignment.assignment]
        given[name] = frozenset.intersection(*numbers) if numbers else frozenset()
    return given


# Standing still -----------------------------------------------------------------------------------

_RUNS_IN: ContextVar[_Member | None] = ContextVar("memory_host_member", default=None)


@contextmanager
def _inside(member: _Member) -> Iterator[None]:
    """Say for the block that what is started runs in this member's process."""
    token = _RUNS_IN.set(member)
    try:
        yield
    finally:
        _RUNS_IN.reset(token)


class _MemberWorker(Worker[Any]):
    """A worker whose runs belong to its member's process, whoever lets them start."""

    def __init__(self, member: _Member, *args: Any, **options: Any) -> None:
        self._member = member
        super().__init__(*args, **options)

    def _pump(self) -> None:
        with _inside(self._member):
            super()._pump()


def _freezable(loop: asyncio.AbstractEventLoop) -> None:
    """Have every task that a member starts stand still while the member is frozen."""
    before: Any = loop.get_task_factory()
    if not isinstance(before, _Tasks):
        loop.set_task_factory(_Tasks(before))


class _Tasks:
    """Makes the tasks of a loop."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Any,
        context: Context | None = None,
        **options: Any,
    ) -> "asyncio.Future[Any]":
        if context is not None:
            options["context"] = context
        member = _RUNS_IN.get() if context is None else context.get(_RUNS_IN)
        if member is not None:
            coro = _Held(coro, member)
        if self._before is not None:
            made: asyncio.Future[Any] = self._before(loop, coro, **options)
            return made
        return asyncio.Task(coro, loop=loop, **options)


class _Held(Coroutine[Any, Any, Any]):
    """A coroutine that takes no step while its member is frozen."""

    def __init__(self, coro: Coroutine[Any, Any, Any], member: _Member) -> None:
        self._coro = coro
        self._steps = _stepwise(coro, member)
        self._begun = False

    def send(self, value: Any) -> Any:
        """See `Coroutine.send`."""
        self._begun = True
        return self._steps.send(value)

    def throw(self, *raised: Any) -> Any:
        """See `Coroutine.throw`; what did not begin yet never does."""
        return (self._steps if self._begun else self._coro).throw(*raised)

    def close(self) -> None:
        """See `Coroutine.close`."""
        self._steps.close()
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._steps


def _stepwise(coro: Coroutine[Any, Any, Any], member: _Member) -> Generator[Any, Any, Any]:
    """Drive a coroutine, and wait wherever it is while its member is frozen.

    What comes for it meanwhile, an answer or a cancellation, reaches it when the member is thawed.
    """
    step: Callable[[Any], Any] = coro.send
    given: Any = None
    while True:
        while not member.moving.is_set():
            try:
                yield from member.moving.wait().__await__()
            except asyncio.CancelledError as cancelled:
                step, given = coro.throw, cancelled
        try:
            asked = step(given)
        except StopIteration as ended:
            return ended.value
        step, given = coro.send, None
        try:
            given = yield asked
        except BaseException as raised:  # noqa: BLE001 - whatever it is, it is the coroutine's
            step, given = coro.throw, raised


# The host -----------------------------------------------------------------------------------------


class MemoryHost:
    """Hosts apps on a `MemoryLog` and a `ManualClock`.

    A member is named by its id; an app's name stands for its first member.

    What it models of a group: rebalances are eager (everybody gives everything up), a session ends
    after silence, a member that was refused learns it at its next round and joins again. What it
    cannot keep a zombie from is what Kafka cannot either: what every process may append (an event,
    a journal line, the dead letter of an unreadable record) may still land after the partition went
    to another; base and schedule, and what is written together with them, may not.

    Args:
        options: of every worker; members that join another carry their id as `instance`.
        locks: shared by all workers; none by default.
        session_seconds: virtual; a member silent for so long loses its partitions.
        drain_seconds: virtual; what runs for longer when partitions are given up is cancelled.

    Attributes:
        on_commit: called with a member's id and its commits after they are stored, before it learns
            of it; may raise `LogUnavailableError` for an acknowledgement that was lost.
    """

    def __init__(
        self,
        *,
        options: WorkerOptions | None = None,
        locks: Locks | None = None,
        session_seconds: float = SESSION_SECONDS,
        drain_seconds: float = 10.0,
    ) -> None:
        self.clock = ManualClock()
        self.log = MemoryLog(self.clock)
        self.on_commit: Callable[[str, Mapping[Place, Commit]], None] = _no_commit
        self._options = options or WorkerOptions()
        self._locks: Locks = locks or NoLocks()
        self._session_seconds = session_seconds
        self._drain_seconds = drain_seconds
        self._groups: dict[str, _Group] = {}
        self._members: dict[str, _Member] = {}

    # Members ----------------------------------------------------------------------------------

    async def start(
        self,
        app: App[Any],
        env: Mapping[str, str] | None = None,
        *,
        gates: Callable[[str], Gates] | None = None,
    ) -> None:
        """Start an app's first member; return once it has taken its partitions over.

        Args:
            gates: makes the gates of each member, given its id.
        """
        group = self._groups.setdefault(app.name, _Group(app, env or {}, gates))
        group.app, group.env, group.gates = app, env or {}, gates
        await self._open(group, app.name)
        await self._regrouped(group)

    async def join(self, name: str, *, wait: bool = True) -> str:
        """Start another member of an app and return its id.

        Args:
            wait: return only when every member that answers has its partitions; time passes where
                the group waits for a silent one.

        Raises:
            KeyError: the app was never started.
        """
        group = self._groups[name]
        group.started += 1
        member = f"{name}-{group.started + 1}"
        await self._open(group, member)
        if wait:
            await self._regrouped(group)
        return member

    async def leave(self, name: str, *, wait: bool = True) -> None:
        """Stop a member as SIGTERM does: drain, commit, leave the group.

        Args:
            wait: as `join`; without, it happens as the host goes on.
        """
        member = self._find(name)
        member.leaving = True
        if wait:
            await self._left(member)
            await self._regrouped(member.group)

    async def crash(self, name: str) -> None:
        """Kill a member as SIGKILL does: its runs end where they are, nothing more is written.

        The group counts on it until its session is over, or until it is started again.
        """
        member = self._find(name)
        del self._members[member.id]
        if member.silent_since is None:
            member.silent_since = self.clock.monotonic()
        member.moving.set()
        await self._stop_task(member.retaking)
        await self._stop_task(member.changing)
        if member.worker is not None:
            member.worker.forget(range(PARTITIONS))
            await member.worker.abandon()
        await member.opened.aclose()
        if not any(other.group is member.group for other in self._members.values()):
            # Nobody is left who could notice the session's end, so the next need not wait for it.
            for dead in list(member.group.members.values()):
                member.group.drop(dead)

    async def restart(self, name: str) -> None:
        """Crash a member and start it again under its id, from what was committed."""
        member = self._find(name)
        await self.crash(member.id)
        await self.start_again(member.id, member.app.name)

    async def start_again(self, member: str, name: str, *, wait: bool = True) -> None:
        """Start a member of an app that crashed or left again, under its id.

        Before its session is over it gets what it had, and nobody else notices.

        Args:
            wait: as `join`.
        """
        group = self._groups[name]
        await self._open(group, member)
        if wait:
            await self._regrouped(group)

    def freeze(self, name: str) -> None:
        """Stop a member where it is, as SIGSTOP does: nothing of it moves, and nobody is told."""
        member = self._find(name)
        member.silent_since = self.clock.monotonic()
        member.moving.clear()

    def thaw(self, name: str, *, lease_holds: bool = False) -> None:
        """Let a frozen member go on; at its next round it learns what became of it.

        Args:
            lease_holds: it believes in its lease although its session is over, so that nothing but
                the fencing stands between it and the new owner's state.
        """
        member = self._find(name)
        member.group.coordinate(self.clock.monotonic(), self._session_seconds)
        if member.silent_since is not None and not lease_holds:
            silent = self.clock.monotonic() - member.silent_since
            member.lease = silent < self._session_seconds and member.group.counts_on(member)
        member.silent_since = None
        member.moving.set()

    async def stop(self) -> None:
        """Drain and stop every member, in the order a rolling update would."""
        for member in list(self._members.values()):
            if member.silent:
                await self.crash(member.id)
                continue
            member.leaving = True
            await self._left(member)

    async def _left(self, member: _Member) -> None:
        await self._until(member.group, lambda: member.id not in self._members)

    def worker(self, name: str) -> Worker[Any]:
        """Return a consuming member's worker."""
        worker = self._find(name).worker
        if worker is None:
            raise KeyError(f"{name} does not consume")
        return worker

    def gates(self, name: str) -> Gates:
        """Return a member's gates, as `start` was told to make them."""
        gates = self._find(name).gates
        if gates is None:
            raise KeyError(f"{name} has no gates")
        return gates

    def members(self, name: str) -> tuple[str, ...]:
        """Return the ids of an app's members that are not dead, in the order they came."""
        return tuple(one.id for one in self._members.values() if one.app.name == name)

    def counted_on(self, name: str) -> bool:
        """Whether a member's group counts on it still."""
        member = self._find(name)
        return member.group.counts_on(member)

    def commits(self, name: str) -> dict[Place, Commit]:
        """Return what an app's group has committed."""
        return dict(self._groups[name].commits)

    def _find(self, name: str) -> _Member:
        if name in self._members:
            return self._members[name]
        for member in self._members.values():
            if member.app.name == name:
                return member
        raise KeyError(f"no member is called {name}")

    async def _open(self, group: _Group, name: str) -> None:
        _freezable(asyncio.get_running_loop())
        opened = AsyncExitStack()
        deps = await opened.enter_async_context(group.app.open_deps(group.env))
        member = _Member(name, group, deps, opened)
        if group.app.works_on_records:
            member.gates = None if group.gates is None else group.gates(name)
            if (brake := getattr(deps, "brake", None)) is not None:
                member.commands = Commands(self.log, self.clock, [brake], source=name)
            own = name == group.app.name
            member.worker = _MemberWorker(
                member,
                group.app,
                deps,
                log=self.log,
                clock=self.clock,
                locks=self._locks,
                options=self._options if own else replace(self._options, instance=name),
                gates=member.gates,
                lease=lambda: member.lease,
            )
            group.count_on(member)
        self._members[name] = member

    # Requests ---------------------------------------------------------------------------------

    async def request(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> ApiResponse:
        """Send an HTTP request to whichever app has the route; no socket is opened.

        Args:
            path: with its query, where it has one.

        Raises:
            KeyError: no app has it.
        """
        path, _, query = path.partition("?")
        for member in self._members.values():
            if member.silent:
                continue
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
                                dict(reversed(parse_qsl(query, keep_blank_values=True))),
                                match.groupdict(),
                                query,
                            )
                        )
        raise KeyError(f"no app has the route {method} {path}")

    # Going on ---------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Deliver and run until nothing is left to do now.

        The clock moves only for runs, and for partitions that change hands, that wait for it.

        Raises:
            TimeoutError: it does not come to rest within `SETTLE_SECONDS` real seconds.
            BaseException: what broke a worker, such as the death a test put there.
        """
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                if await self.go_on():
                    continue
                if not any(self._at_work(member) for member in self._members.values()):
                    return
                await self._wait(self.clock.next_sleeper())

    async def advance(self, **span: float) -> None:
        """Let time pass, as `timedelta(**span)`, stopping at every instant something is due."""
        end = self.clock.now() + timedelta(**span)
        await self.settle()
        while (left := (end - self.clock.now()).total_seconds()) > 0:
            step = self.next_event()
            self.clock.move(left if step is None else min(step, left))
            await self.settle()

    async def go_on(self, name: str | None = None) -> bool:
        """Nudge, and let run what can without the clock; say whether there may be more to do now.

        Args:
            name: nudge the members of this app only.
        """
        stored = self.log.stored
        moved = self.nudge() if name is None else self._nudge(self._groups[name])
        await self.let_run()
        return self._took_note() or moved or self.log.stored != stored

    def nudge(self) -> bool:
        """Deliver what is new, start what is due, commit what is done; say whether any moved."""
        moved = [self._took_note(), *map(self._nudge, self._groups.values())]
        return any(moved)

    def round(self, name: str, *, records: int | None = None, commit: bool = True) -> bool:
        """Let one member go round once; say whether anything moved.

        Args:
            records: deliver at most so many.
            commit: commit what is done.
        """
        member = self._find(name)
        noted = self._took_note()
        coordinated = member.group.coordinate(self.clock.monotonic(), self._session_seconds)
        return self._round(member, records, commit=commit) or noted or coordinated

    async def let_run(self) -> None:
        """Return once no task can go on by itself: all wait for the clock, a test or a thread."""
        loop = asyncio.get_running_loop()
        quiet = 0
        # Twice, because a timer that is due is only looked at when the loop goes round.
        while quiet < 2:
            await asyncio.sleep(0)
            quiet = 0 if loop._ready else quiet + 1  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way, and waiting for real is slow and never certain

    def next_event(self) -> float | None:
        """Return in how many seconds the clock has something to do; None when it has nothing."""
        now, seconds = self.clock.now(), self.clock.monotonic()
        times = [
            (due - now).total_seconds()
            for member in self._members.values()
            if member.worker is not None
            and not member.silent
            and (due := member.worker.schedule.next_due()) is not None
        ]
        times += [
            member.silent_since + self._session_seconds - seconds
            for group in self._groups.values()
            for member in group.members.values()
            if member.silent_since is not None
        ]
        sleeper = self.clock.next_sleeper()
        if sleeper is not None:
            times.append(sleeper)
        return max(0.0, min(times)) if times else None

    def _nudge(self, group: _Group) -> bool:
        moved = group.coordinate(self.clock.monotonic(), self._session_seconds)
        for member in list(self._members.values()):
            if member.group is group:
                moved = self._round(member, None, commit=True) or moved
        return moved

    def _round(self, member: _Member, records: int | None, *, commit: bool) -> bool:
        """Go round a member's loop once; what takes time goes on beside it."""
        worker = member.worker
        if member.silent:
            return False
        with _inside(member):
            if worker is None:
                return member.leaving and self._begin(member, self._leave(member))
            moved = self._obey(member)
            moved = self._follow_group(member, worker) or moved
            if worker.voided and member.retaking is None and member.changing is None:
                member.retaking = asyncio.create_task(self._retake(member, worker))
                moved = True
            if member.changing is None:
                moved = self._deliver(member, worker, records) or moved
            worker.fire_due()
            if commit and not member.leaving:
                moved = self._commit(member, worker) or moved
        return moved

    def _follow_group(self, member: _Member, worker: Worker[Any]) -> bool:
        """Do what the group asks of a member; say whether that is anything new."""
        group = member.group
        if member.leaving:
            return self._begin(member, self._leave(member))
        if not group.counts_on(member):
            if self._refused(member):
                return True
            if member.changing is not None:
                return False
            group.count_on(member)
        member.lease = True
        if group.rebalancing:
            return not member.joined and self._begin(member, self._give_up(member, worker))
        if member.generation != group.generation:
            return self._begin(member, self._take_over(member, worker))
        return False

    def _begin(self, member: _Member, change: Coroutine[Any, Any, None]) -> bool:
        if member.changing is not None:
            change.close()
            return False
        member.changing = asyncio.create_task(change)
        return True

    def _obey(self, member: _Member) -> bool:
        """Follow the commands, and write what the member's brake found; say whether any was new."""
        commands = member.commands
        if commands is None or self.log.failing:
            return False
        moved = False
        if member.heard != self.log.stored:
            for place, start in commands.position.items():
                for record in self.log.since(*place, start):
                    commands.deliver(record)
                    moved = True
            member.heard = self.log.stored
        for brake in commands.gates:
            for command in brake.unpublished():
                outgoing = encoded(command, self.clock, source=member.id)
                try:
                    [stored] = self.log.store([outgoing])
                except LogUnavailableError:
                    return moved
                commands.acknowledged(brake, command, stored)
                moved = True
        return moved

    def _deliver(self, member: _Member, worker: Worker[Any], limit: int | None) -> bool:
        if self.log.failing:
            return False
        held = worker.held_back()
        moved = 0
        for place, start in member.positions.items():
            if self.log.end(*place) <= start or place in held:
                continue
            if place[1] not in worker.partitions:
                continue
            for record in self.log.since(*place, start):
                if moved == limit:
                    return True
                worker.deliver(record)
                member.positions[place] = record.offset + 1
                moved += 1
        return bool(moved)

    def _commit(self, member: _Member, worker: Worker[Any]) -> bool:
        """Commit what is done; a group that counts on the member no more refuses."""
        group = member.group
        if self.log.failing:
            return False
        commits = worker.commits()
        if not commits:
            return False
        if not group.counts_on(member):
            return self._refused(member)
        group.commits.update(commits)
        try:
            self.on_commit(member.id, commits)
        except LogUnavailableError:
            return True
        worker.committed(commits)
        return True

    def _refused(self, member: _Member) -> bool:
        """Tell a member that others own what it had; say whether it had anything."""
        worker = member.worker
        member.lease = False
        member.positions.clear()
        if worker is None or not (worker.partitions or worker.voided):
            return False
        worker.lose("refused")
        return True

    # Changing hands ---------------------------------------------------------------------------

    async def _give_up(self, member: _Member, worker: Worker[Any]) -> None:
        await self._stop_task(member.retaking)
        if worker.partitions:
            await self._drained(
                lambda seconds: worker.revoke(member.assigned, drain_seconds=seconds)
            )
            self._commit(member, worker)
        worker.forget(member.assigned)
        await worker.released()
        member.positions.clear()
        member.assigned = frozenset()
        member.joined = True

    async def _take_over(self, member: _Member, worker: Worker[Any]) -> None:
        group = member.group
        generation, numbers = group.generation, group.given.get(member.id, frozenset())
        commits = {place: commit for place, commit in group.commits.items() if place[1] in numbers}
        member.assigned = numbers
        for attempt in range(1, LOAD_TRIES + 1):
            try:
                await worker.assign(sorted(numbers), commits)
                break
            except LogUnavailableError as down:
                if attempt == LOAD_TRIES:
                    worker.fail(down)
                    return
                await self.clock.sleep(1)
        member.positions = {
            place: commits[place].offset if place in commits else 0
            for topic in worker.subscribed
            for place in ((topic, number) for number in sorted(numbers))
        }
        member.generation = generation

    async def _retake(self, member: _Member, worker: Worker[Any]) -> None:
        """Take voided partitions over anew while the lease holds, and read on from there."""
        pause = 0.2
        while worker.voided and not worker.failure.done():
            if member.lease:
                try:
                    starts = await worker.retake()
                except LogUnavailableError:
                    pass
                else:
                    member.positions.update({place: start or 0 for place, start in starts.items()})
                    continue
            await self.clock.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _leave(self, member: _Member) -> None:
        worker = member.worker
        if worker is not None:
            await self._stop_task(member.retaking)
            await self._drained(lambda seconds: worker.stop(drain_seconds=seconds))
            self._commit(member, worker)
            worker.forget(range(PARTITIONS))
            await worker.released()
        member.group.drop(member)
        del self._members[member.id]
        await member.opened.aclose()

    async def _drained(self, give_up: Callable[[float], Coroutine[Any, Any, None]]) -> None:
        """Let runs end for the length of the drain in virtual time; the rest is cancelled."""
        patient = asyncio.create_task(give_up(_NEVER_SECONDS))
        limit = asyncio.create_task(self.clock.sleep(self._drain_seconds))
        try:
            await asyncio.wait({patient, limit}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
            if not patient.done():
                patient.cancel()
                await asyncio.wait({patient})
        if patient.cancelled():
            await give_up(0)
        else:
            patient.result()

    async def _regrouped(self, group: _Group) -> None:
        """Go on until every member that answers has its partitions."""

        def settled() -> bool:
            mine = [m for m in self._members.values() if m.group is group and not m.silent]
            return all(member.worker is None or member.settled for member in mine)

        await self._until(group, settled)

    async def _until(self, group: _Group, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(SETTLE_SECONDS):
            while not done():
                if not await self.go_on(group.app.name) and not done():
                    await self._wait(self.next_event())

    async def _wait(self, virtual_seconds: float | None) -> None:
        """Move the clock; where nobody waits for it, something outside of this world is awaited."""
        if virtual_seconds is None:
            await asyncio.sleep(_REAL_PAUSE_SECONDS)
        else:
            self.clock.move(virtual_seconds)

    def _at_work(self, member: _Member) -> bool:
        if member.silent:
            return False
        return (
            member.changing is not None
            or member.retaking is not None
            or (member.worker is not None and member.worker.busy)
        )

    def _took_note(self) -> bool:
        """Take note of changes that ended; say whether any did.

        Raises:
            BaseException: what broke a worker, or such a change.
        """
        ended = False
        for member in list(self._members.values()):
            for name in ("changing", "retaking"):
                task: asyncio.Task[None] | None = getattr(member, name)
                if task is not None and task.done():
                    setattr(member, name, None)
                    ended = True
                    if not task.cancelled():
                        task.result()
            if member.worker is not None and member.worker.failure.done():
                member.worker.failure.result()
        return ended

    async def _stop_task(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=5)

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
