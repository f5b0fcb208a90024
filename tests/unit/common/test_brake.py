"""The brake: budgets, what is counted, what is held back, and what a release allows."""

from datetime import timedelta

import pytest

from bitbylaw_common import metrics
from bitbylaw_common.events import BrakeReleased, BrakeTripped
from bitbylaw_common.outcomes import Wait
from bitbylaw_common.runtime.hosts.memory_host import ManualClock
from bitbylaw_common.sync.brake import (
    DELETE,
    DETACH,
    RECORD,
    UPLOAD,
    Brake,
    Budget,
    Extent,
    Held,
    brake_key,
    emptied,
    held_back,
    limit,
)

ALL = Extent(known=0, share=1.0)


def brake(clock: ManualClock | None = None, **budgets: Budget) -> Brake:
    return Brake("brake-test", budgets, clock or ManualClock())


def one(brake: Brake, who: str, extent: Extent = ALL, **effects: int) -> Held | None:
    return brake.errand(who, extent).ask(effects)


def test_what_fits_into_the_budget_happens_and_the_next_trips_the_brake() -> None:
    deletes = brake(delete=Budget(per_run=5, per_hour=3))
    assert [one(deletes, f"d{n}", delete=1) for n in range(3)] == [None, None, None]
    assert deletes.braked() == frozenset()
    held = one(deletes, "d3", delete=1)
    assert held is not None
    assert held.kinds == {DELETE: 1}
    assert deletes.braked() == {DELETE}
    (trip,) = deletes.unpublished()
    assert trip.effect == DELETE
    assert trip.reason == "delete 4 times within an hour; 3 are allowed"
    assert metrics.value("bitbylaw_brake_engaged", service="brake-test", effect="delete") == 1


def test_other_kinds_go_on_while_one_is_held_back() -> None:
    both = brake(delete=Budget(1, 1), detach=Budget(9, 9))
    one(both, "d0", delete=1)
    assert one(both, "d1", delete=1) is not None
    assert one(both, "d2", detach=2) is None
    mixed = one(both, "d3", delete=1, detach=2)
    assert mixed is not None
    assert mixed.kinds == {DELETE: 1}


def test_one_run_alone_can_trip_it() -> None:
    detaches = brake(detach=Budget(per_run=5, per_hour=100))
    held = one(detaches, "d1", detach=6)
    assert held is not None
    assert detaches.unpublished()[0].reason == "one run wants detach 6 times; 5 are allowed"


def test_parts_of_one_run_count_together_and_leave_is_not_paid_for_twice() -> None:
    detaches = brake(upload=Budget(4, 9), detach=Budget(per_run=5, per_hour=5))
    errand = detaches.errand("d1", ALL)
    assert errand.ask({UPLOAD: 1, DETACH: 3}) is None
    errand.did({UPLOAD: 1})
    assert errand.ask({DETACH: 3}) is None
    errand.did({DETACH: 3})
    assert one(detaches, "d2", detach=2) is None
    assert errand.ask({DETACH: 3}) is not None


def test_an_hour_later_the_budget_is_there_again() -> None:
    clock = ManualClock()
    deletes = brake(clock, delete=Budget(9, 2))
    assert one(deletes, "d1", delete=2) is None
    clock.move(3700)
    assert one(deletes, "d2", delete=2) is None


def test_a_tripped_brake_does_not_release_itself() -> None:
    clock = ManualClock()
    deletes = brake(clock, delete=Budget(9, 1))
    one(deletes, "d1", delete=1)
    assert one(deletes, "d2", delete=1) is not None
    clock.move(7 * 24 * 3600)
    assert one(deletes, "d2", delete=1) is not None


@pytest.mark.parametrize(
    ("budget", "extent", "most"),
    [
        (Budget(1, 120), Extent(0, 1.0), 120),
        (Budget(1, 120), Extent(0, 0.5), 60),
        (Budget(1, 10), Extent(0, 1 / 12), 1),
        (Budget(1, 1), Extent(0, 1 / 12), 1),
        (Budget(1, 100, 0.25), Extent(10_000, 1.0), 2_500),
        (Budget(1, 100, 0.25), Extent(40, 1.0), 100),
    ],
)
def test_members_divide_the_budget_and_a_share_grows_with_what_is_known(
    budget: Budget, extent: Extent, most: int
) -> None:
    assert limit(budget, extent) == most


def test_a_record_that_is_changed_twice_is_touched_once() -> None:
    records = brake(record=Budget(1, 2))
    for _ in range(5):
        assert one(records, "d1", record=1) is None
    assert one(records, "d2", record=1) is None
    held = one(records, "d3", record=1)
    assert held is not None
    assert held.kinds == {RECORD: 1}


def test_a_trip_of_another_member_holds_here_and_its_end_too() -> None:
    clock = ManualClock()
    deletes = brake(clock, delete=Budget(9, 9))
    trip = BrakeTripped(service="brake-test", effect=DELETE, since=clock.now(), reason="far off")
    assert trip.key == brake_key("brake-test", DELETE)
    deletes.learn(trip.key, trip)
    assert one(deletes, "d1", delete=1) is not None
    deletes.learn(trip.key, None)
    assert one(deletes, "d1", delete=1) is None


def test_a_release_lets_what_waits_go_on_and_then_the_budget_counts_again() -> None:
    clock = ManualClock()
    deletes = brake(clock, delete=Budget(per_run=2, per_hour=2))
    one(deletes, "d0", delete=2)
    assert one(deletes, "d1", delete=1) is not None
    release = BrakeReleased(
        service="brake-test",
        effect=DELETE,
        since=clock.now(),
        extra=3,
        until=clock.now() + timedelta(hours=24),
    )
    deletes.learn(release.key, release)
    assert [one(deletes, f"d{n}", delete=1) for n in range(1, 6)] == [None] * 5  # 3 and 2
    assert one(deletes, "d6", delete=1) is not None
    assert deletes.braked() == {DELETE}


def test_a_release_does_not_hold_for_ever() -> None:
    clock = ManualClock()
    deletes = brake(clock, delete=Budget(per_run=2, per_hour=2))
    release = BrakeReleased(
        service="brake-test",
        effect=DELETE,
        since=clock.now(),
        extra=100,
        until=clock.now() + timedelta(hours=1),
    )
    deletes.learn(release.key, release)
    assert one(deletes, "d0", delete=50) is None
    clock.move(3601)
    assert one(deletes, "d1", delete=3) is not None


def test_a_release_is_divided_like_the_budget() -> None:
    clock = ManualClock()
    half = Extent(0, 0.5)
    deletes = brake(clock, delete=Budget(per_run=9, per_hour=2))
    until = clock.now() + timedelta(hours=1)
    release = BrakeReleased(
        service="brake-test", effect=DELETE, since=clock.now(), extra=4, until=until
    )
    deletes.learn(release.key, release)
    assert [one(deletes, f"d{n}", half, delete=1) for n in range(3)] == [None] * 3  # 2 and 1
    assert one(deletes, "d3", half, delete=1) is not None


def test_the_wait_has_no_end_and_says_what_is_held_back() -> None:
    wait = Held({DETACH: 12, DELETE: 1}, timedelta(minutes=15)).wait()
    assert wait == Wait(
        "brake on delete 1, detach 12: see `bbl brake show`", timedelta(minutes=15), imposed=True
    )
    assert held_back(wait.reason) == {DELETE: 1, DETACH: 12}
    assert held_back("xAI makes it searchable") == {}


def test_the_more_wait_the_rarer_each_is_looked_at() -> None:
    deletes = brake(delete=Budget(1, 1))
    one(deletes, "d", delete=1)
    held = [one(deletes, f"d{n}", delete=1) for n in range(2_000)]
    assert held[0] is not None
    assert held[-1] is not None
    assert held[0].pause == timedelta(minutes=15)
    assert held[-1].pause == timedelta(seconds=2_000)


def test_a_record_that_does_the_rest_still_counts_among_those_that_wait() -> None:
    deletes = brake(delete=Budget(1, 1), upload=Budget(9, 9_999))
    one(deletes, "d", delete=1)
    for number in range(1_000):
        errand = deletes.errand(f"d{number}", ALL)
        assert errand.ask({UPLOAD: 1, DELETE: 1}) is not None
        assert errand.ask({UPLOAD: 1}) is None
    held = one(deletes, "last", delete=1)
    assert held is not None
    assert held.pause == timedelta(seconds=1_001)


@pytest.mark.parametrize(
    ("known", "seen", "believed"),
    [(1_000, 0, False), (1_000, 99, False), (1_000, 100, True), (9, 0, True), (0, 0, True)],
)
def test_a_side_that_emptied_is_not_believed(known: int, seen: int, believed: bool) -> None:
    assert (emptied(known=known, seen=seen) == "") is believed


@pytest.mark.parametrize(
    ("text", "budget"),
    [("4/1000", Budget(4, 1000)), (" 1 / 500 / 25% ", Budget(1, 500, 0.25))],
)
def test_a_budget_is_read_as_an_operator_writes_it(text: str, budget: Budget) -> None:
    assert Budget.of(text) == budget


@pytest.mark.parametrize("text", ["", "4", "0/5", "4/x", "4/5/101%", "4/5/6"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="per run/per hour"):
        Budget.of(text)
