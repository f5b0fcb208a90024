"""What coverage does about a gap, and what the lists alone show, as tables."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from bitbylaw_common import metrics
from bitbylaw_common.runtime import Context
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.comparison import (
    Finding,
    Orphan,
    Standing,
)
from bitbylaw_document_sync.domain.coverage import (
    CoverageState,
    Gap,
    Handling,
    Known,
    KnownOrphan,
    resolved,
    still_orphans,
)
from bitbylaw_document_sync.domain.planner import Policy
from bitbylaw_document_sync.steps import document_coverage_cron_step
from unit.document_sync.fakes import DIGESTER, SETTLE
from unit.ingest.posts import Lines

NOW = datetime(2026, 3, 12, 9, 0, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
POLICY = Policy(DIGESTER, SETTLE)


def finding(seen: str = "a", *, modified: datetime | None = None) -> Finding:
    return Finding("d1", Standing.PENDING, "row 4", "new", seen, modified)


def gap(
    handling: Handling = "told", *, seen: str = "a", told: int = 1, ago: timedelta = QUARTER
) -> Gap:
    return Gap(
        document_id="d1",
        since=NOW - ago,
        seen=seen,
        told=told,
        told_at=NOW - ago if told else None,
        handling=handling,
    )


LONG_AGO = NOW - timedelta(days=3)


@pytest.mark.parametrize(
    ("before", "found", "known", "wanted"),
    [
        (None, finding(), Known(), "told"),
        (None, finding(), Known(waits=True), "waiting"),
        (None, finding(), Known(given_up=LONG_AGO), "given up"),
        (None, finding(modified=NOW), Known(given_up=LONG_AGO), "told"),
        (None, finding(modified=NOW), Known(given_up=NOW), "given up"),
        (gap(), finding(), Known(), "told"),
        (gap(ago=timedelta(minutes=14)), finding(), Known(), "told"),
        (gap(ago=timedelta(minutes=13, seconds=59)), finding(), Known(), "quiet"),
        (gap(told=2), finding(), Known(), "quiet"),
        (gap(told=2), finding("b"), Known(), "told"),
        (gap(told=3, ago=timedelta(hours=1)), finding(), Known(), "told"),
        (gap(told=40, ago=timedelta(hours=23)), finding(), Known(), "quiet"),
        (gap(told=40, ago=timedelta(hours=24)), finding(), Known(), "told"),
        (gap("waiting"), finding("b"), Known(given_up=NOW), "given up"),
        (gap("given up"), finding(), Known(given_up=LONG_AGO), "given up"),
        (gap("given up"), finding("b"), Known(given_up=LONG_AGO), "told"),
        (gap("given up"), finding(modified=NOW), Known(given_up=LONG_AGO), "told"),
    ],
)
def test_a_gap_is_told_while_nothing_else_stands_for_it(
    before: Gap | None, found: Finding, known: Known, wanted: str
) -> None:
    result = resolved([before] if before else [], [found], {"d1": known}, NOW)
    (after,) = result.gaps
    assert after.handling == wanted
    assert result.tell == (("d1",) if wanted == "told" else ())


def test_a_gap_keeps_its_age_while_it_looks_the_same() -> None:
    (same,) = resolved([gap(ago=QUARTER * 3)], [finding()], {}, NOW).gaps
    assert same.since == NOW - QUARTER * 3
    assert same.overdue(NOW)
    (other,) = resolved([gap(ago=QUARTER * 3)], [finding("b")], {}, NOW).gaps
    assert other.since == NOW
    assert not other.overdue(NOW)


@pytest.mark.parametrize(
    ("handling", "ago", "overdue"),
    [
        ("told", QUARTER, True),
        ("told", QUARTER - timedelta(seconds=1), False),
        ("quiet", QUARTER, True),
        ("waiting", QUARTER * 9, False),
        ("given up", QUARTER * 9, False),
    ],
)
def test_a_gap_is_an_alarm_once_nothing_else_stands_for_it_for_a_quarter_of_an_hour(
    handling: Handling, ago: timedelta, overdue: bool
) -> None:
    assert gap(handling, ago=ago).overdue(NOW) is overdue


def test_each_word_about_a_gap_is_counted_and_its_time_noted() -> None:
    (first,) = resolved([], [finding()], {}, NOW).gaps
    assert first == Gap(
        document_id="d1", since=NOW, seen="a", told=1, told_at=NOW, rule="row 4", handling="told"
    )
    (again,) = resolved([first], [finding()], {}, NOW + QUARTER).gaps
    assert again == first.model_copy(update={"told": 2, "told_at": NOW + QUARTER})
    (left,) = resolved([again], [finding()], {"d1": Known(waits=True)}, NOW + QUARTER * 2).gaps
    assert left == again.model_copy(update={"handling": "waiting"})


def test_the_oldest_gap_comes_first_and_of_one_age_the_smaller_id() -> None:
    findings = [Finding(f"d{n}", Standing.PENDING, "row 4", "new", "a") for n in (3, 2, 1)]
    in_line = Finding("d0", Standing.IN_SYNC, "row 5", "already in line")
    gaps = resolved([gap(ago=QUARTER * 3)], [in_line, *findings], {}, NOW).gaps
    assert [one.document_id for one in gaps] == ["d1", "d2", "d3"]
    old = gap(ago=QUARTER * 3).model_copy(update={"document_id": "d3"})
    gaps = resolved([old], findings, {}, NOW).gaps
    assert [one.document_id for one in gaps] == ["d3", "d1", "d2"]


def test_what_is_in_line_again_is_no_gap_any_more() -> None:
    assert resolved([gap()], [], {}, NOW).gaps == ()
    conflict = Finding("d1", Standing.CONFLICT, "row 18", "a collection is gone")
    assert resolved([gap()], [conflict], {}, NOW).tell == ()


def test_the_next_tick_reads_five_minutes_before_the_watermark_again() -> None:
    state = CoverageState(key_id="k", written_at=NOW, watermark=NOW)
    assert state.from_when == NOW - timedelta(minutes=5)
    assert CoverageState(key_id="k", written_at=NOW).from_when is None


def test_an_orphan_keeps_the_time_since_when_it_is_known() -> None:
    first = still_orphans((), [Orphan("f1", "c1")], NOW)
    later = still_orphans(first, [Orphan("f1", "c1"), Orphan("f1", "")], NOW + QUARTER)
    assert [one.since for one in later] == [NOW, NOW + QUARTER]


def test_what_is_known_of_an_orphan_is_remembered() -> None:
    (strayed,) = still_orphans((), [Orphan("f1", "c1", owned=True)], NOW)
    (twin,) = still_orphans((), [Orphan("f2", "", twin_of="d1")], NOW)
    assert strayed == KnownOrphan(file_id="f1", collection="c1", since=NOW, owned=True)
    assert twin == KnownOrphan(file_id="f2", collection="", since=NOW, twin_of="d1")


# -- what operators see ----------------------------------------------------------------------------


def test_what_could_not_be_read_is_counted_and_named() -> None:
    lines = Lines()
    ctx = cast("Context[Deps]", SimpleNamespace(logger=lines))
    state = CoverageState(key_id=DIGESTER.key_id, written_at=NOW, uncovered=("a list", "another"))
    document_coverage_cron_step._show(state, ctx, [], ())
    labels = {"service": "document-sync", "entity": "document"}
    assert metrics.value("bitbylaw_coverage_unread_lists", **labels) == 2
    assert [fields["reason"] for level, _, fields in lines.kept if level == "warning"] == [
        "a list",
        "another",
    ]
