"""Looks for knowledge bases with something to do, and hands each out as an event of its own.

There is no webhook for them: linking a document fires none, so the CRM's own marks (the status of
the knowledge base, which a hook sets to "unclean") have to be read anyhow, and one list of knowledge
bases tells of new, deactivated and marked ones alike. The nightly look finds what no mark told.
"""

from bitbylaw_common import topics
from bitbylaw_common.errors import NotFound
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.outcomes import Done, Outcome, Rejected, Skipped
from bitbylaw_common.runtime.context import Context, Emit
from bitbylaw_common.runtime.step import step
from bitbylaw_common.runtime.triggers import Tick, cron
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.knowledge import due

_ENTITY = "CAIKnowledge"
_EVENTS_AT_ONCE = 250


@step(
    name="Knowledge Sync Cron",
    description="Looks for knowledge bases that are new, deactivated or marked by the CRM",
    flows=["vmh", "vmh-knowledge"],
    triggers=[cron("0 */5 * * * *")],
    enqueues=[topics.AIKNOWLEDGE_SYNC_CHECK],
    needs=["espocrm"],
)
async def knowledge_cron(_tick: Tick, ctx: Context[Deps]) -> Outcome:
    """Hand out what the marks tell."""
    return await _handed_out(ctx, everything=False)


@step(
    name="Knowledge Full Sync Cron",
    description="Looks at every active knowledge base, whatever its marks say",
    flows=["vmh", "vmh-knowledge"],
    triggers=[cron("0 0 2 * * *")],
    enqueues=[topics.AIKNOWLEDGE_SYNC_CHECK],
    needs=["espocrm"],
)
async def knowledge_full_cron(_tick: Tick, ctx: Context[Deps]) -> Outcome:
    """Hand out all that are in use."""
    return await _handed_out(ctx, everything=True)


async def _handed_out(ctx: Context[Deps], *, everything: bool) -> Outcome:
    if not ctx.deps.knowledge.enabled:
        return Skipped("knowledge bases are not managed here: DOCUMENT_KNOWLEDGE_BASES is false")
    try:
        ids = [
            knowledge.id
            async for knowledge in ctx.deps.knowledge.bases.all()
            if due(knowledge, everything=everything)
        ]
    except NotFound:
        return Rejected(
            f"the CRM has no {_ENTITY}: set DOCUMENT_KNOWLEDGE_BASES=false", error="NotFound"
        )
    events = [
        Emit(
            topics.AIKNOWLEDGE_SYNC_CHECK,
            EntityChanged(entity_type=_ENTITY, entity_id=one, action="sync_check", source="cron"),
        )
        for one in sorted(ids)
    ]
    for start in range(0, len(events), _EVENTS_AT_ONCE):
        await ctx.enqueue_all(events[start : start + _EVENTS_AT_ONCE])
    return Done(f"{len(ids)} handed out") if ids else Skipped("none has anything to do")
