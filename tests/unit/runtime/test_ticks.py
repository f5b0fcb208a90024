"""Cron entries: each instant ends once, whatever dies, overruns, fails, is asked for or changes."""

import random
import timeit
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from bitbylaw_common.cron import CronExpression
from bitbylaw_common.errors import DeclarationError
from bitbylaw_common.outcomes import Done, Outcome, Rejected, Retry, Skipped, Wait
from bitbylaw_common.runtime import Context, Tick, cron, step, ticks
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.runtime.ticks import Cron
from bitbylaw_common.runtime.triggers import CronTrigger, Missed
from bitbylaw_common.runtime.verdict import Chain, Verdict, judge

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
FUNCTION = "steps::Sweep::trigger::0"
QUARTERS = "0 */15 * * * *"
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def a_cron(text: str = QUARTERS, missed: Missed = "once") -> Cron:
    return Cron("Sweep", FUNCTION, cron(text, missed=missed))


def first(sweep: Cron, now: datetime = NINE) -> ScheduleEntry:
    entry = ticks.planned(sweep, None, now)
    assert entry is not None
    return entry


def judged(outcome: Outcome, now: datetime, *, attempt: int = 0) -> Verdict:
    return judge(outcome, Chain(attempt, "e", now), now)


def ran(
    sweep: Cron,
    entry: ScheduleEntry,
    outcome: Outcome,
    now: datetime,
    *,
    lasting: timedelta = timedelta(seconds=1),
) -> tuple[ticks.Begun, ticks.Ended]:
    """Carry one due entry out, as a worker does."""
    begun = ticks.begin(sweep, entry, ticks.tick_of(entry), now)
    attempt = 0 if begun.anew else entry.attempt
    verdict = judged(outcome, now + lasting, attempt=attempt)
    return begun, ticks.end(sweep, entry, begun.tick, verdict, now + lasting)


# Planning -------------------------------------------------------------------------------------------


def test_a_cron_without_an_entry_waits_for_its_next_instant() -> None:
    entry = first(a_cron(), NINE + MINUTE)
    assert (entry.due, entry.kind, entry.entity, entry.entity_id) == (
        NINE + 15 * MINUTE,
        "tick",
        "cron",
        FUNCTION,
    )
    assert entry.lane == a_cron().lane
    assert ScheduleEntry.from_bytes(entry.to_bytes()) == entry


def test_an_entry_that_fits_is_left_alone() -> None:
    sweep = a_cron()
    assert ticks.planned(sweep, first(sweep), NINE + 14 * MINUTE) is None


def test_the_run_of_an_instant_has_the_same_id_wherever_it_runs() -> None:
    berlin = CronExpression.parse(QUARTERS).next_after(NINE)
    assert ticks.run_id(FUNCTION, berlin) == ticks.run_id(FUNCTION, berlin.astimezone(UTC))
    assert ticks.tick_of(first(a_cron())).run_id == ticks.run_id(FUNCTION, berlin)
    ids = {ticks.run_id(function, NINE + n * MINUTE) for function in ("a", "b") for n in range(50)}
    assert len(ids) == 100
    assert all(len(one) == 32 for one in ids)


def test_a_changed_expression_replaces_what_no_longer_fits() -> None:
    entry = first(a_cron("0 0 2 * * *")).model_copy(update={"finished": NINE, "answered": ("m",)})
    moved = ticks.planned(a_cron(), entry, NINE + MINUTE)
    assert moved is not None
    assert (moved.due, moved.finished, moved.answered) == (NINE + 15 * MINUTE, NINE, ("m",))
    assert ticks.planned(a_cron(), moved, NINE + MINUTE) is None


def test_a_changed_expression_leaves_what_is_overdue_or_interrupted() -> None:
    entry = first(a_cron())
    assert ticks.planned(a_cron("0 0 2 * * *"), entry, NINE + 20 * MINUTE) is None
    begun = ticks.begin(a_cron(), entry, ticks.tick_of(entry), NINE + 15 * MINUTE).entry
    assert begun is not None
    assert ticks.planned(a_cron("0 0 2 * * *"), begun, NINE + 16 * MINUTE) is None


def test_a_changed_expression_overtakes_a_next_attempt_only_where_it_is_due_first() -> None:
    daily = a_cron("0 0 9 * * *")
    entry = first(daily, NINE - 2 * HOUR)
    now = entry.due
    _, ended = ran(daily, entry, Retry("no answer"), now)
    assert ended.entry.kind == "retry"
    assert ticks.planned(a_cron(QUARTERS), ended.entry, now + timedelta(seconds=5)) is None
    replaced = ticks.planned(a_cron("*/10 * * * * *"), ended.entry, now + timedelta(seconds=5))
    assert replaced is not None
    assert (replaced.kind, replaced.due) == ("tick", now + timedelta(seconds=10))


def test_a_clock_that_is_behind_never_plans_what_is_over() -> None:
    entry = first(a_cron()).model_copy(update={"finished": NINE})
    assert ticks.planned(a_cron(), entry, NINE - 10 * MINUTE) is None


def test_a_cron_that_was_removed_leaves_an_orphan() -> None:
    entry = first(a_cron())
    other = entry.model_copy(update={"entity": "document", "entity_id": "d1"})
    assert ticks.orphans([entry, other], {FUNCTION: a_cron()}) == []
    assert ticks.orphans([entry, other], {}) == [entry]
    renamed = Cron("Broom", FUNCTION, cron(QUARTERS))
    assert ticks.orphans([entry], {FUNCTION: renamed}) == [entry]


def test_the_declared_crons_are_found_by_their_function_ids() -> None:
    @step(name="Two", description="d", flows=["f"], triggers=[cron(QUARTERS), cron("0 0 2 * * *")])
    async def two(tick: Tick, ctx: Context[None]) -> Outcome:
        return Done("")

    found = ticks.declared([two])
    assert list(found) == ["steps::Two::trigger::0", "steps::Two::trigger::1"]
    assert found["steps::Two::trigger::1"].trigger.expression.text == "0 0 2 * * *"


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(DeclarationError, match="none of skip, once, all"):
        cron(QUARTERS, missed="never")  # type: ignore[arg-type] # that is the point


# Missed ---------------------------------------------------------------------------------------------


def test_an_instant_in_time_runs_whatever_the_policy() -> None:
    for policy in get_args(Missed):
        entry = first(a_cron(missed=policy))
        begun, ended = ran(a_cron(missed=policy), entry, Done("swept"), entry.due + MINUTE)
        assert (begun.how, begun.tick.due, begun.missed) == ("run", entry.due, None)
        assert (ended.entry.due, ended.entry.finished) == (entry.due + 15 * MINUTE, entry.due)


def test_of_missed_instants_once_runs_the_newest_and_names_the_others() -> None:
    sweep = a_cron()
    entry = first(sweep)
    begun, ended = ran(sweep, entry, Done("swept"), NINE + 65 * MINUTE)
    assert (begun.how, begun.tick.due) == ("run", NINE + 60 * MINUTE)
    assert begun.tick.run_id == ticks.run_id(FUNCTION, NINE + 60 * MINUTE)
    assert begun.reason == (
        "3 instants missed: 2026-03-02 10:15:00 CET, 2026-03-02 10:30:00 CET, "
        "2026-03-02 10:45:00 CET"
    )
    assert ended.entry.due == NINE + 75 * MINUTE


def test_skip_passes_over_what_is_older_than_a_restart_takes() -> None:
    sweep = a_cron(missed="skip")
    entry = first(sweep)
    begun, ended = ran(sweep, entry, Skipped("missed"), NINE + 65 * MINUTE)
    assert begun.how == "pass"
    assert begun.missed is not None
    assert (begun.missed.count, begun.missed.last) == (4, NINE + 60 * MINUTE)
    assert (ended.entry.due, ended.entry.finished) == (NINE + 75 * MINUTE, NINE + 60 * MINUTE)
    alone, _ = ran(sweep, entry, Skipped("missed"), NINE + 20 * MINUTE)
    assert (alone.how, alone.reason) == ("pass", "1 instant missed: 2026-03-02 10:15:00 CET")
    fresh, _ = ran(sweep, entry, Done("swept"), NINE + 60 * MINUTE + timedelta(seconds=40))
    assert (fresh.how, fresh.tick.due) == ("run", NINE + 60 * MINUTE)
    assert fresh.missed is not None
    assert fresh.missed.count == 3


def test_all_runs_each_in_order() -> None:
    sweep, now = a_cron(missed="all"), NINE + 65 * MINUTE
    entry, found = first(sweep), []
    while entry.due <= now:
        begun, ended = ran(sweep, entry, Done("swept"), now)
        assert begun.missed is None
        found.append(begun.tick.due)
        entry = ended.entry
    assert found == [NINE + n * 15 * MINUTE for n in (1, 2, 3, 4)]


def test_a_run_that_outlasts_instants_is_followed_by_one_run_for_the_newest() -> None:
    sweep = a_cron()
    entry = first(sweep)
    _, ended = ran(sweep, entry, Done("swept"), entry.due, lasting=40 * MINUTE)
    assert ended.entry.due == NINE + 30 * MINUTE
    begun, _ = ran(sweep, ended.entry, Done("swept"), NINE + 55 * MINUTE)
    assert begun.tick.due == NINE + 45 * MINUTE
    assert begun.missed is not None
    assert begun.missed.count == 1


def test_what_was_missed_for_days_is_named_by_its_ends_and_found_at_once() -> None:
    sweep = a_cron("* * * * * *")
    entry = first(sweep)
    now = NINE + timedelta(days=3)
    begun = ticks.begin(sweep, entry, ticks.tick_of(entry), now)
    assert begun.tick.due == now
    assert begun.missed is not None
    assert begun.missed.count == ticks.COUNTED
    assert begun.missed.last == now - timedelta(seconds=1)
    assert begun.reason.startswith("at least 1000 instants missed: 2026-03-02 10:00:01 CET, ")
    assert begun.reason.endswith(", ..., 2026-03-05 09:59:59 CET")
    assert len(begun.reason) < 300

    def beginning(days: int) -> float:
        end = NINE + timedelta(days=days)
        return min(
            timeit.repeat(
                lambda: ticks.begin(sweep, entry, ticks.tick_of(entry), end), number=1, repeat=3
            )
        )

    assert beginning(300) < 10 * beginning(1)


def test_instants_of_the_hour_that_comes_twice_are_each_their_own() -> None:
    before = datetime(2026, 10, 25, 0, 10, tzinfo=UTC)  # 02:10 in summer
    sweep = a_cron()
    entry = first(sweep, before)
    begun, ended = ran(sweep, entry, Done("swept"), before + 60 * MINUTE)
    assert begun.tick.due == before + 50 * MINUTE
    assert begun.missed is not None
    assert begun.missed.words == (
        "3 instants missed: 2026-10-25 02:15:00 CEST, 2026-10-25 02:30:00 CEST, "
        "2026-10-25 02:45:00 CEST"
    )
    assert ended.entry.due > begun.tick.due


# Interrupted ----------------------------------------------------------------------------------------


def test_an_interrupted_instant_is_resumed_with_its_run_id_before_newer_ones() -> None:
    sweep = a_cron()
    entry = first(sweep)
    begun = ticks.begin(sweep, entry, ticks.tick_of(entry), entry.due)
    assert begun.entry is not None
    found = ScheduleEntry.from_bytes(begun.entry.to_bytes())  # by whoever takes over
    assert ticks.planned(sweep, found, entry.due + HOUR) is None
    again, ended = ran(sweep, found, Done("swept"), entry.due + HOUR)
    assert (again.how, again.tick) == ("run", begun.tick)
    assert again.reason == "resumed: it began at 2026-03-02 10:15:00 CET and did not end"
    assert (ended.entry.due, ended.entry.begun) == (entry.due + 15 * MINUTE, None)


def test_a_resumed_run_still_tells_what_was_missed_before_it() -> None:
    sweep = a_cron()
    entry = first(sweep)
    begun = ticks.begin(sweep, entry, ticks.tick_of(entry), NINE + 65 * MINUTE)
    assert begun.entry is not None
    again = ticks.begin(sweep, begun.entry, ticks.tick_of(begun.entry), NINE + 70 * MINUTE)
    assert again.tick == begun.tick
    assert "; 3 instants missed: " in again.reason


def test_an_interrupted_attempt_keeps_its_number() -> None:
    sweep = a_cron("0 0 9 * * *")
    entry = first(sweep, NINE - 2 * HOUR)
    _, failed = ran(sweep, entry, Retry("no answer"), entry.due)
    begun = ticks.begin(sweep, failed.entry, ticks.tick_of(failed.entry), failed.entry.due)
    assert begun.entry is not None
    assert (begun.entry.kind, begun.entry.attempt, begun.anew) == ("retry", 1, False)
    assert ticks.tick_of(begun.entry) == ticks.tick_of(entry)


def test_a_tick_whose_instant_is_over_starts_nothing() -> None:
    sweep = a_cron()
    entry = first(sweep)
    tick = ticks.tick_of(entry)
    _, ended = ran(sweep, entry, Done("swept"), entry.due)
    assert ticks.begin(sweep, ended.entry, tick, entry.due + MINUTE).how == "stale"
    assert ticks.begin(sweep, None, tick, entry.due).how == "stale"
    _, failed = ran(sweep, entry, Retry("no answer"), entry.due)
    assert ticks.begin(sweep, failed.entry, tick, entry.due + timedelta(seconds=2)).how == "stale"


# Failing --------------------------------------------------------------------------------------------


def test_a_failing_instant_is_tried_again_until_the_next_one_is_due_and_no_longer() -> None:
    sweep = a_cron()
    entry, now, attempts = first(sweep), NINE, []
    while entry.instant == NINE + 15 * MINUTE:
        now = entry.due
        _, ended = ran(sweep, entry, Retry("no answer"), now)
        attempts.append((now - NINE, ended.verdict.chain.attempt, ended.verdict.name))
        entry = ended.entry
    # attempts after 1 and 5 minutes; the next pause, 15 minutes, would reach into the next instant
    assert [attempt for _, attempt, _ in attempts] == [1, 2, 3]
    assert {name for _, _, name in attempts} == {"retry"}
    assert (entry.kind, entry.due, entry.attempt) == ("tick", NINE + 30 * MINUTE, 0)
    assert ended.verdict.summary == (
        "no answer (not tried again: 2026-03-02 10:30:00 CET comes first)"
    )
    assert (ended.verdict.due, ended.verdict.kind) == (NINE + 30 * MINUTE, "")


def test_the_next_instant_counts_its_attempts_from_none_so_a_dense_cron_never_dies() -> None:
    sweep = a_cron("0 * * * * *")
    entry = first(sweep)
    for _ in range(50):
        begun, ended = ran(sweep, entry, Retry("no answer"), entry.due)
        assert begun.how == "run"
        assert (ended.verdict.death, ended.verdict.chain.attempt) == (None, 1)
        entry = ended.entry
    assert entry.due == NINE + 51 * MINUTE


def test_a_rare_cron_dies_after_its_last_attempt_and_comes_again_at_its_next_instant() -> None:
    sweep = a_cron("0 0 9 * * *")
    entry = first(sweep, NINE - 2 * HOUR)
    deaths = []
    for _ in range(6):
        _, ended = ran(sweep, entry, Retry("no answer"), entry.due)
        deaths.append(ended.verdict.death)
        entry = ended.entry
    assert deaths == [None] * 5 + ["exhausted"]
    assert (entry.kind, entry.due, entry.attempt) == ("tick", NINE + 23 * HOUR, 0)
    assert entry.finished == NINE - HOUR


def test_an_attempt_that_a_downtime_outlived_gives_way_to_the_newest_instant() -> None:
    wanted: dict[Missed, int] = {"once": 60, "skip": 60, "all": 30}
    for policy, due in wanted.items():
        sweep = a_cron(missed=policy)
        _, failed = ran(sweep, first(sweep), Retry("no answer"), NINE + 15 * MINUTE)
        begun = ticks.begin(sweep, failed.entry, ticks.tick_of(failed.entry), NINE + 60 * MINUTE)
        assert (begun.how, begun.anew) == ("run", True), policy
        assert begun.tick.due == NINE + due * MINUTE, policy
        assert begun.entry is not None
        assert (begun.entry.kind, begun.entry.attempt) == ("tick", 0)


def test_a_wait_ends_with_the_next_instant_too() -> None:
    sweep = a_cron()
    entry = first(sweep)
    _, soon = ran(sweep, entry, Wait("more pages", timedelta()), entry.due)
    assert (soon.entry.kind, soon.entry.instant, soon.entry.run_id) == (
        "wait",
        entry.due,
        entry.run_id,
    )
    _, late = ran(sweep, entry, Wait("rate limit", HOUR), entry.due)
    assert (late.entry.kind, late.entry.due) == ("tick", entry.due + 15 * MINUTE)


# Manual ---------------------------------------------------------------------------------------------


def asked(
    sweep: Cron, entry: ScheduleEntry, outcome: Outcome, now: datetime, name: str = "m1"
) -> ticks.Ended:
    tick = Tick(now, name, manual=True)
    assert ticks.begin(sweep, entry, tick, now).how == "run"
    return ticks.end(sweep, entry, tick, judged(outcome, now), now)


@pytest.mark.parametrize("outcome", [Done("swept"), Skipped("nothing"), Rejected("no")])
def test_a_manual_run_leaves_the_pending_tick_where_it_is(outcome: Outcome) -> None:
    sweep = a_cron()
    entry = first(sweep)
    ended = asked(sweep, entry, outcome, NINE + 5 * MINUTE)
    assert not ended.moved
    assert ended.entry == entry.model_copy(update={"answered": ("m1",)})
    assert ticks.answered(ended.entry, "m1")
    assert not ticks.answered(ended.entry, "m2")


def test_a_manual_run_is_remembered_as_answered_through_the_runs_that_follow() -> None:
    sweep = a_cron()
    entry = asked(sweep, first(sweep), Done("swept"), NINE + 5 * MINUTE).entry
    for _ in range(3):
        _, ended = ran(sweep, entry, Done("swept"), entry.due)
        entry = ended.entry
    assert ticks.answered(entry, "m1")
    for number in range(2 * ticks.ANSWERED):
        entry = asked(sweep, entry, Done("swept"), NINE + HOUR, f"n{number}").entry
    assert len(entry.answered) == ticks.ANSWERED


def test_a_failed_manual_run_is_tried_again_before_the_tick_that_stays_behind_it() -> None:
    sweep = a_cron()
    entry = first(sweep)
    failed = asked(sweep, entry, Retry("no answer"), NINE + 5 * MINUTE).entry
    assert (failed.kind, failed.due, failed.manual) == ("retry", NINE + 6 * MINUTE, True)
    assert ticks.answered(failed, "m1")
    assert ticks.tick_of(failed) == Tick(NINE + 6 * MINUTE, "m1", manual=True)
    begun, ended = ran(sweep, failed, Done("swept"), NINE + 6 * MINUTE)
    assert (begun.how, begun.anew) == ("run", False)
    assert (ended.entry.due, ended.entry.run_id) == (entry.due, entry.run_id)
    _, again = ran(sweep, failed, Retry("no answer"), NINE + 6 * MINUTE)
    assert (again.entry.due, again.entry.attempt) == (NINE + 11 * MINUTE + timedelta(seconds=1), 2)
    _, over = ran(sweep, again.entry, Retry("no answer"), again.entry.due)
    assert (over.entry.kind, over.entry.due) == ("tick", entry.due)
    assert over.verdict.due is None


def test_a_manual_run_leaves_the_next_attempt_of_an_instant_where_it_is() -> None:
    sweep = a_cron()
    _, failed = ran(sweep, first(sweep), Retry("no answer"), NINE + 15 * MINUTE)
    for outcome in (Done("swept"), Retry("no answer")):
        ended = asked(sweep, failed.entry, outcome, NINE + 15 * MINUTE + timedelta(seconds=9))
        assert not ended.moved
        assert (ended.entry.due, ended.entry.attempt) == (failed.entry.due, 1)
        assert ended.verdict.due is None


def test_a_manual_run_beside_a_tick_that_is_due_gets_no_attempt_of_its_own() -> None:
    sweep = a_cron()
    ended = asked(sweep, first(sweep), Retry("no answer"), NINE + 15 * MINUTE)
    assert not ended.moved
    assert ended.entry.kind == "tick"
    assert "comes first" in ended.verdict.summary


def test_a_manual_run_without_an_entry_plans_one() -> None:
    sweep = a_cron()
    verdict = judged(Done("swept"), NINE)
    ended = ticks.end(sweep, None, Tick(NINE, "m", manual=True), verdict, NINE)
    assert (ended.moved, ended.entry.due) == (True, NINE + 15 * MINUTE)


def test_a_changed_expression_moves_the_instant_behind_a_manual_attempt() -> None:
    sweep = a_cron()
    failed = asked(sweep, first(sweep), Retry("no answer"), NINE + 5 * MINUTE).entry
    moved = ticks.planned(a_cron("0 10 * * * *"), failed, NINE + 5 * MINUTE)
    assert moved is not None
    assert (moved.manual, moved.due, moved.instant) == (True, failed.due, NINE + 10 * MINUTE)


# Earlier versions ------------------------------------------------------------------------------------


def test_entries_of_the_version_before_are_understood() -> None:
    sweep = a_cron()
    old = {"step": "Sweep", "entity": "cron", "entity_id": FUNCTION, "since": NINE}
    tick = ScheduleEntry.model_validate(old | {"due": NINE + 15 * MINUTE, "kind": "tick"})
    begun, ended = ran(sweep, tick, Done("swept"), NINE + 15 * MINUTE)
    assert (begun.how, begun.tick.due) == ("run", NINE + 15 * MINUTE)
    assert ended.entry.due == NINE + 30 * MINUTE
    retry = ScheduleEntry.model_validate(
        old | {"due": NINE + MINUTE, "kind": "retry", "attempt": 1}
    )
    begun, ended = ran(sweep, retry, Done("swept"), NINE + MINUTE)
    assert (begun.how, ended.entry.due) == ("run", NINE + 15 * MINUTE)


# Everything at once ----------------------------------------------------------------------------------


@dataclass
class Owner:
    """A worker reduced to its cron: what is stored survives, what is in memory does not.

    Attributes:
        journal: run ids and instants of runs with an end, their outcome, and whether manual.
        began: the instants whose handler was called.
        requests: manual runs whose request's offset is not committed yet.
    """

    chance: random.Random
    sweep: Cron
    now: datetime = NINE
    stored: ScheduleEntry | None = None
    journal: list[tuple[str, datetime, str, bool]] = field(default_factory=list)
    began: set[datetime] = field(default_factory=set)
    missed: list[ticks.MissedInstants] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def take_over(self) -> None:
        planned = ticks.planned(self.sweep, self.stored, self.now)
        self.stored = planned or self.stored

    def outcome(self) -> Outcome:
        later = Wait("later", timedelta(seconds=self.chance.randint(0, 200)))
        others: list[Outcome] = [Retry("no answer"), later]
        return self.chance.choice([Done("swept"), Done("swept"), Skipped("clean"), *others])

    def turn(self) -> None:
        """Run what is due, then what is asked for; either may die in the middle."""
        if self.due_runs():
            self.requests_run()

    def due_runs(self) -> bool:
        assert self.stored is not None
        if self.stored.due > self.now:
            return True
        tick = ticks.tick_of(self.stored)
        begun = ticks.begin(self.sweep, self.stored, tick, self.now)
        assert begun.how != "stale"
        if begun.entry is not None:
            self.stored = ScheduleEntry.from_bytes(begun.entry.to_bytes())
        if begun.how == "run" and not tick.manual:
            self.began.add(begun.tick.due)
        # what was missed is told with the mark of the run, or with the end of a passing over
        told = [begun.missed] if begun.missed is not None else []
        self.missed += told if begun.how == "run" else []
        lived = self.finish(begun.tick, Skipped("") if begun.how == "pass" else self.outcome())
        self.missed += told if begun.how == "pass" and lived else []
        return lived

    def requests_run(self) -> None:
        for name in list(self.requests):
            if ticks.answered(self.stored, name):
                self.requests.remove(name)
                continue
            if not self.finish(Tick(self.now, name, manual=True), self.outcome()):
                return
            if self.chance.random() < 0.7:  # the commit of the offset; else it comes again
                self.requests.remove(name)

    def finish(self, tick: Tick, outcome: Outcome) -> bool:
        """End a run; False when the worker died before that was stored."""
        assert self.stored is not None
        self.now += timedelta(seconds=self.chance.choice([0, 1, 1, 5, 50, 400]))
        if self.chance.random() < 0.15:
            return False
        attempt = self.stored.attempt if self.stored.run_id == tick.run_id else 0
        verdict = judged(outcome, self.now, attempt=attempt)
        ended = ticks.end(self.sweep, self.stored, tick, verdict, self.now)
        self.journal.append((tick.run_id, tick.due, ended.verdict.name, tick.manual))
        self.stored = ScheduleEntry.from_bytes(ended.entry.to_bytes())
        return True


@pytest.mark.parametrize("policy", get_args(Missed))
@pytest.mark.parametrize("seed", range(12))
def test_through_deaths_overruns_and_requests_every_instant_ends_at_most_once(
    seed: int, policy: Missed
) -> None:
    chance = random.Random(seed)
    text = chance.choice(["*/10 * * * * *", "0 * * * * *", QUARTERS, "0 */7 9-11 * * *"])
    owner = Owner(chance, a_cron(text, policy))
    wanted: set[str] = set()
    for round_ in range(250):
        if chance.random() < 0.1:  # nobody is there for a while
            owner.now += timedelta(seconds=chance.choice([10, 100, 1000, 5000]))
        owner.take_over()
        if chance.random() < 0.1:
            owner.requests.append(f"manual-{round_}")
            wanted.add(f"manual-{round_}")
        owner.turn()
        assert owner.stored is not None
        owner.now = max(owner.now, min(owner.stored.due, owner.now + HOUR))

    ends = Counter(
        name for name, _, outcome, _ in owner.journal if outcome in ("done", "skipped", "rejected")
    )
    assert set(ends.values()) == {1}
    manual = {name for name, _, _, by_hand in owner.journal if by_hand}
    assert wanted == manual | set(owner.requests)
    assert len(manual) >= 10
    instants = [due for _, due, _, by_hand in owner.journal if not by_hand]
    assert instants == sorted(instants)
    assert len(owner.began) > 20

    # nothing goes by in silence: every instant of the expression began, or is told of as missed
    assert all(owner.sweep.trigger.expression.last_until(due) == due for due in owner.began)
    ends_of_missed = {one for missed in owner.missed for one in (missed.listed[0], missed.last)}
    seen = owner.began | ends_of_missed
    due, last, every = min(seen), max(seen), 1
    while due < last:
        due, every = owner.sweep.after(due), every + 1
    told = sum(missed.count for missed in owner.missed)
    if all(missed.count < ticks.COUNTED for missed in owner.missed):
        assert len(owner.began) + told == every
    assert policy != "all" or told == 0


def test_the_trigger_is_the_declared_one() -> None:
    assert a_cron(missed="all").trigger == CronTrigger(CronExpression.parse(QUARTERS), "all")
