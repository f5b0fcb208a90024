"""The full comparison, now and read only: every record, link, collection and file of both sides."""

from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from bitbylaw_common.clock import Clock
from bitbylaw_common.runtime.overview import Reads, overview
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.comparison import Standing, orphans
from bitbylaw_document_sync.domain.coverage import ORPHAN_AGE, Known
from bitbylaw_document_sync.steps.document_coverage_cron_step import SERVICE
from bitbylaw_document_sync.surveying import DOCUMENT, begun, everything, known


class Off(BaseModel):
    """A record that is not simply in line.

    Attributes:
        standing: "pending", "conflict" or "duplicate".
        rule, reason: what a run would decide, in the journal's words.
        waits: it is looked at again at a time that is set.
        given_up: a dead letter stands for it, since then.
    """

    model_config = ConfigDict(frozen=True)

    entity_id: str
    standing: str
    rule: str
    reason: str
    waits: bool = False
    given_up: datetime | None = None


class Stray(BaseModel):
    """A file at xAI that is nobody's, or that lies where no record has it.

    Attributes:
        collection: where it lies; empty: in none that is known.
        owned: a record knows the file; only its place is strange.
        twin_of: the document whose file has the same name and size.
    """

    model_config = ConfigDict(frozen=True)

    file_id: str
    collection: str
    owned: bool
    twin_of: str | None
    created_at: datetime | None


class Audit(BaseModel):
    """How every record stands.

    Attributes:
        counts: records by standing, and "orphan": files that are nobody's.
        off: what is not in line, and what shares its file.
        uncovered: lists that could not be read, so that their records are not among the counts.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    entity: str
    began: datetime
    ended: datetime
    counts: dict[str, int]
    off: tuple[Off, ...]
    orphans: tuple[Stray, ...]
    uncovered: tuple[str, ...]

    @property
    def wrong(self) -> bool:
        """Whether something is off that nothing will mend by itself at a time that is set."""
        pending = any(one.standing == Standing.PENDING and not one.waits for one in self.off)
        conflict = any(one.standing == Standing.CONFLICT for one in self.off)
        return pending or conflict or bool(self.orphans) or bool(self.uncovered)


async def audit(
    log: Reads, deps: Deps, clock: Clock, *, part: Callable[[int], None] = lambda _: None
) -> Audit:
    """Compare everything and return what was found; nothing is written anywhere.

    Args:
        part: told after each part that was read, with how many those are.

    Raises:
        LogUnavailableError, OutsideError: a list could not be read to its end, so that nothing
            can be said.
    """
    seen = await overview(log, SERVICE, DOCUMENT)
    survey = await begun(seen, deps, clock.now())
    about = known(seen, survey)
    number = 0
    async for _ in everything(survey, deps):
        number += 1
        part(number)
    strays = orphans(survey, deps.policy, settle=ORPHAN_AGE)
    none = Known()
    off = tuple(
        Off(
            entity_id=finding.document_id,
            standing=finding.standing.value,
            rule=finding.rule,
            reason=finding.reason,
            waits=about.get(finding.document_id, none).waits,
            given_up=about.get(finding.document_id, none).given_up,
        )
        for finding in sorted(survey.findings.values(), key=lambda f: (f.standing, f.document_id))
    )
    counts = {standing.value: count for standing, count in survey.counts.items()}
    return Audit(
        service=SERVICE,
        entity=DOCUMENT,
        began=survey.now,
        ended=clock.now(),
        counts=counts | {"orphan": len(strays)},
        off=off,
        orphans=tuple(
            Stray(
                file_id=orphan.file_id,
                collection=orphan.collection,
                owned=orphan.owned,
                twin_of=orphan.twin_of,
                created_at=orphan.created_at,
            )
            for orphan in strays
        ),
        uncovered=tuple(sorted(set(survey.blind.values()))),
    )
