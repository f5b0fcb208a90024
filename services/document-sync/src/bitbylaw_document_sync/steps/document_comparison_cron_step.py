"""Compares every night every record, link, collection and file of both sides.

It finds what no list of changes shows: silent edits and imports, deletions that nobody told, files
at xAI that no record knows. Only complete lists count; one that breaks off ends the run, and
concludes nothing.
"""

from collections import Counter
from datetime import timedelta

from bitbylaw_common import metrics, topics
from bitbylaw_common.outcomes import Done, Outcome, Skipped, Wait
from bitbylaw_common.runtime.context import Context
from bitbylaw_common.runtime.step import step
from bitbylaw_common.runtime.triggers import Tick, cron
from bitbylaw_common.sync.brake import DELETE, DETACH, emptied
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.comparison import Standing, Survey, orphans
from bitbylaw_document_sync.domain.coverage import (
    KEPT,
    ORPHAN_AGE,
    ComparisonState,
    KnownOrphan,
    resolved,
    still_orphans,
)
from bitbylaw_document_sync.steps.document_coverage_cron_step import SERVICE, tell
from bitbylaw_document_sync.surveying import DOCUMENT, everything, surveyed

NAME = "Document Comparison Cron"


@step(
    name=NAME,
    description="Compares all documents, links, collections and files, and lists what is nobody's",
    flows=["vmh", "vmh-document"],
    triggers=[cron("0 0 2 * * *")],
    enqueues=[topics.DOCUMENT_SYNC_CHECK],
    needs=["espocrm", "xai"],
    deadline=timedelta(seconds=120),
)
async def document_comparison(tick: Tick, ctx: Context[Deps]) -> Outcome:
    """Read all, judge all, tell what is off; remove orphans where the policy says so."""
    before = ctx.base(ComparisonState)
    reading = await surveyed(ctx, NAME, tick.run_id, lambda survey: everything(survey, ctx.deps))
    if reading is None:
        return Wait("reading on", timedelta())
    survey, now = reading.survey, ctx.now()
    found = resolved((), survey.findings.values(), reading.known, now)
    await tell(ctx, found.tell)
    nobodys = still_orphans(
        before.orphans if before is not None else (),
        orphans(survey, ctx.deps.policy, settle=ORPHAN_AGE),
        survey.now,
    )
    removed = await _removed(nobodys, survey, ctx)
    left = tuple(orphan for orphan in nobodys if orphan.key not in removed)
    by_standing = {
        standing: tuple(
            sorted(f.document_id for f in survey.findings.values() if f.standing is standing)
        )
        for standing in (Standing.DUPLICATE, Standing.CONFLICT)
    }
    counts = {standing.value: number for standing, number in survey.counts.items()}
    counts["orphan"] = len(left)
    await ctx.agree(
        ComparisonState(
            key_id=ctx.deps.policy.digester.key_id,
            written_at=now,
            written_by=ctx.run_id,
            began=survey.now,
            ended=now,
            counts=counts,
            orphans=left[:KEPT],
            duplicates=by_standing[Standing.DUPLICATE][:KEPT],
            conflicts=by_standing[Standing.CONFLICT][:KEPT],
            told=len(found.tell),
            removed=len(removed),
            uncovered=tuple(sorted(set(survey.blind.values()))),
        )
    )
    return _answer(survey, ctx, counts, told=len(found.tell), removed=len(removed))


async def _removed(
    nobodys: tuple[KnownOrphan, ...], survey: Survey, ctx: Context[Deps]
) -> frozenset[str]:
    """Remove what has been nobody's for long enough, as the policy says; return what is gone.

    Who notes the file is asked once more right before; the brake has the last word. Nothing is
    removed where the CRM suddenly knows hardly any of the files that it knew.
    """
    deps, lists = ctx.deps, ctx.deps.lists
    if lists.orphans == "list":
        return frozenset()
    ours = [base.file_id for base in survey.bases.values() if base.file_id is not None]
    strange = emptied(known=len(ours), seen=sum(file in survey.noted for file in ours))
    if strange:
        ctx.logger.error("the CRM's list is not believed; no orphan is removed", reason=strange)
        return frozenset()
    errand = deps.brake.errand("orphans", ctx.extent())
    removed: set[str] = set()
    for orphan in nobodys:
        alone = orphan.collection == ""
        deletes = lists.orphans == "delete" and not orphan.owned
        if ctx.now() - orphan.since < lists.settle or (alone and not deletes):
            continue
        if not orphan.owned and await deps.documents.sharers((orphan.file_id,), besides=""):
            continue
        effects = Counter({DETACH: 0 if alone else 1, DELETE: 1 if deletes else 0})
        held = errand.ask(effects)
        if held is not None:
            ctx.logger.warning(
                "the brake holds the removal of orphans back", reason=held.wait().reason
            )
            break
        if not alone:
            target = f"{orphan.collection}/{orphan.file_id}"
            async with ctx.effect("xai", "remove_from_collection", target=target):
                await deps.collections.detach(orphan.collection, orphan.file_id)
        if deletes:
            async with ctx.effect("xai", "delete_file", target=orphan.file_id):
                await deps.files.delete(orphan.file_id)
        errand.did(effects)
        removed.add(orphan.key)
    return frozenset(removed)


def _answer(
    survey: Survey, ctx: Context[Deps], counts: dict[str, int], *, told: int, removed: int
) -> Outcome:
    for standing, number in counts.items():
        metrics.COMPARISON_RECORDS.labels(SERVICE, DOCUMENT, standing).set(number)
    metrics.COMPARISON_COMPLETE_AT.labels(SERVICE, DOCUMENT).set(survey.now.timestamp())
    metrics.SYNC_CHECKS.labels(SERVICE, DOCUMENT, "comparison").inc(told)
    for why in sorted(set(survey.blind.values())):
        ctx.logger.warning("some documents cannot be compared", reason=why)
    if counts["orphan"]:
        ctx.logger.warning("files at xAI belong to no document", count=counts["orphan"])
    words = ", ".join(
        f"{number} {name.replace('_', ' ')}" for name, number in counts.items() if number
    )
    reason = f"compared: {words or 'there is no document'}"
    ctx.decided("comparison", reason)
    if told or removed:
        return Done(f"{told} documents to be looked at, {removed} orphans removed; {reason}")
    return Skipped(reason)
