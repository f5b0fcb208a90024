"""The gates: when a step halts, what halts and pauses hold back, and how it comes back."""

import random
from collections.abc import Callable

import pytest

from bitbylaw_common import metrics
from bitbylaw_common.events import Command, ReplayCancelled, StepHalted, StepPaused
from bitbylaw_common.runtime.gates import Distinct, Gates, HaltingRule, Surge, resume_command
from bitbylaw_common.runtime.hosts.memory_host import ManualClock

SERVICE = "gates-test"
SYNC, CRON = "Gates Sync", "Gates Cron"
V1, V2 = "1.0", "2.0"


class Bench:
    """Gates under a clock that stands still."""

    def __init__(self, version: str = V1, rule: HaltingRule | None = None) -> None:
        self.clock = ManualClock()
        self.gates = Gates(
            SERVICE, [SYNC, CRON], clock=self.clock, code_version=version, instance="w1", rule=rule
        )

    def bugs(self, *keys: str) -> None:
        for key in keys:
            self.gates.ended(SYNC, key, "bug")

    def end(self, outcome: str, times: int = 1) -> None:
        for number in range(times):
            self.gates.ended(SYNC, f"{outcome}-{number}", outcome)

    def room(self) -> int | None:
        return self.gates.room(SYNC)

    def stands(self, *commands: Command) -> None:
        for command in commands:
            self.gates.learn(command.key, command)

    def withdraw(self, *commands: Command) -> None:
        for command in commands:
            self.gates.learn(command.key, None)

    def halt(self, version: str = V1, step: str = SYNC) -> StepHalted:
        return StepHalted(
            service=SERVICE,
            step=step,
            code_version=version,
            since=self.clock.now(),
            by="w2",
            reason="all bugs",
        )

    def pause(self, step: str = SYNC) -> StepPaused:
        return StepPaused(service=SERVICE, step=step, since=self.clock.now(), reason="audit")


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.gates.loaded()
    return bench


def keys(count: int, prefix: str = "k") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


# -- evidence -------------------------------------------------------------------------------------


def test_keys_are_counted_once_and_only_within_the_window() -> None:
    seen = Distinct(3, 60.0)

    assert [seen.add(key, 0.0) for key in ("a", "a", "b", "a")] == [False] * 4
    assert seen.add("c", 59.0)
    assert not seen.add("d", 61.0 + 59.0)


def test_the_newest_keys_are_the_ones_that_count() -> None:
    seen = Distinct(2, 60.0)

    assert not seen.add("a", 0.0)
    assert not seen.add("b", 100.0)
    assert seen.add("a", 101.0)


@pytest.mark.parametrize(("misses", "prevails"), [(0, True), (2, True), (3, False), (9, False)])
def test_a_kind_prevails_with_more_than_half(misses: int, prevails: bool) -> None:
    surge = Surge(3, 60.0)
    surge.hit("a", 0.0)
    surge.hit("b", 1.0)
    surge.miss(2.0, misses)

    assert surge.hit("c", 3.0) is prevails


def test_what_came_before_the_first_hit_or_left_the_window_does_not_count() -> None:
    surge = Surge(2, 60.0)
    surge.miss(0.0, 100)
    assert not surge.hit("a", 10.0)
    surge.miss(20.0, 100)
    assert not surge.hit("b", 40.0)
    assert surge.hit("c", 71.0)  # the first hit is gone, and with it what missed after it


def test_a_surge_agrees_with_counting_everything() -> None:
    """Against a model that remembers every end; the instants lie on the slots' borders."""
    chance = random.Random(7)
    for _ in range(200):
        surge, hits, misses = Surge(3, 60.0), list[tuple[float, str]](), list[float]()
        now = 0.0
        for _ in range(60):
            now += chance.choice((0, 1, 5, 20))
            hits = [(at, key) for at, key in hits if now - at < 60]
            misses = [at for at in misses if hits and at >= hits[0][0]]
            if chance.random() < 0.5:
                if hits:
                    misses.append(now)
                surge.miss(now)
                continue
            key = chance.choice("abcde")
            hits.append((now, key))
            expected = len({key for _, key in hits}) >= 3 and len(hits) > len(misses)
            assert surge.hit(key, now) is expected


def test_evidence_stays_small_whatever_comes() -> None:
    surge = Surge(5, 60.0)
    for number in range(20_000):
        surge.hit(f"k{number}", number / 100)
        surge.miss(number / 100, 3)

    assert len(surge._keys._last) == 5
    assert len(surge._slots) <= 61


# -- halting --------------------------------------------------------------------------------------


def test_bugs_over_five_keys_halt_the_step_at_once(bench: Bench) -> None:
    bench.bugs(*keys(4))
    assert bench.room() is None

    bench.bugs("k4")
    assert bench.room() == 0
    assert bench.gates.room(CRON) is None
    [halt] = bench.gates.unpublished()
    assert (halt.step, halt.code_version, halt.by) == (SYNC, V1, "w1")
    assert "5 records" in halt.reason


def test_one_broken_record_never_halts_a_step(bench: Bench) -> None:
    bench.bugs(*["same"] * 100, *keys(3))

    assert bench.room() is None


def test_bugs_that_come_slowly_do_not_halt(bench: Bench) -> None:
    for key in keys(20):
        bench.bugs(key)
        bench.clock.move(16)

    assert bench.room() is None


@pytest.mark.parametrize("well", ["done", "skipped"])
def test_a_run_that_ended_well_wipes_the_slate(bench: Bench, well: str) -> None:
    bench.bugs(*keys(4))
    bench.end(well)
    bench.bugs(*keys(4, "later"))
    assert bench.room() is None

    bench.bugs("the fifth")
    assert bench.room() == 0


def test_successes_long_ago_do_not_outweigh_what_fails_now(bench: Bench) -> None:
    bench.end("done", 1000)
    bench.bugs(*keys(5))

    assert bench.room() == 0


@pytest.mark.parametrize("other", ["wait", "retry", "rejected"])
def test_bugs_halt_only_where_they_are_more_than_half(bench: Bench, other: str) -> None:
    bench.bugs("k0")
    bench.end(other, 5)
    bench.bugs("k1", "k2", "k3", "k4")
    assert bench.room() is None

    bench.bugs("k5")
    assert bench.room() == 0


def test_rejections_only_raise_the_alarm_and_once_a_window(bench: Bench) -> None:
    def surges() -> float:
        return metrics.value("bitbylaw_rejected_surges_total", service=SERVICE, step=SYNC)

    before = surges()
    bench.end("rejected", 19)
    assert surges() == before
    bench.end("rejected", 500)
    assert surges() == before + 1
    bench.clock.move(61)
    bench.end("rejected", 500)
    assert surges() == before + 2
    assert bench.room() is None
    assert bench.gates.states() == ()


def test_rejections_among_runs_that_end_well_raise_no_alarm(bench: Bench) -> None:
    before = metrics.value("bitbylaw_rejected_surges_total", service=SERVICE, step=SYNC)
    for number in range(100):
        bench.gates.ended(SYNC, f"r{number}", "rejected")
        bench.end("done", 1 if number % 10 == 0 else 0)

    assert metrics.value("bitbylaw_rejected_surges_total", service=SERVICE, step=SYNC) == before


def test_unreadable_records_over_twenty_keys_halt_the_step(bench: Bench) -> None:
    for key in keys(19):
        bench.gates.unreadable(SYNC, key)
    assert bench.room() is None

    bench.gates.unreadable(SYNC, "k19")
    assert bench.room() == 0
    assert "could not be read" in bench.gates.states()[0].reason


def test_unreadable_records_halt_only_where_they_are_more_than_half(bench: Bench) -> None:
    for key in keys(40):
        bench.gates.readable(SYNC)
        bench.gates.unreadable(SYNC, key)
    # each is followed by one that can be read, but for the last
    assert bench.room() == 0

    other = Bench()
    for key in keys(400):
        other.gates.readable(SYNC)
        other.gates.readable(SYNC)
        other.gates.unreadable(SYNC, key)
    assert other.room() is None


def test_what_was_read_well_before_the_first_unreadable_does_not_count(bench: Bench) -> None:
    for _ in range(10_000):
        bench.gates.readable(SYNC)
    for key in keys(20):
        bench.gates.unreadable(SYNC, key)

    assert bench.room() == 0


def test_what_is_told_of_steps_that_are_not_declared_changes_nothing(bench: Bench) -> None:
    for key in keys(50):
        bench.gates.ended("", key, "bug")
        bench.gates.readable("")
        bench.gates.unreadable("", key)

    assert bench.gates.room("") is None
    assert bench.gates.unpublished() == ()


def test_runs_that_end_while_the_step_is_halted_are_no_evidence(bench: Bench) -> None:
    bench.bugs(*keys(5))
    bench.stands(*bench.gates.unpublished())
    bench.bugs(*keys(60, "late"))
    bench.end("done")
    for key in keys(60):
        bench.gates.unreadable(SYNC, key)

    assert bench.room() == 0
    assert bench.gates.unpublished() == ()


# -- what stands ----------------------------------------------------------------------------------


def test_the_halt_stays_to_be_written_until_it_stands(bench: Bench) -> None:
    bench.bugs(*keys(5))
    [halt] = bench.gates.unpublished()
    assert [state.recorded for state in bench.gates.states()] == [False]

    bench.stands(halt)
    assert bench.gates.unpublished() == ()
    assert [state.recorded for state in bench.gates.states()] == [True]
    assert bench.room() == 0


def test_two_workers_that_halt_at_once_make_one_halt(bench: Bench) -> None:
    bench.bugs(*keys(5))
    bench.stands(bench.halt())  # the other's

    assert bench.gates.unpublished() == ()
    bench.withdraw(bench.halt())
    assert bench.room() == 1


def test_a_resume_of_an_earlier_halt_does_not_end_one_that_is_being_written(bench: Bench) -> None:
    earlier = bench.halt()
    bench.stands(earlier)
    bench.withdraw(earlier)
    bench.bugs(*keys(3))
    bench.withdraw(earlier)

    assert bench.room() == 0
    assert len(bench.gates.unpublished()) == 1


def test_a_halt_that_was_ended_before_its_acknowledgement_came_is_over(bench: Bench) -> None:
    bench.bugs(*keys(5))
    [halt] = bench.gates.unpublished()
    bench.withdraw(halt)
    assert bench.room() == 0

    bench.gates.published(halt)
    assert bench.room() == 1


def test_a_pause_holds_a_step_and_its_end_leaves_no_trace(bench: Bench) -> None:
    bench.stands(bench.pause())
    assert (bench.room(), bench.gates.room(CRON)) == (0, None)

    bench.withdraw(bench.pause())
    assert bench.room() is None


def test_a_service_s_pause_holds_every_step(bench: Bench) -> None:
    bench.stands(bench.pause(""), bench.pause())
    assert (bench.room(), bench.gates.room(CRON)) == (0, 0)

    bench.withdraw(bench.pause(""))
    assert (bench.room(), bench.gates.room(CRON)) == (0, None)


def test_pause_and_halt_do_not_end_one_another(bench: Bench) -> None:
    bench.stands(bench.pause(), bench.halt())
    bench.withdraw(bench.pause())
    assert bench.room() == 0

    bench.stands(bench.pause())
    bench.withdraw(bench.halt())
    assert bench.room() == 0
    bench.withdraw(bench.pause())
    assert bench.room() == 1


def test_other_services_commands_change_nothing(bench: Bench) -> None:
    now = bench.clock.now()
    bench.stands(
        StepPaused(service="other", since=now),
        StepHalted(service="other", step=SYNC, code_version=V1, since=now),
    )

    assert bench.room() is None


def test_a_cancelled_replay_is_known_until_it_is_withdrawn(bench: Bench) -> None:
    cancelled = ReplayCancelled(replay_id="r1", since=bench.clock.now())
    bench.stands(cancelled)
    assert (bench.gates.cancelled("r1"), bench.gates.cancelled("r2")) == (True, False)

    bench.withdraw(cancelled)
    assert not bench.gates.cancelled("r1")


# -- versions -------------------------------------------------------------------------------------


def test_side_by_side_the_halted_version_stands_and_the_other_runs() -> None:
    old, new = Bench(V1), Bench(V2)
    for one in (old, new):
        one.gates.loaded()
        one.stands(one.halt(V1))

    assert (old.room(), new.room()) == (0, None)
    new.bugs(*keys(5))
    [halt] = new.gates.unpublished()
    assert halt.key != new.halt(V1).key
    new.withdraw(new.halt(V1))
    assert new.room() == 0


def test_a_version_that_starts_after_another_was_halted_ramps_up() -> None:
    new = Bench(V2)
    new.stands(new.halt(V1))
    new.gates.loaded()

    assert (new.room(), new.gates.room(CRON)) == (1, None)


def test_a_halt_that_was_withdrawn_while_nobody_ran_makes_a_ramp_too() -> None:
    same = Bench(V1)
    same.withdraw(same.halt(V1))
    same.gates.loaded()

    assert same.room() == 1


def test_the_halted_version_starts_halted_and_an_operator_ends_it() -> None:
    same = Bench(V1)
    same.stands(same.halt(V1))
    same.gates.loaded()
    assert same.room() == 0

    same.withdraw(same.halt(V1))
    assert same.room() == 1


def test_a_second_look_at_the_topic_begins_no_second_ramp() -> None:
    new = Bench(V2)
    new.stands(new.halt(V1))
    new.gates.loaded()
    new.end("done", 6)
    assert new.room() is None

    new.stands(new.halt(V1))
    new.gates.loaded()
    assert new.room() is None


# -- the ramp -------------------------------------------------------------------------------------


@pytest.fixture
def ramping(bench: Bench) -> Bench:
    bench.stands(bench.halt())
    bench.withdraw(bench.halt())
    return bench


def test_the_room_doubles_with_each_run_that_ends_well(ramping: Bench) -> None:
    rooms = [ramping.room()]
    for well in ("done", "skipped", "done", "skipped", "done", "done"):
        ramping.end(well)
        rooms.append(ramping.room())

    assert rooms == [1, 2, 4, 8, 16, 32, None]


@pytest.mark.parametrize("outcome", ["wait", "retry", "rejected", "bug"])
def test_other_ends_do_not_double_it(ramping: Bench, outcome: str) -> None:
    ramping.gates.ended(SYNC, "k", outcome)

    assert ramping.room() == 1


def test_on_the_ramp_bugs_of_three_keys_halt_again_whatever_else_ended(ramping: Bench) -> None:
    ramping.bugs("a")
    ramping.end("done")
    ramping.bugs("b", "a", "b")
    ramping.end("done")
    assert ramping.room() == 4

    ramping.bugs("c")
    assert ramping.room() == 0


def test_after_the_ramp_three_are_not_enough(ramping: Bench) -> None:
    ramping.bugs("a", "b")
    ramping.end("done", 6)
    ramping.bugs("c", "d", "e", "f")

    assert ramping.room() is None


def test_a_pause_in_the_middle_of_a_ramp_does_not_shorten_it(ramping: Bench) -> None:
    ramping.end("done")
    ramping.stands(ramping.pause())
    assert ramping.room() == 0

    ramping.withdraw(ramping.pause())
    assert ramping.room() == 2


def test_bugs_from_before_the_halt_do_not_count_on_the_ramp(bench: Bench) -> None:
    bench.bugs(*keys(5))
    [halt] = bench.gates.unpublished()
    bench.stands(halt)
    bench.withdraw(halt)
    bench.bugs("x", "y")

    assert bench.room() == 1


# -- what is told ---------------------------------------------------------------------------------


def test_whoever_listens_is_told_when_the_room_is_another(bench: Bench) -> None:
    rooms: list[int | None] = []
    bench.gates.listen(lambda: rooms.append(bench.room()))

    bench.bugs(*keys(5))
    assert rooms[-1] == 0
    [halt] = bench.gates.unpublished()
    bench.stands(halt)
    bench.withdraw(halt)
    assert rooms[-1] == 1
    bench.end("done")
    assert rooms[-1] == 2


def test_runs_that_end_well_on_a_free_step_tell_nobody(bench: Bench) -> None:
    told: list[None] = []
    bench.gates.listen(lambda: told.append(None))
    bench.end("done", 100)
    bench.end("retry", 100)

    assert told == []


def test_the_states_say_since_when_why_and_what_to_press(bench: Bench) -> None:
    assert bench.gates.states() == ()
    bench.stands(bench.halt(), bench.pause(""))

    halted, *paused = bench.gates.states()
    assert (halted.state, halted.step, halted.room) == ("halted", SYNC, 0)
    assert (halted.code_version, halted.by, halted.reason) == (V1, "w2", "all bugs")
    assert halted.since == bench.clock.now()
    assert halted.command == "bbl resume gates-test 'Gates Sync' --yes"
    assert [(one.state, one.step, one.command) for one in paused] == [
        ("paused", CRON, resume_command(SERVICE)),
        ("paused", SYNC, "bbl resume gates-test --yes"),
    ]


def test_a_ramp_is_told_with_its_room(ramping: Bench) -> None:
    ramping.end("done")

    [state] = ramping.gates.states()
    assert (state.state, state.room, state.command) == ("ramping", 2, "")


def test_the_metrics_say_what_holds(bench: Bench) -> None:
    def gauges() -> tuple[float, ...]:
        names = ("bitbylaw_step_halted", "bitbylaw_step_paused")
        return tuple(metrics.value(name, service=SERVICE, step=SYNC) for name in names)

    assert gauges() == (0, 0)
    bench.bugs(*keys(5))
    bench.stands(bench.pause())
    assert gauges() == (1, 1)
    bench.stands(bench.halt())
    bench.withdraw(bench.halt(), bench.pause())
    assert gauges() == (0, 0)


# -- any order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nothing_starts_while_a_halt_or_pause_stands(seed: int) -> None:
    chance = random.Random(seed)
    bench = Bench(chance.choice((V1, V2)))
    bench.gates.loaded()
    version = bench.gates._version
    standing: set[str] = set()

    def say(command: Command) -> None:
        bench.stands(command)
        standing.add(command.key)

    def unsay(command: Command) -> None:
        bench.withdraw(command)
        standing.discard(command.key)

    def written() -> None:
        for halt in bench.gates.unpublished():
            say(halt)

    deeds: list[Callable[[], None]] = [
        lambda: bench.bugs(f"k{chance.randrange(9)}"),
        lambda: bench.bugs(f"k{chance.randrange(9)}"),
        lambda: bench.end(chance.choice(("done", "retry", "wait", "rejected"))),
        lambda: bench.clock.move(chance.choice((1, 30))),
        lambda: say(bench.halt(chance.choice((V1, V2)))),
        lambda: unsay(bench.halt(chance.choice((V1, V2)))),
        lambda: say(bench.pause(chance.choice(("", SYNC)))),
        lambda: unsay(bench.pause(chance.choice(("", SYNC)))),
        written,
    ]
    for _ in range(500):
        chance.choice(deeds)()
        held = standing & {f"{SERVICE}|", f"{SERVICE}|{SYNC}", f"{SERVICE}|{SYNC}|{version}"}
        if held or bench.gates.unpublished():
            assert bench.room() == 0
        else:
            assert bench.room() != 0
