"""Lanes: one run per key at once, nothing lost, whatever the order of arrivals and ends."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from bitbylaw_common.kafka.codec import Envelope
from bitbylaw_common.runtime.lanes import Cause, Item, LaneKey, Lanes, Work
from bitbylaw_common.runtime.ports import Position

TOPIC = "toy.thing.changed"
INTERLEAVINGS = 10_000


def key(name: str) -> LaneKey:
    return LaneKey("Toy Sync", "thing", name)


def item(number: int, *, partition: int = 0, cause: Cause = "record", size: int = 1) -> Item:
    position = None if cause == "due" else Position(TOPIC, partition, number)
    return Item(number, None, Envelope(str(number)), partition, cause, position, TOPIC, size)


def offsets(work: Work) -> list[int]:
    return [position.offset for position in work.positions]


def taken(lanes: Lanes) -> Work:
    work = lanes.take()
    assert work is not None
    return work


def all_ready(lanes: Lanes) -> Iterator[Work]:
    while (work := lanes.take()) is not None:
        yield work


def test_keys_start_in_the_order_of_arrival() -> None:
    lanes = Lanes()
    for number, name in enumerate("cab"):
        lanes.add(key(name), item(number), coalesce=False)

    assert lanes.ready == 3
    assert [work.key.entity_id for work in all_ready(lanes)] == ["c", "a", "b"]
    assert (lanes.ready, lanes.waiting, lanes.running) == (0, 0, 3)


def test_a_key_that_runs_does_not_start_again_until_it_ended() -> None:
    lanes = Lanes()
    lanes.add(key("a"), item(0), coalesce=False)
    lanes.add(key("a"), item(1), coalesce=False)

    assert offsets(taken(lanes)) == [0]
    assert lanes.take() is None
    lanes.finish(key("a"))
    assert offsets(taken(lanes)) == [1]


def test_items_start_in_the_order_of_their_arrival_whatever_their_keys() -> None:
    lanes = Lanes()
    for number in range(3):
        lanes.add(key("hot"), item(number), coalesce=False)
    lanes.add(key("cold"), item(9), coalesce=False)
    lanes.add(key("hot"), item(10), coalesce=False)

    started = []
    for _ in range(5):
        work = taken(lanes)
        started += offsets(work)
        lanes.finish(work.key)
    assert started == [0, 1, 2, 9, 10]


def test_what_waits_is_answered_by_the_last_with_all_offsets_and_causes_and_only_its_size() -> None:
    lanes = Lanes()
    assert lanes.add(key("a"), item(1, size=10), coalesce=True) == 0
    assert lanes.add(key("a"), item(2, cause="due", size=0), coalesce=True) == 10
    assert lanes.add(key("a"), item(3, cause="request", size=5), coalesce=True) == 0
    work = taken(lanes)

    assert work.item.given == 3
    assert offsets(work) == [1, 3]
    assert (work.answers, work.size) == (3, 5)
    assert work.causes == {"record", "due", "request"}
    assert lanes.waiting == 0


def test_what_arrives_while_its_key_runs_gets_one_run_of_its_own_afterwards() -> None:
    lanes = Lanes()
    lanes.add(key("a"), item(0), coalesce=True)
    taken(lanes)
    for number in (1, 2, 3):
        lanes.add(key("a"), item(number), coalesce=True)

    assert lanes.take() is None
    lanes.finish(key("a"))
    work = taken(lanes)
    assert (offsets(work), work.item.given) == ([1, 2, 3], 3)
    lanes.finish(key("a"))
    assert lanes.take() is None


def test_the_same_id_in_another_step_or_of_another_kind_is_another_key() -> None:
    lanes = Lanes()
    for other in (key("a"), key("a")._replace(step="Other"), key("a")._replace(entity="other")):
        lanes.add(other, item(0), coalesce=False)

    assert len(list(all_ready(lanes))) == 3


@pytest.mark.parametrize("coalesce", [True, False])
def test_dropping_a_partition_forgets_what_waits_there_and_nothing_else(*, coalesce: bool) -> None:
    lanes = Lanes()
    for number in (0, 1):
        lanes.add(key("gone"), item(number, partition=3), coalesce=coalesce)
    lanes.add(key("kept"), item(2, partition=4), coalesce=coalesce)

    assert lanes.drop([3, 5]) == 2
    assert lanes.waiting == 1
    assert [work.key for work in all_ready(lanes)] == [key("kept")]
    assert lanes.drop([3]) == 0


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_run_of_a_dropped_partition_ends_as_usual_and_nothing_follows(*, coalesce: bool) -> None:
    lanes = Lanes()
    lanes.add(key("a"), item(0, partition=3), coalesce=coalesce)
    taken(lanes)
    lanes.add(key("a"), item(1, partition=3), coalesce=coalesce)

    assert lanes.drop([3]) == 1
    lanes.finish(key("a"))
    assert lanes.take() is None
    assert (lanes.waiting, lanes.running, lanes.ready) == (0, 0, 0)


@pytest.mark.parametrize("coalesce", [True, False])
def test_what_comes_back_after_a_drop_waits_for_the_run_that_was_left_to_end(
    *, coalesce: bool
) -> None:
    lanes = Lanes()
    lanes.add(key("a"), item(0, partition=3), coalesce=coalesce)
    taken(lanes)
    lanes.drop([3])
    lanes.add(key("a"), item(1, partition=3), coalesce=coalesce)

    assert lanes.take() is None
    lanes.finish(key("a"))
    work = taken(lanes)
    assert (offsets(work), work.answers, work.size) == ([1], 1, 1)


def test_the_key_of_a_lane_is_its_key_in_the_schedule_topic() -> None:
    assert LaneKey("Toy Sync", "thing", "a1").to_bytes() == b"Toy Sync|thing|a1"


class Interleaving:
    """One random history of arrivals, starts, ends and drops, with what must hold of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lanes = Lanes()
        self.coalesce = self.random.random() < 0.5
        self.keys = [key(name) for name in "abcde"[: self.random.randint(1, 5)]]
        self.now = 0
        self.arrived: dict[LaneKey, list[int]] = {k: [] for k in self.keys}
        self.answered: Counter[int] = Counter()
        self.dropped: set[int] = set()
        self.arrival: dict[int, int] = {}
        self.running: list[Work] = []
        self.last_start: dict[LaneKey, int] = {}

    def play(self) -> None:
        moves = [self.arrive, self.arrive, self.start, self.end]
        for _ in range(self.random.randint(5, 40)):
            self.now += 1
            (self.drop if self.random.random() < 0.02 else self.random.choice(moves))()
            self.sums()
        while self.running or self.lanes.ready:
            self.now += 1
            self.random.choice([self.start, self.end])()
        self.everything_ran()

    def arrive(self) -> None:
        target = self.random.choice(self.keys)
        number = len(self.arrival)
        self.arrival[number] = self.now
        self.arrived[target].append(number)
        self.lanes.add(target, item(number, partition=self.home(target)), coalesce=self.coalesce)

    def start(self) -> None:
        work = self.lanes.take()
        if work is None:
            return
        assert work.key not in [other.key for other in self.running], "two of one key at once"
        assert work.item.given == offsets(work)[-1], "the last item speaks for all"
        assert work.size == 1
        assert work.answers == len(work.positions)
        self.answered.update(offsets(work))
        for number in offsets(work):
            assert self.arrival[number] < self.now, "the run starts after the arrival"
        self.last_start[work.key] = self.now
        self.running.append(work)

    def end(self) -> None:
        if self.running:
            work = self.running.pop(self.random.randrange(len(self.running)))
            self.lanes.finish(work.key)

    def drop(self) -> None:
        gone = self.random.choice(self.keys)
        lost = {
            number
            for k, numbers in self.arrived.items()
            if self.home(k) == self.home(gone)
            for number in numbers
            if not self.answered[number] and number not in self.dropped
        }
        assert self.lanes.drop([self.home(gone)]) == len(lost)
        self.dropped |= lost

    def home(self, of: LaneKey) -> int:
        return self.keys.index(of) % 2

    def sums(self) -> None:
        waiting = len(self.arrival) - self.answered.total() - len(self.dropped)
        assert (self.lanes.waiting, self.lanes.running) == (waiting, len(self.running))

    def everything_ran(self) -> None:
        assert set(self.answered) == set(self.arrival) - self.dropped, "an item was lost"
        assert set(self.answered.values()) <= {1}, "an item was answered twice"
        for of, numbers in self.arrived.items():
            kept = [number for number in numbers if number not in self.dropped]
            if kept:
                assert self.last_start[of] > self.arrival[kept[-1]], "no run after the last arrival"
        assert not self.lanes._lanes, "a key that has nothing to do is kept"


def test_no_interleaving_loses_an_item_overlaps_a_key_or_forgets_the_last_arrival() -> None:
    for seed in range(INTERLEAVINGS):
        try:
            Interleaving(seed).play()
        except AssertionError as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken


def test_nothing_of_a_held_key_starts_until_what_is_due_went_first() -> None:
    lanes = Lanes()
    lanes.add(key("a"), item(0), coalesce=False)
    lanes.add(key("a"), item(1), coalesce=False)
    assert offsets(taken(lanes)) == [0]
    lanes.finish(key("a"), held=True)  # it is to be tried again
    lanes.add(key("a"), item(2), coalesce=False, held=True)
    lanes.add(key("b"), item(3), coalesce=False)
    assert [work.key for work in all_ready(lanes)] == [key("b")]

    again = item(9, cause="due")._replace(due=datetime(2026, 3, 2, tzinfo=UTC))
    lanes.add(key("a"), again, coalesce=False)
    assert taken(lanes).item is again
    lanes.finish(key("a"))
    assert offsets(taken(lanes)) == [1]
    lanes.finish(key("a"))
    assert offsets(taken(lanes)) == [2]


def test_a_step_without_room_holds_up_no_other_step() -> None:
    lanes = Lanes()
    other = LaneKey("Toy Order", "thing", "a")
    lanes.add(key("a"), item(0), coalesce=False)
    lanes.add(key("b"), item(1), coalesce=False)
    lanes.add(other, item(2), coalesce=False)

    def room(step: str) -> int | None:
        return 0 if step == "Toy Sync" else None

    assert lanes.take(room) is not None
    assert lanes.take(room) is None
    assert (lanes.ready, lanes.running_of("Toy Order")) == (2, 1)
    assert [work.key for work in all_ready(lanes)] == [key("a"), key("b")]


def test_at_most_as_many_runs_of_a_step_start_as_there_is_room_for() -> None:
    lanes = Lanes()
    for name in "abcd":
        lanes.add(key(name), item(0), coalesce=False)
    assert [lanes.take(lambda _: 2) is None for _ in range(3)] == [False, False, True]
    lanes.finish(key("a"))
    assert lanes.take(lambda _: 2) is not None
