"""Offsets: what may be committed after any order of ends."""

import random

from bitbylaw_common.runtime.offsets import Offsets


def test_nothing_is_committable_before_anything_finished() -> None:
    offsets = Offsets()
    assert offsets.committable is None
    assert offsets.delivered(7)
    assert (offsets.committable, offsets.unfinished, offsets.oldest) == (None, 1, 7)


def test_the_oldest_unfinished_record_holds_the_watermark() -> None:
    offsets = Offsets()
    for offset in (5, 6, 7):
        offsets.delivered(offset)
    offsets.finished(6)
    offsets.finished(7)
    assert (offsets.committable, offsets.unfinished, offsets.oldest) == (None, 1, 5)

    offsets.finished(5)
    assert (offsets.committable, offsets.unfinished, offsets.oldest) == (8, 0, None)


def test_a_gap_in_the_log_holds_nothing_up() -> None:
    offsets = Offsets()
    for offset in (3, 9, 40):
        offsets.delivered(offset)
    offsets.finished(3)
    assert offsets.committable == 4
    offsets.finished(9)
    assert offsets.committable == 10


def test_what_was_acknowledged_is_not_committed_again() -> None:
    offsets = Offsets()
    offsets.delivered(0)
    offsets.delivered(1)
    offsets.finished(0)
    offsets.committed(1)
    assert offsets.committable is None
    offsets.finished(1)
    assert offsets.committable == 2


def test_a_commit_that_was_overtaken_leaves_the_newer_one_to_be_made() -> None:
    offsets = Offsets()
    offsets.delivered(0)
    offsets.delivered(1)
    offsets.finished(0)
    asked = offsets.committable
    offsets.finished(1)
    assert asked == 1
    offsets.committed(asked)
    assert offsets.committable == 2


def test_a_record_that_was_delivered_or_finished_before_is_not_taken_again() -> None:
    offsets = Offsets()
    assert offsets.delivered(4)
    assert not offsets.delivered(4)
    assert offsets.delivered(5)
    assert not offsets.delivered(4)
    offsets.finished(4)
    offsets.finished(5)
    assert not offsets.delivered(5)
    assert offsets.delivered(6)


def test_finishing_twice_counts_once() -> None:
    offsets = Offsets()
    for offset in (0, 1, 2):
        offsets.delivered(offset)
    offsets.finished(1)
    offsets.finished(1)
    offsets.finished(0)
    offsets.finished(0)
    assert (offsets.committable, offsets.unfinished) == (2, 1)


def test_any_order_of_ends_agrees_with_counting_them_all() -> None:
    for seed in range(2_000):
        chance = random.Random(seed)
        offsets, now = Offsets(), chance.randrange(100)
        first, open_now, last_commit = now, set[int](), None
        for _ in range(60):
            if chance.random() < 0.5:
                now += chance.choice((1, 1, 1, 5))
                assert offsets.delivered(now)
                open_now.add(now)
            elif open_now:
                done = chance.choice(sorted(open_now))
                open_now.remove(done)
                offsets.finished(done)
            assert offsets.unfinished == len(open_now), f"seed {seed}"
            assert offsets.oldest == min(open_now, default=None), f"seed {seed}"
            commit = offsets.committable
            if commit is None:
                continue
            assert all(commit <= still for still in open_now), f"seed {seed}: an open one is passed"
            assert first < commit <= now + 1
            assert last_commit is None or commit > last_commit, f"seed {seed}: it went back"
            if chance.random() < 0.3:
                offsets.committed(commit)
                last_commit = commit
        for still in sorted(open_now):
            offsets.finished(still)
        assert offsets.committable in (now + 1, None)
        assert offsets.unfinished == 0
