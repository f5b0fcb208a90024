"""Coverage: since when and until when no change can have been missed, and what is not in line."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bitbylaw_cli.records import Reads, home_of, instant, places, relative, span
from bitbylaw_common import topics
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.runtime.ticks import ENTITY
from bitbylaw_document_sync.domain.coverage import ComparisonState, CoverageState, Gap
from bitbylaw_document_sync.steps.document_comparison_cron_step import document_comparison
from bitbylaw_document_sync.steps.document_coverage_cron_step import SERVICE, document_coverage
from bitbylaw_document_sync.surveying import DOCUMENT

LATE = timedelta(minutes=30)
"""Two ticks: of one that is missing, a restart may be the reason."""

COMPARED_WITHIN = timedelta(hours=26)

State = Literal["covered", "gaps", "blind", "late", "never"]
GapState = Literal["new", "waiting", "given up", "overdue"]

FINDINGS: tuple[State, ...] = ("gaps", "blind", "late", "never")
"""States that somebody should look at."""


class GapStand(BaseModel):
    """A record that is not in line.

    Attributes:
        state: "new": told, its check is to come; "waiting" for a time that is set; "given up": a
            dead letter stands for it; "overdue": nothing does.
        age_seconds: since the first tick that saw it so.
        told: how often a check was asked for.
        rule: what a run would do about it.
    """

    model_config = ConfigDict(frozen=True)

    entity_id: str
    state: GapState
    since: datetime
    age_seconds: int
    told: int
    rule: str


class Compared(BaseModel):
    """What the last full comparison found.

    Attributes:
        counts: records by standing; "orphan" counts files that are nobody's.
        told: how many checks it asked for; `removed` how many orphans it removed.
    """

    model_config = ConfigDict(frozen=True)

    began: datetime
    counts: dict[str, int]
    told: int
    removed: int
    uncovered: tuple[str, ...]


class Coverage(BaseModel):
    """How far the changes of one kind of record are covered.

    Attributes:
        complete_since, complete_until: no change between them can have been missed, but for what
            only a full comparison sees.
        watermark: the latest change that was listed, by the CRM's clock.
        gaps: the oldest first; `more_gaps` that are not listed.
        uncovered: lists that could not be read, and why.
        compared: None: there was no full comparison yet.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    entity: str
    state: State
    verdict: str
    complete_since: datetime | None
    complete_until: datetime | None
    watermark: datetime | None
    documents: int
    gaps: tuple[GapStand, ...]
    more_gaps: int
    uncovered: tuple[str, ...]
    compared: Compared | None


async def coverage(log: Reads, now: datetime) -> Coverage:
    """Return how far documents are covered, as the last tick and the last comparison left it.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    tick, night = document_coverage.function_id(), document_comparison.function_id()
    wanted = {f"{ENTITY}:{function}".encode(): function for function in (tick, night)}
    homes = {home_of(function) for function in wanted.values()}
    values: dict[str, bytes | None] = {}
    async for record in log.read(places([topics.base(SERVICE).name], sorted(homes))):
        if (record.key or b"") in wanted:
            values[wanted[record.key or b""]] = record.value
    return judged(_state(values.get(tick)), _comparison(values.get(night)), now)


def _state(value: bytes | None) -> CoverageState | None:
    try:
        return None if value is None else CoverageState.from_bytes(value)
    except DecodeError:
        return None  # as the cron itself takes it: it begins anew


def _comparison(value: bytes | None) -> ComparisonState | None:
    try:
        return None if value is None else ComparisonState.from_bytes(value)
    except DecodeError:
        return None


def judged(
    state: CoverageState | None, comparison: ComparisonState | None, now: datetime
) -> Coverage:
    """Say how far documents are covered (pure)."""
    gaps = tuple(_stand(gap, now) for gap in state.gaps) if state is not None else ()
    verdict = _verdict(state, comparison, gaps, now)
    return Coverage(
        service=SERVICE,
        entity=DOCUMENT,
        state=verdict[0],
        verdict=verdict[1],
        complete_since=state.complete_since if state is not None else None,
        complete_until=state.complete_until if state is not None else None,
        watermark=state.watermark if state is not None else None,
        documents=state.documents if state is not None else 0,
        gaps=gaps,
        more_gaps=state.more_gaps if state is not None else 0,
        uncovered=state.uncovered if state is not None else (),
        compared=_compared(comparison),
    )


def _stand(gap: Gap, now: datetime) -> GapStand:
    state: GapState = "overdue" if gap.overdue(now) else "new"
    if gap.handling in ("waiting", "given up"):
        state = gap.handling
    return GapStand(
        entity_id=gap.document_id,
        state=state,
        since=gap.since,
        age_seconds=max(0, int((now - gap.since).total_seconds())),
        told=gap.told,
        rule=gap.rule,
    )


def _compared(state: ComparisonState | None) -> Compared | None:
    if state is None:
        return None
    return Compared(
        began=state.began,
        counts=state.counts,
        told=state.told,
        removed=state.removed,
        uncovered=state.uncovered,
    )


def _verdict(
    state: CoverageState | None,
    comparison: ComparisonState | None,
    gaps: Iterable[GapStand],
    now: datetime,
) -> tuple[State, str]:
    if state is None or state.complete_until is None:
        return "never", "no tick came to its end yet: `bbl cron list` says whether it runs"
    until = state.complete_until
    if now - until > LATE:
        words = f"the last complete tick began {relative(until, now)}: see `bbl cron list`"
        return "late", words
    if comparison is not None and now - comparison.began > COMPARED_WITHIN:
        words = f"the last full comparison began {relative(comparison.began, now)}"
        return "late", f"{words}: see `bbl cron list`"
    if state.uncovered:
        return "blind", f"some lists cannot be read: {'; '.join(state.uncovered)}"
    numbers = Counter(gap.state for gap in gaps)
    if numbers["overdue"]:
        oldest = max(gap.age_seconds for gap in gaps if gap.state == "overdue")
        words = f"{numbers['overdue']} documents are not in line, for up to "
        words += f"{span(timedelta(seconds=oldest))}, and nothing stands for them"
        return "gaps", f"{words}: `bbl why document ID` tells more"
    rest = ", ".join(f"{number} {name}" for name, number in sorted(numbers.items()))
    words = f"every change until {instant(until)} was seen"
    return "covered", f"{words}; not in line yet: {rest}" if rest else words
