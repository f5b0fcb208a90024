"""The worker and what only the owner may write: fencing, voided partitions, held lanes, the lease."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

import pytest

from bitbylaw_common import topics
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.kafka import codec
from bitbylaw_common.locks import NoLocks
from bitbylaw_common.outcomes import Done, Outcome, Retry, Wait
from bitbylaw_common.runtime import Context
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.hosts.kafka_host import KafkaHost
from bitbylaw_common.runtime.hosts.memory_host import ManualClock, MemoryLog
from bitbylaw_common.runtime.offsets import Commit
from bitbylaw_common.runtime.ports import OpenGates, Outgoing
from bitbylaw_common.runtime.worker import Place, Worker
from bitbylaw_common.topics import PARTITIONS
from harness import encoded
from toy import CHANGED, ORDERED, Ledger, ThingBase, ThingChanged, state, toy

HOME = codec.partition_of(b"a")
AWAY = next(n for n in range(PARTITIONS) if n != HOME)


class ShutGates(OpenGates):
    """Gates that let the named steps not start."""

    def __init__(self) -> None:
        self.shut: set[str] = set()

    def room(self, step: str) -> int | None:
        return 0 if step in self.shut else None


class Bench:
    """Workers of one app over one log, fed by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.log = MemoryLog(self.clock)
        self.ledger = Ledger()
        self.gates = ShutGates()
        self.lease = True
        self.workers: list[Worker[Ledger]] = []

    async def worker(self, options: WorkerOptions | None = None) -> Worker[Ledger]:
        """Start a worker that owns everything."""
        worker = Worker(
            toy(self.ledger),
            self.ledger,
            log=self.log,
            clock=self.clock,
            locks=NoLocks(),
            options=options or WorkerOptions(),
            gates=self.gates,
            lease=lambda: self.lease,
        )
        self.workers.append(worker)
        await worker.assign(range(PARTITIONS))
        return worker

    async def tell(self, worker: Worker[Ledger], *numbers: int, ordered: bool = False) -> None:
        """Publish events of one thing, deliver them and let run what can."""
        topic = ORDERED if ordered else CHANGED
        for number in numbers:
            event = ThingChanged(thing="a", number=number)
            (place,) = await self.log.append([encoded(topic, event, self.clock.now())])
            for record in self.log.since(place.topic, place.partition, place.offset):
                worker.deliver(record)
        await self.turn()

    async def turn(self) -> None:
        """Let everything run that can by itself."""
        for _ in range(60):
            await asyncio.sleep(0)

    def read_on(self, worker: Worker[Ledger], number: int) -> None:
        """Deliver a partition again from its beginning."""
        for topic in worker.subscribed:
            for record in self.log.since(topic, number, 0):
                worker.deliver(record)

    def bases(self) -> list[int]:
        """Return every base that was written."""
        records = self.log.records(topics.base("toy").name)
        return [ThingBase.from_bytes(r.value or b"").effects for r in records]

    def lose_acknowledgement(self, topic: str) -> None:
        """Let the next write to this topic be stored, and nobody told."""

        def lose(records: Sequence[Outgoing]) -> None:
            if any(record.topic == topic for record in records):
                self.log.on_stored = lambda _: None
                raise LogUnavailableError("stored, and not told")

        self.log.on_stored = lose


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Give a bench, and end its workers."""
    bench = Bench()
    yield bench
    bench.ledger.gate.set()
    for worker in bench.workers:
        worker.forget(range(PARTITIONS))
        await worker.abandon()


async def _count(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
    await ctx.deps.gate.wait()
    base = ctx.base(ThingBase)
    await ctx.agree(state(1 if base is None else base.effects + 1, ctx.run_id))
    return Done("counted")


# -- fencing -----------------------------------------------------------------------------------------


async def test_who_was_overtaken_writes_nothing_and_voids_the_partition(bench: Bench) -> None:
    bench.ledger.answer = _count
    old = await bench.worker()
    await bench.tell(old, 0)
    new = await bench.worker()
    bench.ledger.gate.set()
    await bench.turn()

    assert bench.bases() == []
    assert old.voided == {HOME}
    assert old.commits() == {}
    bench.read_on(new, HOME)
    await bench.turn()
    assert bench.bases() == [1]


async def test_a_partition_that_is_lost_cancels_its_own_runs_and_no_others(bench: Bench) -> None:
    away = next(n for n in map(str, range(99)) if codec.partition_of(n.encode()) == AWAY)
    bench.ledger.answer = _count
    worker = await bench.worker()
    await bench.tell(worker, 0, 1, ordered=True)
    for thing in ("a", away):
        event = ThingChanged(thing=thing)
        (place,) = await bench.log.append([encoded(CHANGED, event, bench.clock.now())])
        for record in bench.log.since(place.topic, place.partition, place.offset):
            worker.deliver(record)
    await bench.turn()
    assert bench.ledger.open == {"a": 2, away: 1}

    bench.lose_acknowledgement(topics.base("toy").name)
    bench.ledger.gate.set()
    await bench.turn()

    assert len(worker.voided) == 1
    assert worker.partitions | worker.voided == set(range(PARTITIONS))
    assert sum(bench.ledger.open.values()) == 0


# -- voided and taken over anew ----------------------------------------------------------------------


async def test_what_was_stored_unseen_is_read_when_the_partition_is_taken_over_anew(
    bench: Bench,
) -> None:
    bench.ledger.answer = _count
    bench.ledger.gate.set()
    worker = await bench.worker()
    bench.lose_acknowledgement(topics.base("toy").name)
    await bench.tell(worker, 0)
    assert worker.voided == {HOME}
    assert {(topic, HOME) for topic in worker.subscribed} <= worker.held_back()

    starts = await worker.retake()
    assert worker.voided == frozenset()
    assert worker.partitions == set(range(PARTITIONS))
    assert starts[CHANGED.name, HOME] == 0
    bench.read_on(worker, HOME)
    await bench.turn()
    assert bench.bases() == [1, 2]


async def test_what_was_finished_before_is_not_run_again_after_a_retake(bench: Bench) -> None:
    worker = await bench.worker()
    await bench.tell(worker, 0, ordered=True)
    await bench.tell(worker, 1, ordered=True)
    assert bench.ledger.numbers("a") == [0, 1]
    bench.ledger.answer = _count
    bench.ledger.gate.set()
    bench.lose_acknowledgement(topics.base("toy").name)
    await bench.tell(worker, 2, ordered=True)

    starts = await worker.retake()
    assert starts[ORDERED.name, HOME] == 2
    bench.read_on(worker, HOME)
    await bench.turn()
    assert bench.ledger.numbers("a") == [0, 1, 2, 2]
    assert worker.commits()[ORDERED.name, HOME] == Commit(3)


async def test_a_record_whose_retry_is_over_before_it_comes_again_is_not_run_again(
    bench: Bench,
) -> None:
    # given a record that failed once, and an owner that dies before it commits
    async def fail_once(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return Retry("not yet", error="Toy") if ctx.attempt == 1 else Done("now")

    bench.ledger.answer = fail_once
    old = await bench.worker()
    await bench.tell(old, 0)
    assert bench.ledger.numbers("a") == [0]

    # when the next owner makes the second attempt before it reads the record
    new = await bench.worker()
    bench.clock.move(3600)
    new.fire_due()
    await bench.turn()
    assert bench.ledger.numbers("a") == [0, 0]
    bench.read_on(new, HOME)
    await bench.turn()

    # then that was all, and it is committed
    assert bench.ledger.numbers("a") == [0, 0]
    assert new.commits()[CHANGED.name, HOME] == Commit(1)


async def test_what_a_void_partition_had_finished_is_committed_for_its_next_owner(
    bench: Bench,
) -> None:
    # given two records done, and a third whose write left its partition void
    old = await bench.worker()
    await bench.tell(old, 0, 1, ordered=True)
    bench.ledger.answer = _count
    bench.ledger.gate.set()
    bench.lose_acknowledgement(topics.base("toy").name)
    await bench.tell(old, 2, ordered=True)
    assert old.voided == {HOME}

    # when it is committed and another takes over
    commits = old.commits()
    assert commits == {(ORDERED.name, HOME): Commit(2)}
    old.committed(commits)
    assert old.commits() == {}
    new = await bench.worker()
    new.forget({HOME})
    await new.assign({HOME}, commits)
    bench.read_on(new, HOME)
    await bench.turn()

    # then only the third runs again
    assert bench.ledger.numbers("a") == [0, 1, 2, 2]


async def test_a_member_whose_partitions_are_all_void_commits_when_it_gives_them_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = KafkaHost(
        toy(bench.ledger),
        bench.ledger,
        connect={"bootstrap_servers": "127.0.0.1:1"},
        log=bench.log,
        clock=bench.clock,
        locks=NoLocks(),
        options=WorkerOptions(),
        instance=None,
    )
    told: list[Mapping[Place, Commit]] = []

    async def commit(commits: Mapping[Place, Commit]) -> bool:
        told.append(commits)
        return True

    monkeypatch.setattr(host._consumer, "commit", commit)
    monkeypatch.setattr(host._consumer, "holds_lease", lambda: True)
    bench.workers.append(host.worker)
    await host.worker.assign({HOME})
    await bench.tell(host.worker, 0, 1, ordered=True)
    bench.ledger.answer = _count
    bench.ledger.gate.set()
    bench.lose_acknowledgement(topics.base("toy").name)
    await bench.tell(host.worker, 2, ordered=True)
    assert host.worker.partitions == frozenset()
    assert host.worker.voided == {HOME}

    await host._revoked(frozenset({HOME}))
    assert told == [{(ORDERED.name, HOME): Commit(2)}]
    assert host.worker.voided == frozenset()
    await host.close()


async def test_a_retake_while_kafka_is_away_leaves_everything_voided(bench: Bench) -> None:
    bench.ledger.answer = _count
    bench.ledger.gate.set()
    worker = await bench.worker()
    bench.lose_acknowledgement(topics.base("toy").name)
    await bench.tell(worker, 0)

    bench.log.failing = True
    with pytest.raises(LogUnavailableError):
        await worker.retake()
    assert worker.voided == {HOME}
    assert HOME not in worker.partitions

    bench.log.failing = False
    await worker.retake()
    assert worker.voided == frozenset()


async def test_an_entry_that_was_stored_unseen_is_no_second_attempt(bench: Bench) -> None:
    attempts: list[int] = []

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        attempts.append(ctx.attempt)
        return Retry("it is raining")

    bench.ledger.answer = fail
    worker = await bench.worker()
    bench.lose_acknowledgement(topics.schedule("toy").name)
    await bench.tell(worker, 0)
    assert worker.voided == {HOME}
    await worker.retake()
    bench.read_on(worker, HOME)
    await bench.turn()

    assert attempts == [1]
    (entry,) = [e for e in worker.schedule.entries() if e.entity_id == "a"]
    assert entry.attempt == 1
    assert worker.commits()[CHANGED.name, HOME] == Commit(1)


# -- held lanes --------------------------------------------------------------------------------------


async def test_later_events_are_held_also_by_the_next_owner(bench: Bench) -> None:
    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return Retry("it is raining") if event.number == 0 and ctx.attempt < 2 else Done("dry")

    bench.ledger.answer = fail
    first = await bench.worker()
    await bench.tell(first, 0, 1, ordered=True)
    assert bench.ledger.numbers("a") == [0]

    second = await bench.worker()
    bench.read_on(second, HOME)
    await bench.tell(second, 2, ordered=True)
    assert bench.ledger.numbers("a") == [0]
    bench.clock.move(60)
    second.fire_due()
    await bench.turn()
    assert bench.ledger.numbers("a") == [0, 0, 1, 2]


@pytest.mark.parametrize("turns", range(8))
async def test_what_became_due_before_its_run_was_tidied_away_starts_all_the_same(
    bench: Bench, turns: int
) -> None:
    async def part(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return Wait("one part", timedelta()) if len(ctx.deps.started) == 1 else Done("the rest")

    bench.ledger.answer = part
    worker = await bench.worker()
    event = ThingChanged(thing="a")
    (place,) = await bench.log.append([encoded(ORDERED, event, bench.clock.now())])
    for record in bench.log.since(place.topic, place.partition, place.offset):
        worker.deliver(record)
    for _ in range(turns):
        await asyncio.sleep(0)
    worker.fire_due()
    await bench.turn()
    worker.fire_due()
    await bench.turn()

    assert bench.ledger.numbers("a") == [0, 0]
    assert not worker.busy


# -- what is held back -------------------------------------------------------------------------------


async def test_a_partition_that_holds_too_many_records_is_held_back_alone(bench: Bench) -> None:
    bench.ledger.answer = _count
    worker = await bench.worker(WorkerOptions(records_in_flight=3))
    await bench.tell(worker, 0, 1, ordered=True)
    assert worker.held_back() == frozenset()
    await bench.tell(worker, 2, ordered=True)
    assert worker.held_back() == {(topic, HOME) for topic in worker.subscribed}
    bench.ledger.gate.set()
    await bench.turn()
    assert worker.held_back() == frozenset()


async def test_too_many_bytes_hold_everything_back(bench: Bench) -> None:
    bench.ledger.answer = _count
    worker = await bench.worker(WorkerOptions(bytes_in_flight=30))
    await bench.tell(worker, 0)
    assert worker.full
    assert {number for _, number in worker.held_back()} == set(range(PARTITIONS))
    bench.ledger.gate.set()
    await bench.turn()
    assert worker.held_back() == frozenset()


async def test_a_step_that_may_not_start_holds_back_its_topic_alone(bench: Bench) -> None:
    worker = await bench.worker()
    bench.gates.shut = {"Toy Order"}
    assert worker.held_back() == {(ORDERED.name, number) for number in range(PARTITIONS)}
    await bench.tell(worker, 0, ordered=True)
    await bench.tell(worker, 0)
    assert bench.ledger.numbers("a") == [0]
    assert not worker.busy
    bench.gates.shut = set()
    worker.fire_due()
    await bench.turn()
    assert bench.ledger.numbers("a") == [0, 0]


# -- the lease ---------------------------------------------------------------------------------------


async def test_without_a_lease_nothing_starts_and_what_runs_does_nothing_outside(
    bench: Bench,
) -> None:
    effects: list[int] = []

    async def touch(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        await ctx.deps.gate.wait()
        async with ctx.effect("outside", "touch"):
            effects.append(event.number)
        return Done("touched")

    bench.ledger.answer = touch
    worker = await bench.worker()
    await bench.tell(worker, 0, ordered=True)
    bench.lease = False
    await bench.tell(worker, 0)
    bench.ledger.gate.set()
    await bench.turn()

    assert effects == []
    assert bench.ledger.started == [("a", 0)]
    assert bench.log.records(topics.JOURNAL.name) == []


async def test_a_refused_member_forgets_all_and_its_runs_end_where_they_are(bench: Bench) -> None:
    bench.ledger.answer = _count
    worker = await bench.worker()
    await bench.tell(worker, 0)
    worker.lose("refused")
    bench.ledger.gate.set()
    await bench.turn()

    assert bench.bases() == []
    assert worker.partitions == worker.voided == frozenset()
    assert worker.commits() == {}
    assert sum(bench.ledger.open.values()) == 0
    assert not worker.busy
