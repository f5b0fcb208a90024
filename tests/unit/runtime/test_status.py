"""A worker's status: what it says, how it measures, when it is published, how it is read back."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bitbylaw_common import metrics, topics
from bitbylaw_common.circuits import CircuitState, State
from bitbylaw_common.kafka import codec
from bitbylaw_common.logs import configure
from bitbylaw_common.runtime.gates import GateState
from bitbylaw_common.runtime.hosts.memory_host import ManualClock, MemoryLog
from bitbylaw_common.runtime.lanes import LaneKey
from bitbylaw_common.runtime.ports import Outgoing, Position, Record
from bitbylaw_common.runtime.schedule import Carried, Kind, ScheduleEntry
from bitbylaw_common.runtime.status import (
    ALIVE_SECONDS,
    GONE_SECONDS,
    PUBLISH_SECONDS,
    SHOWN,
    Meter,
    Rates,
    RunningLane,
    Sighting,
    StatusReports,
    WorkerFacts,
    WorkerStatus,
    sightings,
    status_of,
)

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
STEP = "Document Sync"


def run(entity_id: str, *, ago: float, **given: Any) -> RunningLane:
    key = LaneKey(STEP, "document", entity_id)
    fields: dict[str, Any] = {"attempt": 1, "behind": 0} | given
    position = Position("vmh.document.update", 3, 7)
    return RunningLane.of(key, position, started=NOW - timedelta(seconds=ago), **fields)


def entry(
    entity_id: str, *, kind: Kind = "retry", attempt: int = 1, ago: int = 60
) -> ScheduleEntry:
    return ScheduleEntry(
        step=STEP,
        entity="document",
        entity_id=entity_id,
        due=NOW + timedelta(minutes=5),
        kind=kind,
        attempt=attempt,
        since=NOW - timedelta(seconds=ago),
        reason="words that are not repeated",
        error="Transient",
        carried=Carried(topic="vmh.document.update", value="{}", origin="vmh.document.update:3:7"),
    )


def gate(step: str, state: Any) -> GateState:
    return GateState(step, state, 0, NOW, "5 bugs", by="a", command=f"bbl resume s '{step}' --yes")


def circuit(system: str, state: State, **given: Any) -> CircuitState:
    fields: dict[str, Any] = {"room": 0, "next_probe": None, "not_before": None} | given
    return CircuitState(system, state, NOW, "503", **fields)


FACTS = WorkerFacts(
    service="document-sync",
    instance="document-sync-0",
    code_version="1.2",
    now=NOW,
    began=NOW - timedelta(hours=1),
    draining=False,
    partitions={2, 0, 1},
    running=(),
    ready_by_step={},
    waiting=0,
    in_flight=0,
    entries=(),
    schedule={"retry": 0, "wait": 0, "tick": 0},
    gates=(),
    circuits=(),
    needs={STEP: ("xai", "espocrm")},
    rates=Rates(),
    last_commit=None,
)


# -- from facts to a status -----------------------------------------------------------------------


def test_the_oldest_runs_are_named_and_all_are_counted() -> None:
    runs = [run(f"d{ago}", ago=ago) for ago in random.Random(1).sample(range(100), 40)]
    status = status_of(replace(FACTS, running=runs))
    oldest = sorted(runs, key=lambda one: one.started)[:SHOWN]
    assert (status.running, list(status.oldest)) == (40, oldest)
    assert status.oldest[0].position == "vmh.document.update:3:7"


def test_only_keys_that_failed_count_as_failing_and_the_longest_are_named() -> None:
    entries = [entry(f"d{number}", ago=number) for number in range(1, 9)]
    others = [entry("waits", kind="wait", attempt=0, ago=900), entry("cron", kind="tick", ago=900)]
    counts: dict[Kind, int] = {"retry": 8, "wait": 1, "tick": 1}
    status = status_of(replace(FACTS, entries=[*others, *entries], schedule=counts))
    assert (status.failing, status.schedule) == (8, counts)
    assert [one.entity_id for one in status.failing_oldest] == ["d8", "d7", "d6", "d5", "d4"]
    assert status.failing_oldest[0].origin == "vmh.document.update:3:7"


def test_no_word_of_a_record_is_in_a_status() -> None:
    status = status_of(replace(FACTS, entries=[entry("d1")], running=[run("d1", ago=1)]))
    assert "words that are not repeated" not in status.model_dump_json()


@pytest.mark.parametrize(
    ("gates", "circuits", "ready"),
    [
        ((), (), 9),
        ((gate(STEP, "halted"),), (), 2),
        ((gate(STEP, "paused"),), (), 2),
        ((gate(STEP, "ramping"),), (), 9),
        ((), (circuit("xai", State.OPEN),), 2),
        ((), (circuit("xai", State.PROBING),), 2),
        ((), (circuit("xai", State.RAMPING, room=2),), 9),
        ((), (circuit("xai", State.CLOSED, room=None),), 9),
        ((), (circuit("xai", State.CLOSED, not_before=NOW + timedelta(seconds=9)),), 2),
        ((), (circuit("xai", State.CLOSED, room=None, not_before=NOW - timedelta(seconds=9)),), 9),
        ((), (circuit("xai", State.CLOSED, room=None, not_before=NOW + timedelta(hours=1)),), 9),
        ((), (circuit("google", State.OPEN),), 9),
    ],
)
def test_a_key_counts_as_ready_only_where_it_waits_for_nothing_but_a_place(
    gates: Sequence[GateState], circuits: Sequence[CircuitState], ready: int
) -> None:
    facts = replace(FACTS, ready_by_step={STEP: 7, "Other": 2}, gates=gates, circuits=circuits)
    assert status_of(facts).ready == ready


def test_what_holds_steps_and_systems_back_is_told_with_how_many_wait() -> None:
    probe = NOW + timedelta(seconds=8)
    status = status_of(
        replace(
            FACTS,
            ready_by_step={STEP: 7, "Other": 2},
            gates=(gate(STEP, "halted"),),
            circuits=(
                circuit("xai", State.OPEN, next_probe=probe),
                circuit("espocrm", State.CLOSED, not_before=probe),
                circuit("google", State.CLOSED, room=None),
            ),
        )
    )
    told = [(one.what, one.step or one.system, one.until, one.keys) for one in status.held]
    assert told == [
        ("halted", STEP, None, 7),
        ("circuit", "xai", probe, 7),
        ("rate limit", "espocrm", probe, 7),
    ]
    assert [one.since for one in status.held] == [NOW, NOW, None]
    assert status.held[0].command == f"bbl resume s '{STEP}' --yes"


# -- rates ----------------------------------------------------------------------------------------


def test_a_steady_rate_is_told_as_it_is_from_the_first_seconds_on() -> None:
    clock = ManualClock()
    meter = Meter(clock.monotonic)
    for second in range(200):
        for _ in range(40):
            meter.arrived()
            meter.finished(0.1, 1)
            clock.move(0.025)
        rates = meter.rates()
        assert rates.finished_per_second == pytest.approx(40, rel=0.05), second
        assert rates.arrivals_per_second == pytest.approx(40, rel=0.05), second


def test_what_lies_more_than_a_minute_back_counts_no_more() -> None:
    clock = ManualClock()
    meter = Meter(clock.monotonic)
    meter.arrived(30)
    meter.finished(1.0, 30)
    clock.move(59.5)
    assert meter.rates().arrivals_per_second == pytest.approx(0.5, rel=0.05)
    clock.move(3.0)
    assert meter.rates().arrivals_per_second == meter.rates().finished_per_second == 0
    clock.move(10.0)  # lengths are kept in slots of ten seconds
    assert meter.rates() == Rates()


def test_a_burst_is_told_at_the_pace_it_is_worked_off_and_not_spread_over_the_minute() -> None:
    clock = ManualClock()
    meter = Meter(clock.monotonic)
    clock.move(1_000)
    meter.arrived(2_000)
    for _ in range(12):
        meter.finished(0.1, 40)
        clock.move(1)
    rates = meter.rates()
    assert rates.arrivals_per_second == 0
    assert rates.finished_per_second == pytest.approx(40)


def test_a_long_pause_between_two_runs_leaves_no_trace_of_the_first() -> None:
    clock = ManualClock()
    meter = Meter(clock.monotonic)
    for _ in range(50):
        meter.finished(9.0, 1)
    clock.move(100_000)
    meter.finished(0.01, 6)
    rates = meter.rates()
    assert rates.finished_per_second == pytest.approx(6 / 60)
    assert rates.runs_per_second == pytest.approx(1 / 60)
    assert rates.p95_run_seconds == pytest.approx(0.01, rel=0.2)


def test_p95_is_told_within_a_fifth() -> None:
    chance = random.Random(4)
    for _ in range(20):
        meter = Meter(ManualClock().monotonic)
        took = [chance.lognormvariate(-2, 1.5) for _ in range(500)]
        for seconds in took:
            meter.finished(seconds, 1)
        exact = sorted(took)[474]
        told = meter.rates().p95_run_seconds
        assert told is not None
        assert max(exact, 0.001) <= told <= max(exact, 0.001) * 1.2


def test_runs_of_the_schedule_count_as_runs_and_not_as_records() -> None:
    clock = ManualClock()
    meter = Meter(clock.monotonic)
    meter.finished(0.1, 0)
    meter.finished(0.1, 3)
    clock.move(10)
    rates = meter.rates()
    assert (rates.runs_per_second, rates.finished_per_second) == (0.2, 0.3)


# -- publishing -----------------------------------------------------------------------------------


class Fleet:
    """One publisher over a log in memory, and the worker it tells of."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.log = MemoryLog(self.clock)
        self.facts = FACTS
        self.reports = StatusReports(self.own, self.log, self.clock, source="document-sync")

    def own(self) -> list[WorkerStatus]:
        return [status_of(replace(self.facts, now=self.clock.now()))]

    @property
    def records(self) -> list[Record]:
        return self.log.records(topics.WORKERS.name)

    async def go_on(self, seconds: float) -> None:
        """Let time pass, in steps no longer than the publisher's."""
        for _ in range(round(seconds / PUBLISH_SECONDS)):
            await settled()
            self.clock.move(PUBLISH_SECONDS)
        await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def publishing(fleet: Fleet) -> AsyncIterator[None]:
    task = asyncio.create_task(fleet.reports.publish())
    try:
        await settled()
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def test_a_worker_at_rest_says_every_half_minute_that_it_is_there() -> None:
    fleet = Fleet()
    async with publishing(fleet):
        await fleet.go_on(4 * ALIVE_SECONDS)
    assert len(fleet.records) == 5


async def test_while_something_changes_each_look_is_published() -> None:
    fleet = Fleet()
    async with publishing(fleet):
        for waiting in range(1, 6):
            fleet.facts = replace(fleet.facts, waiting=waiting)
            await fleet.go_on(PUBLISH_SECONDS)
    found = [WorkerStatus.model_validate_json(record.value or b"") for record in fleet.records]
    assert [one.waiting for one in found] == [0, 1, 2, 3, 4, 5]


async def test_a_breathing_event_loop_alone_is_no_news() -> None:
    fleet = Fleet()
    async with publishing(fleet):
        for _ in range(5):
            metrics.LOOP_LAG_SECONDS.observe(random.Random().uniform(0.001, 0.004))
            await fleet.go_on(PUBLISH_SECONDS)
    assert len(fleet.records) == 1


async def test_the_loop_s_lag_is_the_mean_since_the_status_before() -> None:
    fleet = Fleet()
    async with publishing(fleet):
        for late in (0.3, 0.5):
            metrics.LOOP_LAG_SECONDS.observe(late)
        fleet.facts = replace(fleet.facts, waiting=1)
        await fleet.go_on(PUBLISH_SECONDS)
        fleet.facts = replace(fleet.facts, waiting=2)
        await fleet.go_on(PUBLISH_SECONDS)
    found = [WorkerStatus.model_validate_json(record.value or b"") for record in fleet.records]
    assert [one.loop_lag_seconds for one in found] == [0.0, 0.4, 0.0]


async def test_an_outage_costs_one_warning_and_the_newest_follows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("json", "info")  # to the standard error of this very test
    fleet = Fleet()
    async with publishing(fleet):
        fleet.log.failing = True
        fleet.facts = replace(fleet.facts, waiting=1)
        await fleet.go_on(3 * PUBLISH_SECONDS)
        fleet.log.failing = False
        await fleet.go_on(PUBLISH_SECONDS)
    found = [WorkerStatus.model_validate_json(record.value or b"") for record in fleet.records]
    assert [one.waiting for one in found] == [0, 1]
    assert "".join(capsys.readouterr()).count("the status was not published") == 1


async def test_a_clean_stop_leaves_a_tombstone_and_nothing_after_it() -> None:
    fleet = Fleet()
    async with publishing(fleet):
        await fleet.reports.withdraw()
        fleet.facts = replace(fleet.facts, waiting=1)
        await fleet.go_on(4 * PUBLISH_SECONDS)
    assert [record.value is None for record in fleet.records] == [False, True]
    assert fleet.records[0].key == fleet.records[1].key == b"document-sync|document-sync-0"


async def test_a_stop_while_kafka_is_away_ends_all_the_same() -> None:
    fleet = Fleet()
    async with publishing(fleet):
        fleet.log.failing = True
        await fleet.reports.withdraw()
    assert len(fleet.records) == 1


async def test_a_worker_that_was_never_published_needs_no_good_bye() -> None:
    fleet = Fleet()
    await fleet.reports.withdraw()
    assert fleet.records == []


# -- reading --------------------------------------------------------------------------------------


async def each(records: Iterable[Record]) -> AsyncIterator[Record]:
    for record in records:
        yield record


def stored(key: bytes, value: bytes | None, *, at: datetime = NOW, offset: int = 0) -> Record:
    return Record(topics.WORKERS.name, 0, offset, key, value, {}, at)


def value_of(status: WorkerStatus) -> bytes:
    out: Outgoing = codec.encode(topics.WORKERS, status, event_id="e", source="s", now=NOW)
    assert out.value is not None
    return out.value


KEY = b"document-sync|document-sync-0"


async def test_the_last_status_counts_and_a_tombstone_tells_when_it_stopped() -> None:
    first, second = status_of(FACTS), status_of(replace(FACTS, waiting=4))
    later = NOW + timedelta(seconds=9)
    seen, unreadable = await sightings(
        each([stored(KEY, value_of(first)), stored(KEY, value_of(second), at=later)])
    )
    assert ([one.status for one in seen], unreadable) == ([second.model_copy(update={"v": 1})], 0)
    assert seen[0].at == later
    gone, _ = await sightings(each([stored(KEY, value_of(first)), stored(KEY, None, at=later)]))
    assert gone == (Sighting("document-sync", "document-sync-0", None, later),)


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"service":"s"}', b"\xff\x00"])
async def test_an_unreadable_status_is_passed_over_and_hides_no_other(value: bytes) -> None:
    status = status_of(FACTS)
    seen, unreadable = await sightings(
        each(
            [
                stored(KEY, value_of(status)),
                stored(KEY, value),
                stored(b"document-sync|other", value),
                stored(b"no key of ours", value_of(status)),
            ]
        )
    )
    assert ([one.instance for one in seen], unreadable) == (["document-sync-0"], 3)


async def test_a_status_of_a_newer_version_is_read_with_what_is_known() -> None:
    newer = json.loads(value_of(status_of(FACTS))) | {"mood": "fine", "v": 2}
    seen, unreadable = await sightings(each([stored(KEY, json.dumps(newer).encode())]))
    assert (len(seen), unreadable) == (1, 0)


@pytest.mark.parametrize(("ago", "alive"), [(0, True), (GONE_SECONDS, True), (91, False)])
def test_a_worker_that_is_silent_for_too_long_counts_as_gone(ago: float, alive: bool) -> None:
    seen = Sighting("s", "i", status_of(FACTS), NOW - timedelta(seconds=ago))
    assert seen.alive(NOW) is alive
