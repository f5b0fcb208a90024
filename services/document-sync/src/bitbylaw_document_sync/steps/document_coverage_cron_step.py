"""Finds every 15 minutes what changed in EspoCRM and no webhook told, and asks for a look at it.

A webhook is a hint that may be lost: four attempts in half an hour, and a single answer can remove
it. So the CRM's own lists are read: what it says was changed since the last time, and what each
knowledge base holds, beside what its collection at xAI holds. What a run would do something about is
told to the document's step; nothing is mended here.
"""

from collections.abc import Iterable
from datetime import timedelta

from bitbylaw_common import metrics, topics
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.outcomes import Done, Outcome, Skipped, Wait
from bitbylaw_common.runtime.context import Context, Emit
from bitbylaw_common.runtime.step import step
from bitbylaw_common.runtime.triggers import Tick, cron
from bitbylaw_document_sync.adapters import ENTITY
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.coverage import KEPT, CoverageState, Gap, resolved
from bitbylaw_document_sync.surveying import DOCUMENT, changes, surveyed

NAME = "Document Coverage Cron"
SERVICE = "document-sync"
_TOLD_TOGETHER = 500
_NAMED = 10
"""So many records are named in a log line; `bbl coverage` lists them all."""


@step(
    name=NAME,
    description="Finds changed documents that no webhook told of, and has them looked at",
    flows=["vmh", "vmh-document"],
    triggers=[cron("0 */15 * * * *")],
    enqueues=[topics.DOCUMENT_SYNC_CHECK],
    needs=["espocrm", "xai"],
    deadline=timedelta(seconds=120),
)
async def document_coverage(tick: Tick, ctx: Context[Deps]) -> Outcome:
    """Read what changed, judge it, tell what is off, remember the gaps and how far it came."""
    policy = ctx.deps.policy
    before = ctx.base(CoverageState) or CoverageState(
        key_id=policy.digester.key_id, written_at=ctx.now()
    )
    watched = [gap.document_id for gap in before.gaps]
    reading = await surveyed(
        ctx,
        NAME,
        tick.run_id,
        lambda survey: changes(survey, ctx.deps, since=before.from_when, watched=watched),
    )
    if reading is None:
        return Wait("reading on", timedelta())
    survey, now = reading.survey, ctx.now()
    found = resolved(before.gaps, survey.findings.values(), reading.known, now)
    await tell(ctx, found.tell)
    seen = [moment for moment in (before.watermark, survey.newest) if moment is not None]
    after = CoverageState(
        key_id=policy.digester.key_id,
        written_at=now,
        written_by=ctx.run_id,
        # A clock of the CRM that is ahead must not hide what is saved once it is right again.
        watermark=min(max(seen), survey.now) if seen else None,
        complete_since=before.complete_since or survey.now,
        complete_until=survey.now,
        gaps=found.gaps[:KEPT],
        more_gaps=len(found.gaps[KEPT:]),
        uncovered=tuple(sorted(set(survey.blind.values()))),
        documents=sum(survey.counts.values()),
        told=len(found.tell),
    )
    await ctx.agree(after)
    _show(after, ctx, [gap for gap in found.gaps if gap.overdue(now)], found.gaps)
    reason = f"{after.documents} documents judged, {len(found.gaps)} not in line"
    ctx.decided("coverage", "; ".join((reason, *after.uncovered)))
    if found.tell:
        return Done(f"{len(found.tell)} documents to be looked at; {reason}")
    return Skipped(reason)


async def tell(ctx: Context[Deps], documents: Iterable[str]) -> None:
    """Ask for a look at each of these documents; returns once Kafka has them all."""
    emits = [
        Emit(
            topics.DOCUMENT_SYNC_CHECK,
            EntityChanged(
                entity_type=ENTITY, entity_id=document, action="sync_check", source="coverage"
            ),
        )
        for document in documents
    ]
    for start in range(0, len(emits), _TOLD_TOGETHER):
        await ctx.enqueue_all(emits[start : start + _TOLD_TOGETHER])


def _show(
    state: CoverageState, ctx: Context[Deps], overdue: list[Gap], gaps: tuple[Gap, ...]
) -> None:
    late = {gap.document_id for gap in overdue}
    counts = dict.fromkeys(("new", "waiting", "given up", "overdue"), 0)
    for gap in gaps:
        if gap.document_id in late:
            counts["overdue"] += 1
        else:
            counts[gap.handling if gap.handling in counts else "new"] += 1
    for handling, count in counts.items():
        metrics.COVERAGE_GAPS.labels(SERVICE, DOCUMENT, handling).set(count)
    metrics.COVERAGE_UNREAD.labels(SERVICE, DOCUMENT).set(len(state.uncovered))
    if state.complete_until is not None:
        metrics.COVERAGE_COMPLETE_AT.labels(SERVICE, DOCUMENT).set(state.complete_until.timestamp())
    metrics.SYNC_CHECKS.labels(SERVICE, DOCUMENT, "coverage").inc(state.told)
    for why in state.uncovered:
        ctx.logger.warning("some documents are not covered", reason=why)
    if overdue:
        ctx.logger.error(
            "documents are not in line for too long, and nothing waits for them",
            count=len(overdue),
            since=overdue[0].since.isoformat(timespec="seconds"),
            documents=[gap.document_id for gap in overdue[:_NAMED]],
            press="bbl coverage",
        )
