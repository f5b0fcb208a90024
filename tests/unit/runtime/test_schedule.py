"""The schedule: one entry per key, each due once."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from bitbylaw_common.cron import ZONE
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.runtime.lanes import LaneKey
from bitbylaw_common.runtime.schedule import Carried, Schedule, ScheduleEntry

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def entry(name: str, minutes: float = 1, **how: object) -> ScheduleEntry:
    fields: dict[str, object] = {
        "step": "Toy Sync",
        "entity": "thing",
        "entity_id": name,
        "due": NOW + timedelta(minutes=minutes),
        "kind": "retry",
        "since": NOW,
        **how,
    }
    return ScheduleEntry.model_validate(fields)


def due_names(schedule: Schedule, minutes: float) -> list[str]:
    return [found.entity_id for _, found in schedule.due(NOW + timedelta(minutes=minutes))]


def test_what_is_due_comes_in_its_order_with_its_partition_and_once() -> None:
    schedule = Schedule()
    for name, minutes in (("late", 3), ("first", 1), ("second", 2)):
        schedule.put(entry(name, minutes), 4)

    assert schedule.next_due() == NOW + timedelta(minutes=1)
    assert schedule.due(NOW) == []
    assert [(p, e.entity_id) for p, e in schedule.due(NOW + timedelta(minutes=2))] == [
        (4, "first"),
        (4, "second"),
    ]
    assert due_names(schedule, 2) == []
    assert schedule.next_due() == NOW + timedelta(minutes=3)
    assert len(schedule) == 3


def test_a_new_entry_replaces_the_one_of_its_key() -> None:
    schedule = Schedule()
    schedule.put(entry("a", 1), 0)
    schedule.put(entry("a", 5, attempt=2), 0)

    assert len(schedule) == 1
    assert due_names(schedule, 4) == []
    assert [found.attempt for _, found in schedule.due(NOW + timedelta(minutes=5))] == [2]


def test_an_entry_that_was_taken_and_put_again_for_the_same_instant_is_due_again() -> None:
    schedule = Schedule()
    schedule.put(entry("a"), 0)
    assert due_names(schedule, 1) == ["a"]
    schedule.put(entry("a"), 0)
    assert due_names(schedule, 1) == ["a"]
    assert due_names(schedule, 1) == []


def test_an_entry_that_was_put_twice_for_the_same_instant_is_due_once() -> None:
    schedule = Schedule()
    schedule.put(entry("a"), 0)
    schedule.put(entry("a"), 0)
    assert due_names(schedule, 1) == ["a"]


def test_what_was_removed_is_never_due() -> None:
    schedule = Schedule()
    schedule.put(entry("a"), 0)
    key = entry("a").lane
    assert schedule.get(key) == entry("a")
    assert schedule.remove(key)
    assert not schedule.remove(key)
    assert (schedule.get(key), schedule.next_due(), due_names(schedule, 9)) == (None, None, [])


def test_a_partition_that_goes_takes_its_entries_and_no_others() -> None:
    schedule = Schedule()
    schedule.put(entry("gone"), 1)
    schedule.put(entry("kept"), 2)
    schedule.drop(1)
    assert [found.entity_id for found in schedule.entries()] == ["kept"]
    assert due_names(schedule, 1) == ["kept"]


def test_any_history_agrees_with_a_table_of_due_times() -> None:
    for seed in range(500):
        chance = random.Random(seed)
        schedule = Schedule()
        table: dict[str, tuple[float, bool]] = {}
        now = 0.0
        for _ in range(60):
            name = chance.choice("abcd")
            match chance.choice(("put", "put", "remove", "time")):
                case "put":
                    minutes = now + chance.choice((0, 0, 1, 5))
                    schedule.put(entry(name, minutes), 0)
                    table[name] = (minutes, True)
                case "remove":
                    assert schedule.remove(entry(name).lane) == (name in table)
                    table.pop(name, None)
                case "time":
                    now += chance.choice((0, 1, 3))
                    wanted = [n for n, (due, armed) in table.items() if armed and due <= now]
                    found = due_names(schedule, now)
                    assert sorted(found) == sorted(wanted), f"seed {seed}"
                    assert [table[n][0] for n in found] == sorted(table[n][0] for n in found)
                    for n in found:
                        table[n] = (table[n][0], False)
            armed_times = [due for due, armed in table.values() if armed]
            following = schedule.next_due()
            expected = NOW + timedelta(minutes=min(armed_times)) if armed_times else None
            assert following == expected, f"seed {seed}"
            assert len(schedule) == len(table)


def test_in_the_hour_that_comes_twice_the_earlier_instant_is_still_the_first() -> None:
    before = datetime(2026, 10, 25, 2, 45, tzinfo=ZONE)
    after = datetime(2026, 10, 25, 2, 15, fold=1, tzinfo=ZONE)
    schedule = Schedule()
    schedule.put(entry("second", due=after), 0)
    schedule.put(entry("first", due=before), 0)

    assert [found.entity_id for found in schedule.entries()] == ["first", "second"]
    quarter_to_one = datetime(2026, 10, 25, 0, 45, tzinfo=UTC)
    assert schedule.next_due() == quarter_to_one
    assert [found.entity_id for _, found in schedule.due(quarter_to_one)] == ["first"]


def test_an_entry_comes_back_from_its_bytes_as_it_was_and_names_its_lane() -> None:
    written = entry(
        "a",
        attempt=3,
        chain="event-1",
        reason="it rains",
        error="Transient",
        seen="digest",
        until=NOW,
        carried=Carried(topic="t", value="{}", headers={"ce_id": "e"}, origin="t:0:1"),
    )
    assert ScheduleEntry.from_bytes(written.to_bytes()) == written
    assert written.lane == LaneKey("Toy Sync", "thing", "a")
    assert b"null" not in entry("a").to_bytes()


def test_a_field_of_a_newer_version_survives_the_way_through_this_one() -> None:
    newer = entry("a").to_bytes().replace(b"{", b'{"rank":7,', 1)
    assert b'"rank":7' in ScheduleEntry.from_bytes(newer).to_bytes()


@pytest.mark.parametrize("value", [b"", b"[]", b"\xff", b'{"step":"Geheim"}', b'{"due":"Geheim"}'])
def test_bytes_that_are_no_entry_are_refused_without_their_content(value: bytes) -> None:
    with pytest.raises(DecodeError) as refused:
        ScheduleEntry.from_bytes(value)
    assert "Geheim" not in str(refused.value)
