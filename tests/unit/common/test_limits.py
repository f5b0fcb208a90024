"""Rate limits: the arithmetic over all histories, and who waits for whom in one process."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbylaw_common import metrics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import HeldBack
from bitbylaw_common.limits import LocalLimits, NoLimits, Priority, Rate, admitted, shared_limits
from bitbylaw_common.runtime.hosts.memory_host import ManualClock
from bitbylaw_common.settings import RedisSettings

SYSTEM = "xai"
SECOND = 1_000_000
RATES = st.floats(0.02, 500).map(Rate)


def most_in_a_window(times: Sequence[int], window: float) -> int:
    """Return how many instants the fullest half-open window holds; `times` rise."""
    most = first = 0
    for last, time in enumerate(times):
        while time - times[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most


@settings(deadline=None)
@given(RATES)
def test_a_rate_keeps_a_tenth_for_people_and_the_rest_adds_up(rate: Rate) -> None:
    assert rate.calls >= 10
    assert rate.calls <= rate.per_second * rate.window_seconds + 1e-6
    assert 1 <= rate.reserve <= rate.calls / 10
    evenly = rate.window_seconds * SECOND / rate.interval
    assert 0.99 * (rate.calls - rate.reserve) <= evenly <= rate.calls - rate.reserve


@pytest.mark.parametrize(
    ("per_second", "calls", "window", "reserve"),
    [(10, 10, 1, 1), (100, 100, 1, 10), (0.5, 10, 20, 1), (2.5, 10, 4, 1), (12.9, 12, 1, 1)],
)
def test_what_a_setting_means(per_second: float, calls: int, window: float, reserve: int) -> None:
    rate = Rate(per_second)
    assert (rate.calls, rate.window_seconds, rate.reserve) == (calls, window, reserve)


@settings(deadline=None)
@given(
    RATES,
    st.lists(
        st.tuples(st.sampled_from(["sync", "interactive"]), st.floats(0, 3), st.integers(1, 20)),
        max_size=80,
    ),
)
def test_no_window_ever_holds_more_than_the_limit(
    rate: Rate, asked: list[tuple[Priority, float, int]]
) -> None:
    now, used_until, sent = 10**15, 0, []
    for priority, pause, together in asked:
        now += int(pause * rate.interval)
        for _ in range(together):
            wait, used_until = admitted(used_until, now, rate, priority)
            assert wait >= 0
            if not wait:
                sent.append(now)
    assert most_in_a_window(sent, rate.window_seconds * SECOND) <= rate.calls


@settings(deadline=None)
@given(RATES, st.integers(0, 10**15), st.sampled_from(["sync", "interactive"]))
def test_what_was_told_to_wait_is_admitted_after_its_wait(
    rate: Rate, now: int, priority: Priority
) -> None:
    used_until = now
    for _ in range(3 * rate.reserve + 3):
        wait, used_until = admitted(used_until, now, rate, priority)
        if wait:
            assert admitted(used_until, now + wait, rate, priority)[0] == 0
            assert wait <= rate.interval
            now += wait


@settings(deadline=None)
@given(RATES)
def test_behind_any_flood_of_sync_people_have_their_reserve_at_once(rate: Rate) -> None:
    now = used_until = 10**15
    for _ in range(50):
        wait, used_until = admitted(used_until, now, rate, "sync")
        now += wait
        while admitted(used_until, now, rate, "sync")[0] == 0:
            _, used_until = admitted(used_until, now, rate, "sync")
    for _ in range(rate.reserve):
        wait, used_until = admitted(used_until, now, rate, "interactive")
        assert wait == 0


def test_a_clock_that_was_set_back_stops_nothing_for_long() -> None:
    rate = Rate(10)
    wait, _ = admitted(10**15, 10**15 - 3600 * SECOND, rate, "sync")
    assert wait <= 2 * rate.interval


# -- in one process, in virtual time --------------------------------------------------------------


class Road:
    """Calls on their way, and when each was sent."""

    def __init__(self, rate: Rate) -> None:
        self.clock = ManualClock()
        self.limits = LocalLimits(self.clock, {SYSTEM: rate})
        self.sent: list[tuple[str, float]] = []
        self.refused: list[str] = []

    def call(
        self, name: str, *, within: float = 1e6, priority: Priority = "sync", order: int = 0
    ) -> asyncio.Task[None]:
        return asyncio.create_task(self._call(name, within, priority, order))

    async def _call(self, name: str, within: float, priority: Priority, order: int) -> None:
        try:
            await self.limits.take(
                SYSTEM, "get_file", within_seconds=within, priority=priority, order=order
            )
        except HeldBack:
            self.refused.append(name)
        else:
            self.sent.append((name, self.clock.monotonic()))

    async def passes(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while True:
            for _ in range(20):
                await asyncio.sleep(0)
            left = end - self.clock.monotonic()
            if left <= 0:
                return
            sleeper = self.clock.next_sleeper()
            self.clock.move(left if sleeper is None else min(sleeper, left))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.sent]


async def test_calls_are_spread_evenly_and_in_the_order_of_their_runs() -> None:
    road = Road(Rate(10))
    for number, order in enumerate([5, 3, 9, 1]):
        road.call(f"run-{order}", order=order)
        await road.passes(0)
        assert len(road.sent) == 1, f"after {number + 1} calls at once"
    await road.passes(1)
    assert road.names == ["run-5", "run-1", "run-3", "run-9"]
    gaps = [later[1] - earlier[1] for earlier, later in zip(road.sent, road.sent[1:], strict=False)]
    assert gaps == [pytest.approx(1 / 9, abs=1e-5)] * 3


async def test_runs_that_began_are_finished_before_others_begin() -> None:
    road = Road(Rate(10))

    async def run(order: int) -> None:
        for number in range(3):
            await road._call(f"{order}.{number}", 1e6, "sync", order)

    runs = [asyncio.create_task(run(order)) for order in range(4)]
    await road.passes(5)
    assert all(one.done() for one in runs)
    assert road.names == [f"{order}.{number}" for order in range(4) for number in range(3)]


async def test_a_person_s_call_passes_by_what_waits_in_sync() -> None:
    road = Road(Rate(10))
    for number in range(50):
        road.call(f"sync-{number}", order=number)
    await road.passes(1)
    before = len(road.sent)
    road.call("person", priority="interactive")
    now = road.clock.monotonic()
    await road.passes(0)
    assert road.sent[before:] == [("person", now)]


async def test_who_cannot_be_sent_in_time_is_held_back_then_and_not_before() -> None:
    road = Road(Rate(10))
    for number in range(40):
        road.call(f"patient-{number}", order=number)
    road.call("hurried", within=0.5, order=1_000)
    await road.passes(0.4)
    assert road.refused == []
    await road.passes(0.2)
    assert road.refused == ["hurried"]
    await road.passes(10)
    assert len(road.sent) == 40


async def test_at_the_head_of_the_line_too_nobody_waits_longer_than_allowed() -> None:
    road = Road(Rate(10))
    road.call("first")
    road.call("hurried", within=0.05)
    await road.passes(0)
    assert road.refused == ["hurried"]


async def test_one_who_is_cancelled_in_line_gives_way_to_the_next() -> None:
    road = Road(Rate(10))
    calls = [road.call(f"call-{number}", order=number) for number in range(6)]
    await road.passes(0.05)
    for gone in (calls[1], calls[3]):  # the head, and one in the middle
        gone.cancel()
    await road.passes(2)
    assert road.names == ["call-0", "call-2", "call-4", "call-5"]
    assert calls[1].cancelled()


async def test_one_who_is_cancelled_as_its_turn_comes_gives_way_too() -> None:
    road = Road(Rate(10))
    calls = [road.call(f"call-{number}", order=number) for number in range(3)]
    await road.passes(0.05)
    calls[1].cancel()  # the head leaves and hands its place to the next
    await asyncio.sleep(0)
    calls[2].cancel()
    await road.passes(1)
    road.call("after")
    await road.passes(1)
    assert road.names == ["call-0", "after"]


async def test_a_system_without_a_rate_and_no_limits_let_everything_pass() -> None:
    clock = ManualClock()
    for limits in (LocalLimits(clock, {"espocrm": Rate(1)}), NoLimits()):
        for _ in range(100):
            await limits.take(SYSTEM, "get_file", within_seconds=0, priority="sync", order=0)
    assert clock.next_sleeper() is None


async def test_without_any_rate_no_call_waits_for_redis() -> None:
    nowhere = RedisSettings.from_env({"REDIS_URL": "redis://127.0.0.1:1/0"})
    before = metrics.value("bitbylaw_rate_store_down_total", system=SYSTEM)
    async with shared_limits(nowhere, SystemClock(), {SYSTEM: None}) as limits:
        for _ in range(100):
            await limits.take(SYSTEM, "get_file", within_seconds=0, priority="sync", order=0)
    assert metrics.value("bitbylaw_rate_store_down_total", system=SYSTEM) == before


async def test_a_turn_is_one_s_until_its_time_is_over_or_it_is_passed_on() -> None:
    clock = ManualClock()
    limits = LocalLimits(clock, {})
    assert await limits.take_turn(SYSTEM, 60) == 0
    clock.move(20)
    assert await limits.take_turn(SYSTEM, 60) == 40
    assert await limits.take_turn("another", 60) == 0
    clock.move(40)
    assert await limits.take_turn(SYSTEM, 60) == 0
    await limits.pass_turn_on(SYSTEM)
    assert await limits.take_turn(SYSTEM, 60) == 0
