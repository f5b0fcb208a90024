"""Offsets: what a commit says after any order of ends, and what a new owner makes of it."""

import random

import pytest

from bitbylaw_common.runtime.offsets import (
    METADATA_CHARACTERS,
    PAUSE_CHARACTERS,
    Commit,
    Offsets,
    decoded,
    encoded,
)


def taken(offsets: Offsets, *delivered: int) -> list[int]:
    return [offset for offset in delivered if offsets.delivered(offset)]


def committed(offsets: Offsets) -> Commit:
    commit = offsets.commit()
    assert commit is not None
    return commit


def test_nothing_is_committed_before_anything_is_known() -> None:
    assert Offsets().commit() is None
    offsets = Offsets()
    assert offsets.delivered(0)
    assert (offsets.commit(), offsets.unfinished, offsets.oldest) == (None, 1, 0)


def test_the_oldest_unfinished_record_holds_the_watermark_and_the_metadata_tells_the_rest() -> None:
    offsets = Offsets()
    taken(offsets, 5, 6, 7, 8)
    offsets.finished(6)
    offsets.finished(7)
    commit = committed(offsets)
    assert (commit.offset, offsets.unfinished, offsets.oldest) == (5, 2, 5)
    assert decoded(commit) == (8, (5,))

    offsets.finished(5)
    assert decoded(committed(offsets)) is None
    assert committed(offsets) == Commit(8)
    offsets.finished(8)
    assert committed(offsets) == Commit(9)
    assert (offsets.unfinished, offsets.oldest) == (0, None)


def test_a_gap_in_the_log_holds_nothing_up() -> None:
    offsets = Offsets()
    taken(offsets, 3, 9, 40)
    offsets.finished(3)
    assert committed(offsets).offset == 9
    offsets.finished(40)
    assert decoded(committed(offsets)) == (41, (9,))
    offsets.finished(9)
    assert committed(offsets) == Commit(41)


def test_what_was_acknowledged_is_not_committed_again() -> None:
    offsets = Offsets()
    taken(offsets, 0, 1)
    offsets.finished(0)
    offsets.committed(committed(offsets))
    assert offsets.commit() is None
    offsets.finished(1)
    assert committed(offsets) == Commit(2)


def test_a_commit_that_was_overtaken_leaves_the_newer_one_to_be_made() -> None:
    offsets = Offsets()
    taken(offsets, 0, 1)
    offsets.finished(0)
    asked = committed(offsets)
    offsets.finished(1)
    offsets.committed(asked)
    assert committed(offsets) == Commit(2)


def test_a_record_that_was_delivered_or_finished_before_is_not_taken_again() -> None:
    offsets = Offsets()
    assert taken(offsets, 4, 5, 6) == [4, 5, 6]
    assert taken(offsets, 5, 6, 7) == [7]
    for offset in (4, 5, 6, 7):
        offsets.finished(offset)
        offsets.finished(offset)
    assert taken(offsets, 4, 7, 8) == [8]
    assert committed(offsets) == Commit(8)


def test_a_new_owner_takes_what_was_unfinished_and_nothing_that_was_finished() -> None:
    before = Offsets()
    taken(before, *range(100, 110))
    for offset in (101, 102, 105, 109):
        before.finished(offset)
    after = Offsets.restored(committed(before))

    assert after.commit() is None
    assert after.position == 100
    assert taken(after, *range(100, 115)) == [100, 103, 104, 106, 107, 108, 110, 111, 112, 113, 114]
    for offset in (100, 103, 104, 106, 107, 108):
        after.finished(offset)
    assert committed(after).offset == 110


def test_the_watermark_passes_over_what_an_earlier_owner_finished() -> None:
    before = Offsets()
    taken(before, *range(6))
    for offset in (1, 2, 3, 4, 5):
        before.finished(offset)
    after = Offsets.restored(committed(before))
    assert taken(after, 0) == [0]
    after.finished(0)
    assert taken(after, 1, 2, 3, 4, 5) == []
    assert committed(after) == Commit(6)


def test_a_commit_between_two_deliveries_after_a_takeover_forgets_nothing() -> None:
    before = Offsets()
    taken(before, *range(10))
    for offset in (2, 3, 7, 9):
        before.finished(offset)
    second = Offsets.restored(committed(before))
    taken(second, 0, 1, 2)
    second.finished(0)
    third = Offsets.restored(committed(second))
    assert taken(third, *range(12)) == [1, 4, 5, 6, 8, 10, 11]


def test_rewound_it_is_as_a_new_owner_would_find_it() -> None:
    offsets = Offsets()
    taken(offsets, *range(20, 30))
    for offset in (20, 23, 29):
        offsets.finished(offset)
    again = offsets.rewound()
    assert again.position == 21
    assert taken(again, *range(21, 32)) == [21, 22, 24, 25, 26, 27, 28, 30, 31]
    assert Offsets().rewound().position is None


@pytest.mark.parametrize(
    "metadata",
    ["", "hello", "u1", "u1!!!", "u1AAAA", "u2" + encoded(5, 9, [6])[2:], encoded(4, 9, [5])],
)
def test_metadata_that_is_not_ours_or_of_another_offset_counts_as_empty(metadata: str) -> None:
    offsets = Offsets.restored(Commit(5, metadata))
    assert taken(offsets, 5, 6, 7) == [5, 6, 7]


def test_metadata_cut_short_anywhere_is_refused_or_right() -> None:
    whole = encoded(1_000, 1_400, list(range(1_000, 1_400, 7)))
    for length in range(len(whole)):
        assert decoded(Commit(1_000, whole[:length])) is None


def test_a_bomb_in_the_metadata_is_refused() -> None:
    import base64
    import zlib

    bomb = "u1" + base64.b64encode(zlib.compress(bytes(50_000_000))).decode()
    assert decoded(Commit(0, bomb)) is None


def test_what_cannot_be_said_in_the_metadata_runs_again_and_is_never_lost() -> None:
    chance = random.Random(7)
    offsets = Offsets()
    taken(offsets, *range(200_000))
    done = set(chance.sample(range(1, 200_000), 150_000))
    for offset in done:
        offsets.finished(offset)
    commit = committed(offsets)
    assert PAUSE_CHARACTERS < len(commit.metadata) <= METADATA_CHARACTERS
    assert offsets.crowded

    again = set(taken(Offsets.restored(commit), *range(200_000)))
    assert again >= set(range(200_000)) - done


def test_what_only_waits_takes_no_room_in_the_metadata() -> None:
    offsets = Offsets()
    taken(offsets, *range(1_000_000, 1_010_000))
    for offset in range(1_000_001, 1_000_065):
        offsets.finished(offset)
    commit = committed(offsets)
    assert len(commit.metadata) < 60
    assert not offsets.crowded
    again = taken(Offsets.restored(commit), *range(1_000_000, 1_010_000))
    assert again == [1_000_000, *range(1_000_065, 1_010_000)]


@pytest.mark.parametrize("seed", range(300))
def test_through_any_takeovers_each_record_runs_until_it_finished_and_none_is_lost(
    seed: int,
) -> None:
    chance = random.Random(seed)
    log = sorted(chance.sample(range(chance.choice([60, 400])), 50))
    finished: set[int] = set()
    acknowledged = Commit(0)
    offsets = Offsets()
    position = 0
    open_now: list[int] = []
    known: set[int] = set()  # finished in this owner's eyes
    sure: set[int] = set()  # finished as a commit tells, to a new owner or to a rewound one
    told: set[int] = set()
    while len(finished) < len(log) or offsets.unfinished:
        match chance.choice(["deliver", "deliver", "finish", "finish", "commit", "crash", "void"]):
            case "deliver":
                for offset in [o for o in log if o >= position][: chance.randint(1, 8)]:
                    position = offset + 1
                    if offsets.delivered(offset):
                        assert offset not in sure, "it finished before an acknowledged commit"
                        open_now.append(offset)
            case "finish" if open_now:
                offset = open_now.pop(chance.randrange(len(open_now)))
                offsets.finished(offset)
                finished.add(offset)
                known.add(offset)
            case "commit":
                if (commit := offsets.commit()) is not None:
                    offsets.committed(commit)
                    acknowledged = commit
                    sure, told = set(known), set(known)
            case "crash" if chance.random() < 0.3:
                offsets, open_now = Offsets.restored(acknowledged), []
                known, sure = set(told), set(told)
                position = offsets.position or 0
            case "void" if chance.random() < 0.3:
                offsets, open_now = offsets.rewound(), []
                position = offsets.position or 0
                sure = set(known)
            case _:
                pass
    assert finished == set(log)
    assert decoded(offsets.commit() or acknowledged) is None or offsets.unfinished == 0
