"""The ladder of attempts."""

from datetime import timedelta

import pytest

from bitbylaw_common.retry import LADDER, pause_after


def test_the_pauses_are_those_people_know_from_the_crm() -> None:
    minutes = [pause / timedelta(minutes=1) for pause in LADDER]
    assert minutes == [1, 5, 15, 60, 240]


def test_each_failed_attempt_has_its_rung_and_after_the_last_there_is_none() -> None:
    assert [pause_after(attempt) for attempt in range(1, 7)] == [*LADDER, None]
    assert pause_after(100, not_before=timedelta(minutes=1)) is None


@pytest.mark.parametrize(
    ("wish", "pause"), [(0, 60), (59, 60), (60, 60), (61, 61), (86_400, 86_400)]
)
def test_the_longer_of_rung_and_wish_holds(wish: int, pause: int) -> None:
    found = pause_after(1, not_before=timedelta(seconds=wish))
    assert found == timedelta(seconds=pause)


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_are_counted_from_one(attempt: int) -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        pause_after(attempt)
