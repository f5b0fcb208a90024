"""The brake: budgets, what is counted, what is held back, and what a release allows."""

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO

import pytest

from bitbylaw_common import metrics
from bitbylaw_common.events import BrakeReleased, BrakeTripped
from bitbylaw_common.logs import configure
from bitbylaw_common.outcomes import Wait
from bitbylaw_common.runtime.hosts.memory_host import ManualClock
from bitbylaw_common.sync.brake import (
    DELETE,
    DETACH,
    LOOK_AGAIN,
    RECORD,
    UPLOAD,
    Brake,
    Budget,
    Extent,
    Held,
    Touched,
    Window,
    brake_key,
    counted,
    emptied,
    excess,
    held_back,
    limit,
    release_command,
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
        (Budget(1, 10), Extent(0, 0.0), 1),
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
    [
        (1_000, 0, False),
        (1_000, 99, False),
        (1_000, 100, True),
        (10, 0, False),
        (9, 0, True),
        (0, 0, True),
    ],
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
    with pytest.raises(
        ValueError, match=r'^must be "per run/per hour", or "per run/per hour/share%"$'
    ):
        Budget.of(text)


# -- the budgets, in words ------------------------------------------------------------------------


def why_not(budget: Budget, extent: Extent = ALL, **how: int) -> str:
    return excess(DELETE, budget, extent, **({"before": 0, "spent": 0, "extra": 0} | how))


def test_what_a_run_did_before_counts_against_what_it_may() -> None:
    assert why_not(Budget(5, 100), asked=3, before=2) == ""
    assert why_not(Budget(5, 100), asked=3, before=3) == (
        "one run wants delete 6 times; 5 are allowed"
    )


def test_what_an_operator_allowed_needs_nothing_of_an_hour_that_is_used_up() -> None:
    assert why_not(Budget(5, 10), asked=3, spent=10, extra=3) == ""
    assert why_not(Budget(5, 10), asked=4, spent=10, extra=3) == (
        "delete 14 times within an hour; 10 are allowed"
    )


def test_a_worker_with_a_part_of_everything_says_so() -> None:
    assert why_not(Budget(5, 10), Extent(0, 0.25), asked=4) == (
        "delete 4 times within an hour; 3 are allowed for this worker, which has 25% of all"
    )


def test_the_command_that_releases_is_one_to_be_typed() -> None:
    assert release_command("document-sync") == "bbl brake release document-sync --yes"
    assert release_command("document-sync", DELETE) == (
        "bbl brake release document-sync delete --yes"
    )


def test_several_of_a_kind_are_added_up() -> None:
    assert counted([(DELETE, 1), (DETACH, 2), (DELETE, 3)]) == {DELETE: 4, DETACH: 2}


# -- the hour -------------------------------------------------------------------------------------


def test_an_hour_slides_by_the_minute() -> None:
    window = Window()
    window.add(1, 0)
    window.add(2, 59)
    window.add(4, 60)
    window.add(8, 1_800)
    assert window.total(3_599) == 15
    assert window.total(3_600) == 12
    assert window.total(3_660) == 8
    window.clear()
    assert window.total(3_660) == 0
    window.add(1, 0)  # as many as the next minute's number
    window.add(2, 60)
    assert window.total(3_600) == 2


def test_a_record_counts_for_an_hour_after_it_was_changed_last() -> None:
    touched = Touched()
    touched.add("d1", 100)
    touched.add("d2", 200)
    assert touched.total(3_699) == 2
    assert touched.total(3_700) == 1
    assert "d1" not in touched
    touched.add("d3", 3_750)
    touched.add("d2", 3_780)
    assert touched.total(3_800) == 2
    assert touched.total(7_350) == 1
    assert "d2" in touched


# -- what a run may, again and again --------------------------------------------------------------


def test_who_wants_nothing_of_a_kind_is_not_held_back_by_it() -> None:
    deletes = brake(delete=Budget(1, 1))
    one(deletes, "d0", delete=1)
    assert one(deletes, "d1", delete=1) is not None
    assert one(deletes, "d2", delete=0) is None


def test_a_record_that_was_changed_lately_still_pays_for_everything_else() -> None:
    both = brake(record=Budget(1, 1), delete=Budget(1, 2))
    assert [one(both, "d1", record=1, delete=1) for _ in range(2)] == [None, None]
    held = one(both, "d1", record=1, delete=1)
    assert held is not None
    assert held.kinds == {DELETE: 1}


def test_a_run_that_asks_in_parts_stays_within_what_one_run_may() -> None:
    errand = brake(detach=Budget(per_run=5, per_hour=100)).errand("d1", ALL)
    for _ in range(2):
        assert errand.ask({DETACH: 2}) is None
        errand.did({DETACH: 2})
    assert errand.ask({DETACH: 1}) is None
    assert errand.ask({DETACH: 2}) is not None


def test_what_was_done_of_what_was_granted_leaves_the_rest_granted() -> None:
    errand = brake(detach=Budget(per_run=9, per_hour=3)).errand("d1", ALL)
    assert errand.ask({DETACH: 3}) is None
    for left in (2, 1, 0):
        errand.did({DETACH: 1})
        assert errand.ask({DETACH: left}) is None
    assert errand.ask({DETACH: 1}) is not None


def test_asking_for_less_in_between_gives_nothing_back_and_costs_nothing() -> None:
    errand = brake(detach=Budget(per_run=9, per_hour=3)).errand("d1", ALL)
    assert [errand.ask({DETACH: count}) for count in (0, 3, 1, 3)] == [None] * 4
    assert errand.ask({DETACH: 4}) is not None


def test_asking_for_nothing_first_makes_nothing_free() -> None:
    detaches = brake(detach=Budget(per_run=9, per_hour=1))
    errand = detaches.errand("d1", ALL)
    assert errand.ask({DETACH: 0}) is None
    assert errand.ask({DETACH: 1}) is None
    assert one(detaches, "d2", detach=1) is not None


def test_a_record_that_no_longer_waits_makes_others_wait_no_longer() -> None:
    both = brake(delete=Budget(1, 1), upload=Budget(1, 9_999))
    one(both, "d", delete=1)
    for number in range(1_000):
        one(both, f"d{number}", delete=1)
        one(both, f"d{number}", upload=1)
    held = one(both, "last", delete=1)
    assert held is not None
    assert held.pause == LOOK_AGAIN


# -- releases -------------------------------------------------------------------------------------


def released(clock: ManualClock, kind: str, extra: int, hours: float = 24) -> BrakeReleased:
    return BrakeReleased(
        service="brake-test",
        effect=kind,
        since=clock.now(),
        extra=extra,
        until=clock.now() + timedelta(hours=hours),
    )


def test_a_release_ends_at_its_hour() -> None:
    clock = ManualClock()
    deletes = brake(clock, delete=Budget(per_run=2, per_hour=2))
    release = released(clock, DELETE, 100, hours=1)
    deletes.learn(release.key, release)
    clock.move(3_599)
    assert one(deletes, "d0", delete=3) is None
    clock.move(1)
    assert one(deletes, "d1", delete=3) is not None


def test_records_that_a_release_let_go_do_not_count_against_the_hour() -> None:
    clock = ManualClock()
    records = brake(clock, record=Budget(1, 1))
    release = released(clock, RECORD, 2)
    records.learn(release.key, release)
    assert [one(records, f"d{n}", record=1) for n in range(3)] == [None] * 3  # 2 and 1
    assert one(records, "d3", record=1) is not None


def test_a_run_touches_its_record_once_however_often_it_asks() -> None:
    clock = ManualClock()
    records = brake(clock, record=Budget(9, 1))
    release = released(clock, RECORD, 1)
    records.learn(release.key, release)
    errand = records.errand("d1", ALL)
    for _ in range(3):
        assert errand.ask({RECORD: 1}) is None
        errand.did({RECORD: 1})
    assert one(records, "d2", record=1) is None


def test_the_records_are_counted_anew_after_the_release_of_records_alone() -> None:
    clock = ManualClock()
    both = brake(clock, record=Budget(1, 1), delete=Budget(1, 1))
    assert one(both, "d1", record=1) is None
    for kind, free in ((DELETE, False), (RECORD, True)):
        release = released(clock, kind, 0)
        both.learn(release.key, release)
        assert (one(both, "d2", record=1) is None) is free


# -- what is written, and what operators see ------------------------------------------------------


def test_a_trip_is_to_be_written_until_kafka_has_it() -> None:
    deletes, told = brake(delete=Budget(1, 1), detach=Budget(1, 1)), list[str]()
    deletes.listen(lambda: told.append("changed"))
    for who in ("d0", "d1"):
        one(deletes, who, delete=1)
        one(deletes, who, detach=1)
    assert told == ["changed", "changed"]
    first, second = deletes.unpublished()
    assert (first.by, first.effect, second.effect) == ("brake-test", DELETE, DETACH)
    deletes.published(first)
    assert deletes.unpublished() == (second,)
    deletes.published(first)
    deletes.learn(second.key, second)
    assert deletes.unpublished() == ()
    assert deletes.braked() == {DELETE, DETACH}


def test_what_stands_about_others_changes_nothing_here() -> None:
    clock = ManualClock()
    deletes = brake(clock, delete=Budget(1, 1))
    for service, kind in (("another", DELETE), ("brake-test", "upload")):
        trip = BrakeTripped(service=service, effect=kind, since=clock.now(), reason="far off")
        deletes.learn(trip.key, trip)
    assert deletes.braked() == frozenset()


def test_every_trip_and_everything_held_back_is_counted() -> None:
    deletes = Brake("brake-counted", {DELETE: Budget(1, 1)}, ManualClock())
    labels = {"service": "brake-counted", "effect": DELETE}
    engaged = ("bitbylaw_brake_engaged", tuple(sorted(labels.items())))
    series = ("bitbylaw_brake_trips_total", "bitbylaw_brake_held_total")
    before = [metrics.value(name, **labels) for name in series]
    assert metrics.samples()[engaged] == 0
    for number in range(3):
        one(deletes, f"d{number}", delete=1)
    assert metrics.samples()[engaged] == 1
    after = [metrics.value(name, **labels) for name in series]
    assert [late - early for early, late in zip(before, after, strict=True)] == [1, 2]


@pytest.fixture
def written() -> Iterator[StringIO]:
    stream = StringIO()
    configure("json", "info", stream)
    yield stream
    configure("json", "warning", sys.stderr)


def test_an_operator_reads_once_that_the_brake_is_on_and_once_that_it_is_released(
    written: StringIO,
) -> None:
    clock = ManualClock()
    deletes = brake(clock, delete=Budget(1, 1))
    for number in range(3):
        one(deletes, f"d{number}", delete=1)
    assert written.getvalue().count("the brake is on") == 1
    (trip,) = deletes.unpublished()
    deletes.learn(trip.key, trip)
    release = released(clock, DELETE, 0)
    for _ in range(2):
        deletes.learn(release.key, release)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    on, off = [{k: line[k] for k in line if k not in {"time", "lines_lost"}} for line in lines]
    assert on == {
        "level": "error",
        "event": "the brake is on; what it holds back waits",
        "service": "brake-test",
        "effect": "delete",
        "reason": "delete 2 times within an hour; 1 are allowed",
        "by": "brake-test",
        "press": "bbl brake release brake-test delete --yes",
    }
    assert off == {
        "level": "warning",
        "event": "the brake is released",
        "service": "brake-test",
        "effect": "delete",
    }
