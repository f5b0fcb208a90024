"""What coverage remembers from tick to tick, and what it does about a gap (pure)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bitbylaw_common.sync.base import BaseState
from bitbylaw_document_sync.domain.comparison import Finding, Orphan, Standing

OVERLAP = timedelta(minutes=5)
"""How far before the watermark is read again: two saves of one second look the same, and what was
saved in a long transaction shows up late, with an earlier stamp."""

OVERDUE = timedelta(minutes=15)
"""A gap of this age that nothing waits for or works on is an alarm."""

_FIRST_PAUSE = timedelta(minutes=15)
_LONGEST_PAUSE = timedelta(hours=24)
_SLACK = timedelta(minutes=1)

ORPHAN_AGE = timedelta(hours=1)
"""A younger file is never taken for an orphan: its upload may be under way, or have no base yet."""

KEPT = 2_000
"""So many gaps, orphans and duplicates are remembered one by one; of more only the number."""

Handling = Literal["told", "waiting", "given up", "quiet"]


class Gap(BaseModel):
    """A record that is not as it should be.

    Attributes:
        since: the first tick that saw it.
        seen: digest of what that tick saw; another sight begins a new count.
        told: how often a check was asked for, and when last.
        rule: what a run would do about it.
        handling: what this tick did: "told" its step; left it, because an entry of the schedule
            "waiting" for its time, a dead letter ("given up") or an earlier word ("quiet")
            stands for it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    document_id: str
    since: datetime
    seen: str
    told: int = 0
    told_at: datetime | None = None
    rule: str = ""
    handling: Handling = "told"

    def overdue(self, now: datetime) -> bool:
        """Say whether somebody must look: it is old, and nothing will happen by itself."""
        return self.handling in ("told", "quiet") and now - self.since >= OVERDUE


class CoverageState(BaseState):
    """What the ticks of coverage leave behind, in the base of the cron.

    Attributes:
        watermark: the latest change that was listed, in the CRM's time: no clock of ours can make
            it skip one. None: nothing was listed yet, so the next tick lists everything.
        complete_since: the first tick that came to its end.
        complete_until: when the last one that did began to read: every change before it was seen.
        gaps: at most `KEPT`, the oldest; `more_gaps` counts the rest.
        uncovered: in words, what could not be read.
        documents: how many records the last tick judged.
        told: how many checks it asked for.
    """

    watermark: datetime | None = None
    complete_since: datetime | None = None
    complete_until: datetime | None = None
    gaps: tuple[Gap, ...] = ()
    more_gaps: int = 0
    uncovered: tuple[str, ...] = ()
    documents: int = 0
    told: int = 0

    @property
    def from_when(self) -> datetime | None:
        """From which change on the next tick lists; None: from the beginning."""
        return None if self.watermark is None else self.watermark - OVERLAP


class KnownOrphan(BaseModel):
    """An orphan that a comparison found: since when it is known as one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    file_id: str
    collection: str
    since: datetime
    owned: bool = False
    twin_of: str | None = None

    @property
    def key(self) -> str:
        """As of `Orphan`."""
        return f"{self.collection}/{self.file_id}"


def still_orphans(
    before: Iterable[KnownOrphan], found: Iterable[Orphan], now: datetime
) -> tuple[KnownOrphan, ...]:
    """Return the orphans found now, each with the time since when it is known as one."""
    since = {orphan.key: orphan.since for orphan in before}
    return tuple(
        KnownOrphan(
            file_id=orphan.file_id,
            collection=orphan.collection,
            since=since.get(orphan.key, now),
            owned=orphan.owned,
            twin_of=orphan.twin_of,
        )
        for orphan in found
    )


class ComparisonState(BaseState):
    """What the last full comparison found, in the base of its cron.

    Attributes:
        began, ended: of the reading.
        counts: records by standing.
        orphans, duplicates, conflicts: one by one, at most `KEPT` of each; `counts` has them all.
        told: how many checks it asked for.
        removed: orphans that it removed, where the policy says so.
        uncovered: in words, what could not be read.
    """

    began: datetime
    ended: datetime
    counts: dict[str, int]
    orphans: tuple[KnownOrphan, ...] = ()
    duplicates: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    told: int = 0
    removed: int = 0
    uncovered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What the service knows about a record beside its base.

    Attributes:
        waits: it is looked at again at a time that is set.
        given_up: when its last dead letter was written, where nothing was agreed on since.
    """

    waits: bool = False
    given_up: datetime | None = None


_NOTHING = Known()


@dataclass(frozen=True, slots=True)
class Resolved:
    """What to do about what was found.

    Attributes:
        tell: the records to ask a check for.
        gaps: what is to be remembered, the oldest first.
    """

    tell: tuple[str, ...]
    gaps: tuple[Gap, ...]


def resolved(
    before: Iterable[Gap],
    findings: Iterable[Finding],
    known: Mapping[str, Known],
    now: datetime,
) -> Resolved:
    """Say which records are told, and which gaps there are.

    A gap is told at once, then after growing pauses for as long as it looks the same: what a check
    cannot mend is not asked for at every tick. What waits for its time is left alone. So is what
    was given up, until it looks otherwise than at the first tick after that, or a person changes it:
    a dead letter is for a person to redrive.
    """
    earlier = {gap.document_id: gap for gap in before}
    tell: list[str] = []
    gaps: list[Gap] = []
    for finding in findings:
        if finding.standing is not Standing.PENDING:
            continue
        about = known.get(finding.document_id, _NOTHING)
        gap = _gap(earlier.get(finding.document_id), finding, about, now)
        if gap.handling == "told":
            tell.append(finding.document_id)
        gaps.append(gap)
    return Resolved(tuple(tell), tuple(sorted(gaps, key=lambda g: (g.since, g.document_id))))


def _gap(before: Gap | None, finding: Finding, about: Known, now: datetime) -> Gap:
    changed = before is not None and before.seen != finding.seen
    if before is None or changed:
        gap = Gap(document_id=finding.document_id, since=now, seen=finding.seen, rule=finding.rule)
    else:
        gap = before
    if about.waits:
        return gap.model_copy(update={"handling": "waiting"})
    if _given_up(before, finding, about):
        return gap.model_copy(update={"handling": "given up"})
    if gap.told_at is not None and now < gap.told_at + _pause(gap.told):
        return gap.model_copy(update={"handling": "quiet"})
    return gap.model_copy(update={"handling": "told", "told": gap.told + 1, "told_at": now})


def _given_up(before: Gap | None, finding: Finding, about: Known) -> bool:
    """Say whether the record is as it was when it died; our last word in it came before that."""
    died, modified = about.given_up, finding.modified_at
    if died is None or (modified is not None and modified > died):
        return False
    return before is None or before.handling != "given up" or before.seen == finding.seen


def _pause(told: int) -> timedelta:
    """Return how long after so many words the next one comes; a tick early is not too early."""
    doubled = _FIRST_PAUSE * (1 << min(max(told - 1, 0), 10))
    return min(doubled, _LONGEST_PAUSE) - _SLACK
