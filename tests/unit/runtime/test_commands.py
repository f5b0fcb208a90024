"""`control.commands`: read before anything runs, followed, and written when a step halts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from bitbylaw_common import metrics, topics
from bitbylaw_common.errors import DecodeError, LogUnavailableError
from bitbylaw_common.events import Command, ReplayCancelled, StepHalted, StepPaused
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.commands import Commands, Image, encoded, parse, standing, withdrawn
from bitbylaw_common.runtime.gates import Gates
from bitbylaw_common.runtime.hosts.memory_host import ManualClock, MemoryLog
from bitbylaw_common.runtime.ports import Outgoing, Position, Record
from bitbylaw_common.topics import PARTITIONS

SERVICE, STEP, V1, V2 = "commands-test", "Commands Sync", "1.0", "2.0"
TOPIC = topics.COMMANDS.name
PLACES = {(TOPIC, number): 0 for number in range(PARTITIONS)}


class Broker(MemoryLog):
    """A log in memory that can be followed, and breaks off when told to."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.appended = asyncio.Event()
        self.broken = False

    def _store(self, record: Outgoing) -> Position:
        stored = super()._store(record)
        self.appended.set()
        return stored

    async def follow(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        positions = dict(starts)
        while not self.broken:
            for (topic, number), start in positions.items():
                for record in self.since(topic, number, start):
                    positions[topic, number] = record.offset + 1
                    yield record
            self.appended.clear()
            await self.appended.wait()
        raise LogUnavailableError("following broke off")

    def compact(self, key: str) -> None:
        """Remove every record of a key, as compaction does long after its tombstone."""
        for place, records in self._records.items():
            self._records[place] = [r for r in records if r.key != key.encode()]


class Bench:
    """One log, and processes of one service over it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.log = Broker(self.clock)

    def gates(self, version: str = V1) -> Gates:
        return Gates(SERVICE, [STEP], clock=self.clock, code_version=version, instance="w")

    @asynccontextmanager
    async def process(self, version: str = V1) -> AsyncIterator[Gates]:
        gates = self.gates(version)
        commands = Commands(self.log, self.clock, [gates], source=SERVICE)
        tasks = [
            asyncio.create_task(commands.follow(self.log)),
            asyncio.create_task(commands.publish()),
        ]
        try:
            async with asyncio.timeout(5):
                while not commands.loaded.is_set():
                    await asyncio.sleep(0)
                    self.clock.move(1)
            yield gates
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def says(self, *said: Command) -> None:
        await self.log.append([encoded(one, self.clock, source="test") for one in said])

    async def withdraws(self, *said: Command) -> None:
        await self.log.append([withdrawn(one.key, self.clock, source="test") for one in said])

    def pause(self, step: str = STEP) -> StepPaused:
        return StepPaused(service=SERVICE, step=step, since=self.clock.now(), reason="audit")

    def halt(self, version: str = V1) -> StepHalted:
        return StepHalted(
            service=SERVICE, step=STEP, code_version=version, since=self.clock.now(), reason="bugs"
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let everything go on, time as well, until it is so."""
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)
                if self.clock.next_sleeper() is not None:
                    self.clock.move(self.clock.next_sleeper() or 0)

    async def rest(self) -> None:
        """Let everything go on for a while, without time."""
        for _ in range(50):
            await asyncio.sleep(0)

    def stored(self, kind: type[Command]) -> list[Command]:
        found = [parse(record) for record in self.log.records(TOPIC)]
        return [one for one in found if isinstance(one, kind)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def fail(gates: Gates, count: int = 5) -> None:
    for number in range(count):
        gates.ended(STEP, f"k{number}", "bug")


def record(key: bytes | None, value: bytes | None, partition: int | None = None) -> Record:
    number = codec.partition_of(key or b"") if partition is None else partition
    return Record(TOPIC, number, 0, key, value)


# -- records --------------------------------------------------------------------------------------


def test_what_is_written_reads_as_it_was(bench: Bench) -> None:
    cancelled = ReplayCancelled(replay_id="r1", since=bench.clock.now())
    for said in (bench.pause(), bench.pause(""), bench.halt(), cancelled):
        out = encoded(said, bench.clock, source="test")
        again = parse(record(out.key, out.value))

        assert type(again) is type(said)
        assert again is not None
        assert again.model_dump(exclude={"v"}) == said.model_dump()
        assert out.headers["ce_type"] == said.type
        assert out.headers["ce_subject"].encode() == out.key


def test_the_keys_are_what_the_fleet_agreed_on(bench: Bench) -> None:
    assert bench.pause().key == "commands-test|Commands Sync"
    assert bench.pause("").key == "commands-test|"
    assert bench.halt().key == "commands-test|Commands Sync|1.0"
    assert ReplayCancelled(replay_id="r1", since=bench.clock.now()).key == "replay|r1"


def test_a_cancelled_replay_needs_no_more_than_its_id_and_when() -> None:
    value = b'{"kind":"replay_cancelled","replay_id":"r1","by":"x","since":"2026-03-02T09:00:00Z"}'

    assert isinstance(parse(record(b"replay|r1", value)), ReplayCancelled)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"brake|espocrm", b'{"kind":"brake","anything":[1]}'),
        (b"brake|espocrm", None),
        (b"commands-test|Commands Sync", None),
    ],
)
def test_unknown_kinds_and_tombstones_command_nothing(key: bytes, value: bytes | None) -> None:
    assert parse(record(key, value)) is None


@pytest.mark.parametrize(
    "odd",
    [
        record(b"a|b", b"no json"),
        record(b"a|b", b"[1]"),
        record(b"a|b", b'{"kind":7}'),
        record(b"a|b", b'{"no":"kind"}'),
        record(b"a|b", b'{"kind":"paused","service":"a"}'),
        record(b"a|b", b'{"kind":"paused","service":"a","step":"b","since":"never"}'),
        record(b"a|c", b'{"kind":"paused","service":"a","step":"b","since":"2026-03-02T09:00Z"}'),
        record(None, b'{"kind":"brake"}'),
        record(b"\xff\xfe", b'{"kind":"brake"}'),
        record(b"brake|x", b'{"kind":"brake"}', (codec.partition_of(b"brake|x") + 1) % PARTITIONS),
    ],
)
def test_what_cannot_be_read_is_refused_without_a_word_of_it(odd: Record) -> None:
    with pytest.raises(DecodeError) as refused:
        parse(odd)

    assert str(refused.value).startswith(TOPIC)
    assert "never" not in str(refused.value)


def test_older_records_change_nothing_in_whatever_order_they_come(bench: Bench) -> None:
    image, said = Image(), bench.pause()

    assert image.take("k", 3, None)
    assert not image.take("k", 2, said)
    assert image.get("k") is None
    assert image.take("k", 4, said)
    assert image.take("k", 4, said)
    assert image.commands() == [said]


async def test_a_look_at_the_topic_tells_what_stands_and_what_nobody_understands(
    bench: Bench,
) -> None:
    await bench.says(bench.pause(), bench.halt(), bench.halt(V2))
    await bench.withdraws(bench.halt())
    for value in (b"{", b'{"kind":"brake"}'):
        for key in (b"brake|x", b"brake|y"):
            await bench.log.append([Outgoing(TOPIC, key, value)])
    await bench.log.append([Outgoing(TOPIC, b"brake|y", b"{")])

    found = await standing(bench.log.read(PLACES))

    assert [one.key for one in found.commands] == [bench.pause().key, bench.halt(V2).key]
    assert (found.unknown, found.unreadable) == (1, 1)


# -- following ------------------------------------------------------------------------------------


async def test_what_stands_is_known_before_anything_may_start(bench: Bench) -> None:
    await bench.says(bench.pause())

    async with bench.process() as gates:
        assert gates.room(STEP) == 0


async def test_nothing_may_start_while_the_topic_cannot_be_read(bench: Bench) -> None:
    class Away(Broker):
        async def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
            if self.broken:
                raise LogUnavailableError("away")
            async for record in super().read(starts):
                yield record

    log = Away(bench.clock)
    log.broken = True
    commands = Commands(log, bench.clock, [bench.gates()], source=SERVICE)
    following = asyncio.create_task(commands.follow(log))
    await bench.rest()
    assert not commands.loaded.is_set()

    log.broken = False
    await bench.until(commands.loaded.is_set)
    following.cancel()
    await asyncio.wait({following})


async def test_a_pause_and_its_end_reach_every_process(bench: Bench) -> None:
    async with bench.process(V1) as one, bench.process(V2) as other:
        await bench.says(bench.pause())
        await bench.until(lambda: (one.room(STEP), other.room(STEP)) == (0, 0))
        await bench.withdraws(bench.pause())
        await bench.until(lambda: (one.room(STEP), other.room(STEP)) == (None, None))


async def test_an_unreadable_command_is_counted_and_everything_goes_on(bench: Bench) -> None:
    labels = {"service": SERVICE, "source": "control"}
    before = metrics.value("bitbylaw_undecodable_records_total", **labels)
    await bench.log.append([Outgoing(TOPIC, b"a|b", b"garbage")])

    async with bench.process() as gates:
        await bench.log.append([Outgoing(TOPIC, bench.pause().key.encode(), b"\xff")])
        await bench.log.append([Outgoing(TOPIC, b"brake|x", b'{"kind":"brake"}')])
        await bench.says(bench.pause())
        await bench.until(lambda: gates.room(STEP) == 0)

    assert metrics.value("bitbylaw_undecodable_records_total", **labels) == before + 2


async def test_after_an_outage_what_was_withdrawn_and_compacted_meanwhile_is_over(
    bench: Bench,
) -> None:
    await bench.says(bench.halt(), bench.pause(""))
    async with bench.process() as gates:
        bench.log.broken = True
        bench.log.appended.set()
        await bench.rest()
        bench.log.compact(bench.halt().key)
        await bench.withdraws(bench.pause(""))
        assert gates.room(STEP) == 0

        bench.log.broken = False
        await bench.until(lambda: gates.room(STEP) == 1)


async def test_a_host_that_follows_nothing_delivers_what_comes(bench: Bench) -> None:
    gates = bench.gates()
    commands = Commands(bench.log, bench.clock, [gates], source=SERVICE)
    await commands.load()
    assert commands.loaded.is_set()

    await bench.says(bench.pause())
    assert gates.room(STEP) is None
    for one in bench.log.records(TOPIC):
        commands.deliver(one)
    assert gates.room(STEP) == 0


# -- halting --------------------------------------------------------------------------------------


async def test_a_halt_is_written_and_holds_the_other_workers_of_its_version(bench: Bench) -> None:
    async with bench.process() as one, bench.process() as other, bench.process(V2) as new:
        fail(one)
        assert one.room(STEP) == 0
        await bench.until(lambda: other.room(STEP) == 0)

        [halt] = bench.stored(StepHalted)
        assert (halt.by, halt.key) == ("w", bench.halt().key)
        assert one.states()[0].recorded
        assert new.room(STEP) is None


async def test_a_halt_survives_a_restart_but_not_a_new_version(bench: Bench) -> None:
    async with bench.process() as gates:
        fail(gates)
        await bench.until(lambda: len(bench.stored(StepHalted)) == 1)

    async with bench.process(V1) as same:
        assert same.room(STEP) == 0
    async with bench.process(V2) as new:
        assert new.room(STEP) == 1
    assert len(bench.log.records(TOPIC)) == 1


async def test_while_kafka_is_away_the_step_stands_still_and_the_halt_is_written_in_the_end(
    bench: Bench,
) -> None:
    async with bench.process() as gates:
        bench.log.failing = True
        fail(gates)
        refused = 0

        def count(_records: Sequence[Outgoing]) -> None:
            nonlocal refused
            refused += 1
            assert gates.room(STEP) == 0

        bench.log.on_append = count
        await bench.until(lambda: refused == 4)
        assert bench.log.records(TOPIC) == []

        bench.log.failing = False
        await bench.until(lambda: len(bench.stored(StepHalted)) == 1)
        assert gates.room(STEP) == 0


async def test_a_process_that_stops_writes_its_halt_first_if_kafka_takes_it(bench: Bench) -> None:
    gates = bench.gates()
    commands = Commands(bench.log, bench.clock, [gates], source=SERVICE)
    fail(gates)
    await commands.last_words(5)
    assert len(bench.stored(StepHalted)) == 1
    assert gates.unpublished() == ()
    async with bench.process() as successor:
        assert successor.room(STEP) == 0


async def test_a_process_that_stops_waits_for_kafka_no_longer_than_it_is_told(bench: Bench) -> None:
    gates = bench.gates()
    commands = Commands(bench.log, bench.clock, [gates], source=SERVICE)
    bench.log.failing = True
    fail(gates)
    async with asyncio.timeout(5):
        await commands.last_words(0.05)
    assert len(gates.unpublished()) == 1


async def test_a_resume_ends_the_halt_of_two_workers_that_halted_at_once(bench: Bench) -> None:
    async with bench.process() as one, bench.process() as other:
        fail(one)
        fail(other)
        await bench.until(lambda: not (one.unpublished() or other.unpublished()))
        await bench.rest()
        assert (one.room(STEP), other.room(STEP)) == (0, 0)

        await bench.withdraws(bench.halt())
        await bench.until(lambda: (one.room(STEP), other.room(STEP)) == (1, 1))
        await bench.rest()
        assert (one.room(STEP), other.room(STEP)) == (1, 1)


@pytest.mark.parametrize("outage", [False, True])
async def test_an_acknowledgement_that_comes_after_the_resume_does_not_halt_again(
    bench: Bench, outage: bool
) -> None:
    """With an outage the follower never sees the halt itself, only that it is withdrawn."""
    async with bench.process() as gates:
        if outage:
            bench.log.broken = True
            bench.log.appended.set()
            await bench.rest()
        held = asyncio.Event()
        append = bench.log.append

        async def late(records: Sequence[Outgoing]) -> list[Position]:
            stored = await append(records)
            await held.wait()
            return stored

        bench.log.append = late  # type: ignore[method-assign]  # the broker answers late
        fail(gates)
        await bench.until(lambda: len(bench.stored(StepHalted)) == 1)
        await append([withdrawn(bench.halt().key, bench.clock, source="test")])
        bench.log.broken = False
        if not outage:
            await bench.until(lambda: gates.room(STEP) == 1)

        held.set()
        await bench.until(lambda: gates.room(STEP) == 1)
        await bench.rest()
        assert gates.room(STEP) == 1


async def test_a_step_that_fails_again_on_the_ramp_is_halted_again(bench: Bench) -> None:
    async with bench.process() as gates:
        fail(gates)
        await bench.until(lambda: len(bench.stored(StepHalted)) == 1)
        await bench.withdraws(bench.halt())
        await bench.until(lambda: gates.room(STEP) == 1)

        fail(gates, 3)
        assert gates.room(STEP) == 0
        await bench.until(lambda: len(bench.stored(StepHalted)) == 2)


async def test_versions_never_erase_one_another_s_halts(bench: Bench) -> None:
    async with bench.process(V1) as old, bench.process(V2) as new:
        fail(old)
        fail(new)
        await bench.until(lambda: len(bench.stored(StepHalted)) == 2)
        await bench.rest()
        assert (old.room(STEP), new.room(STEP)) == (0, 0)

        await bench.withdraws(bench.halt(V2))
        await bench.until(lambda: new.room(STEP) == 1)
        assert old.room(STEP) == 0
