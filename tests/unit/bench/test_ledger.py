"""What a ledger proves."""

from pathlib import Path

import pytest
from benchmarks.ledger import Findings, Handled, Ledger, judge, read


def _judged(*runs: tuple[str, int, int, int], records: int | None = None) -> Findings:
    return judge([Handled(*run) for run in runs], records=len(runs) if records is None else records)


def test_runs_of_a_key_one_after_the_other_are_in_order() -> None:
    found = _judged(("a", 0, 10, 20), ("b", 1, 12, 15), ("a", 2, 20, 30))

    assert found.problems(concurrency=2, in_order=True) == ()
    assert (found.began, found.ended, found.at_once) == (10, 30, 2)
    assert found.seconds == pytest.approx(20e-9)


def test_a_run_that_begins_before_the_one_before_ended_overlaps() -> None:
    found = _judged(("a", 0, 10, 20), ("a", 1, 19, 30))

    assert found.overlaps == 1
    assert found.problems(concurrency=2, in_order=True)
    assert not found.problems(concurrency=2, in_order=False)


@pytest.mark.parametrize(
    "later",
    [pytest.param((5, 8), id="began first"), pytest.param((12, 18), id="ended first")],
)
def test_a_later_record_that_is_first_is_out_of_order(later: tuple[int, int]) -> None:
    assert _judged(("a", 0, 10, 20), ("a", 1, *later)).disordered == 1


def test_records_that_are_missing_or_repeated_are_counted() -> None:
    found = _judged(("a", 0, 1, 2), ("a", 0, 3, 4), records=3)

    assert (found.missing, found.repeated) == (2, 1)
    assert len(found.problems(concurrency=1, in_order=True)) == 2


def test_more_runs_at_once_than_allowed_are_told() -> None:
    found = _judged(("a", 0, 1, 9), ("b", 1, 2, 9), ("c", 2, 3, 9))

    assert found.problems(concurrency=2, in_order=True) == ("3 runs at once, 2 were allowed",)


def test_nothing_handled_proves_nothing() -> None:
    with pytest.raises(ValueError, match="empty"):
        judge([], records=1)


def test_a_ledger_is_asked_to_be_written_at_its_last_record_and_reads_the_same(
    tmp_path: Path,
) -> None:
    runs = [Handled("a", 0, 1, 2), Handled("b", 1, 3, 4)]
    ledger = Ledger(tmp_path / "ledger", records=2)

    assert [ledger.note(run) for run in runs] == [False, True]
    ledger.write()

    assert read(tmp_path / "ledger") == runs
