"""Crons at work on the memory host: deaths at every moment, downtimes, runs by hand, new code."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from bitbylaw_common import metrics, topics
from bitbylaw_common.events import RunRequested
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.outcomes import Done, Outcome, Retry, Wait
from bitbylaw_common.runtime import App, Context, Tick, cron, step, ticks
from bitbylaw_common.runtime.hosts.memory_host import MemoryHost
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_common.runtime.triggers import Missed

SWEEP = "steps::Sweep::trigger::0"
NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
FIRST = NINE + QUARTER


class Died(BaseException):
    """The process was killed."""


async def _done(tick: Tick) -> Outcome:
    return Done("swept")


@dataclass
class Ledger:
    """What the handler was called with, and what it answers."""

    ticks: list[Tick] = field(default_factory=list)
    ended: list[Tick] = field(default_factory=list)
    answer: Callable[[Tick], Awaitable[Outcome]] = _done

    @property
    def dues(self) -> list[datetime]:
        return [tick.due for tick in self.ticks if not tick.manual]


def sweeper(
    ledger: Ledger, text: str | None = "0 */15 * * * *", missed: Missed = "once"
) -> App[Ledger]:
    """Return an app with one cron, or with another in its place."""

    @step(
        name="Sweep" if text is not None else "Other",
        description="Notes its ticks",
        flows=["test"],
        triggers=[cron(text or "0 0 2 * * *", missed=missed)],
        coalesce=True,
        deadline=timedelta(seconds=5),
    )
    async def sweep(tick: Tick, ctx: Context[Ledger]) -> Outcome:
        ledger.ticks.append(tick)
        outcome = await ledger.answer(tick)
        ledger.ended.append(tick)
        return outcome

    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Ledger]:
        yield ledger

    return App("sweeper", [sweep], open_deps)


@pytest.fixture
async def host() -> AsyncIterator[MemoryHost]:
    host = MemoryHost()
    yield host
    host.log.on_append = host.log.on_stored = lambda _: None
    await host.stop()


def journal(host: MemoryHost) -> list[JournalEntry]:
    return [entry for entry in host.journal(SWEEP) if entry.phase == "end"]


async def by_hand(host: MemoryHost, run_id: str) -> None:
    asked = RunRequested(function_id=SWEEP, run_id=run_id, subject=SWEEP)
    topic = topics.requests("sweeper")
    await host.log.append(
        [codec.encode(topic, asked, event_id=run_id, source="test", now=host.clock.now())]
    )


async def again(host: MemoryHost, app: App[Ledger], *, after: timedelta = timedelta()) -> None:
    """Kill the process and start `app` in its place, some time later."""
    await host.crash("sweeper")
    host.clock.move(after.total_seconds())
    await host.start(app)
    await host.settle()


async def test_instants_run_on_time_each_once(host: MemoryHost) -> None:
    ledger = Ledger()
    await host.start(sweeper(ledger))
    await host.advance(minutes=61)
    assert ledger.dues == [FIRST + n * QUARTER for n in range(4)]
    assert [entry.instant for entry in journal(host)] == ledger.dues
    assert [entry.run_id for entry in journal(host)] == [
        ticks.run_id(SWEEP, due) for due in ledger.dues
    ]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("moment", range(6))
async def test_whenever_the_process_dies_each_instant_ends_once(
    host: MemoryHost, moment: int, stored: bool
) -> None:
    ledger = Ledger()
    app = sweeper(ledger)
    await host.start(app)
    left = moment

    def die(_: Sequence[Outgoing]) -> None:
        nonlocal left
        if left == 0:
            left = -1
            raise Died
        left -= 1

    if stored:
        host.log.on_stored = die
    else:
        host.log.on_append = die
    for _ in range(3):
        try:
            await host.advance(minutes=16)
        except Died:
            await again(host, app)
    ends = [entry.run_id for entry in journal(host)]
    assert len(ends) == len(set(ends))
    assert [entry.instant for entry in journal(host)] == sorted(set(ledger.dues))
    assert ledger.dues[0] == FIRST
    # a run that ended is not made again: a second call of the handler was interrupted before
    assert len(ledger.ticks) <= len(ends) + 1


async def test_an_interrupted_run_is_resumed_under_its_id_however_late(host: MemoryHost) -> None:
    ledger = Ledger()

    async def die(tick: Tick) -> Outcome:
        raise Died

    ledger.answer = die
    await host.start(sweeper(ledger))
    with pytest.raises(Died):
        await host.advance(minutes=16)
    ledger.answer = _done
    await again(host, sweeper(ledger), after=timedelta(hours=1))
    assert [tick.due for tick in ledger.ticks] == [FIRST, FIRST, NINE + 5 * QUARTER]
    assert ledger.ticks[0] == ledger.ticks[1]
    first, newest = journal(host)
    assert first.reason.startswith("resumed: it began at 2026-03-02 10:15:00 CET")
    assert newest.reason.startswith("3 instants missed: 2026-03-02 10:30:00 CET")


@pytest.mark.parametrize(
    ("policy", "wanted", "outcome"),
    [
        ("once", [5], "done"),
        ("skip", [], "skipped"),
        ("all", [1, 2, 3, 4, 5], "done"),
    ],
)
async def test_missed_instants_go_by_the_policy_and_are_told(
    host: MemoryHost, policy: Missed, wanted: list[int], outcome: str
) -> None:
    ledger = Ledger()
    app = sweeper(ledger, missed=policy)
    await host.start(app)
    before = metrics.value("bitbylaw_cron_missed_total", service="sweeper", step="Sweep")
    await again(host, app, after=timedelta(minutes=80))
    await host.advance(seconds=1)
    assert ledger.dues == [NINE + n * QUARTER for n in wanted]
    assert journal(host)[-1].outcome == outcome
    missed = metrics.value("bitbylaw_cron_missed_total", service="sweeper", step="Sweep") - before
    assert missed == 5 - len(wanted)
    if policy != "all":
        assert f"{missed:.0f} instants missed: " in journal(host)[-1].reason + (
            journal(host)[-1].summary
        )
    await host.advance(minutes=15)
    assert ledger.dues[-1] == NINE + 6 * QUARTER


async def test_a_run_by_hand_leaves_the_pending_tick_where_it_is(host: MemoryHost) -> None:
    ledger = Ledger()
    app = sweeper(ledger)
    await host.start(app)
    await host.advance(minutes=5)
    await by_hand(host, "m1")
    await host.settle()
    assert [(tick.manual, tick.run_id) for tick in ledger.ticks] == [(True, "m1")]
    await host.advance(minutes=11)
    assert ledger.dues == [FIRST]
    (entry,) = host.worker("sweeper").schedule.entries()
    assert (entry.due, entry.answered) == (FIRST + QUARTER, ("m1",))


async def test_a_run_by_hand_beside_a_due_tick_answers_neither_for_the_other(
    host: MemoryHost,
) -> None:
    ledger = Ledger()
    gate = asyncio.Event()

    async def slow(tick: Tick) -> Outcome:
        await gate.wait()
        return Done("swept")

    ledger.answer = slow
    await host.start(sweeper(ledger))
    await by_hand(host, "m1")
    host.nudge()
    await asyncio.sleep(0.01)
    host.clock.move(QUARTER.total_seconds())
    host.nudge()
    await by_hand(host, "m2")
    host.nudge()
    gate.set()
    await host.settle()
    assert [tick.run_id for tick in ledger.ticks] == ["m1", ticks.run_id(SWEEP, FIRST), "m2"]
    assert [entry.outcome for entry in journal(host)] == ["done"] * 3
    (entry,) = host.worker("sweeper").schedule.entries()
    assert (entry.due, entry.answered) == (FIRST + QUARTER, ("m1", "m2"))


async def test_a_run_by_hand_that_ended_is_not_made_again_when_its_request_comes_again(
    host: MemoryHost,
) -> None:
    ledger = Ledger()
    app = sweeper(ledger)
    await host.start(app)
    await by_hand(host, "m1")

    def die(records: Sequence[Outgoing]) -> None:
        if any(record.topic == topics.JOURNAL.name for record in records):
            raise Died

    host.log.on_stored = die
    with pytest.raises(Died):
        await host.settle()
    host.log.on_stored = lambda _: None
    await again(host, app)
    assert [tick.run_id for tick in ledger.ticks] == ["m1"]
    await host.advance(minutes=16)
    assert ledger.dues == [FIRST]


async def test_a_failing_run_is_tried_again_but_never_beyond_the_next_instant(
    host: MemoryHost,
) -> None:
    ledger = Ledger()

    async def fail(tick: Tick) -> Outcome:
        return Retry("no answer")

    ledger.answer = fail
    await host.start(sweeper(ledger))
    await host.advance(minutes=29)
    assert ledger.dues == [FIRST] * 3
    assert len({tick.run_id for tick in ledger.ticks}) == 1
    assert [entry.attempt for entry in journal(host)] == [1, 2, 3]
    assert "comes first" in journal(host)[-1].summary
    await host.advance(minutes=15)
    assert ledger.dues[3:] == [FIRST + QUARTER] * 3
    assert [entry.attempt for entry in journal(host)][3:] == [1, 2, 3]
    assert host.dead_letters("sweeper") == []


async def test_a_wait_of_no_time_goes_on_with_the_same_instant(host: MemoryHost) -> None:
    ledger = Ledger()

    async def in_parts(tick: Tick) -> Outcome:
        return Done("all") if len(ledger.ticks) > 3 else Wait("more pages", timedelta())

    ledger.answer = in_parts
    await host.start(sweeper(ledger))
    await host.advance(minutes=16)
    assert ledger.dues == [FIRST] * 4
    assert [entry.outcome for entry in journal(host)] == ["wait"] * 3 + ["done"]


async def test_a_changed_expression_replaces_the_pending_tick(host: MemoryHost) -> None:
    ledger = Ledger()
    await host.start(sweeper(ledger, "0 0 2 * * *"))
    await host.settle()
    await again(host, sweeper(ledger, "0 */10 * * * *"))
    await host.advance(minutes=11)
    assert ledger.dues == [NINE + timedelta(minutes=10)]


async def test_a_removed_cron_leaves_a_tombstone(host: MemoryHost) -> None:
    ledger = Ledger()
    await host.start(sweeper(ledger))
    await host.settle()
    await again(host, sweeper(ledger, None))
    schedule = [r for r in host.log.records("sweeper.schedule") if b"Sweep" in (r.key or b"")]
    assert [record.value is None for record in schedule] == [False, True]
    assert [entry.step for entry in host.worker("sweeper").schedule.entries()] == ["Other"]
    await host.advance(minutes=30)
    assert ledger.ticks == []


async def test_an_overdue_instant_is_a_metric_until_it_ends(host: MemoryHost) -> None:
    ledger = Ledger()
    gate = asyncio.Event()

    async def slow(tick: Tick) -> Outcome:
        await gate.wait()
        return Done("swept")

    ledger.answer = slow
    await host.start(sweeper(ledger))
    name, labels = "bitbylaw_cron_overdue_seconds", {"service": "sweeper", "step": "Sweep"}
    worker = host.worker("sweeper")
    worker.measure()
    assert metrics.value(name, **labels) == 0
    host.clock.move(QUARTER.total_seconds() + 90)
    host.nudge()
    worker.measure()
    assert metrics.value(name, **labels) == 90
    gate.set()
    await host.settle()
    worker.measure()
    assert metrics.value(name, **labels) == 0
