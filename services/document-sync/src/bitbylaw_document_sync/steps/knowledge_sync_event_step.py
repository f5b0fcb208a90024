"""Brings one knowledge base and its collection at xAI in line, whatever was told of it."""

from datetime import timedelta

from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.outcomes import Done, Outcome, Retry, Skipped
from bitbylaw_common.runtime.context import Context
from bitbylaw_common.runtime.step import step
from bitbylaw_common.runtime.triggers import queue
from bitbylaw_document_sync.book import Book
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.knowledge import KnowledgeState
from bitbylaw_document_sync.knowledge_executor import cost, decided, execute, look

_LOOKS_AT_MOST = 6
"""Made, noted, filled, noted again: and twice more for what moves meanwhile."""


@step(
    name="Knowledge Sync",
    description="Makes, fills and deletes the collection that a knowledge base stands for",
    flows=["vmh", "vmh-knowledge"],
    triggers=[queue(topics.AIKNOWLEDGE_SYNC_CHECK)],
    enqueues=[topics.DOCUMENT_SYNC_CHECK],
    lock="aiknowledge",
    coalesce=True,
    needs=["espocrm", "xai"],
    deadline=timedelta(seconds=150),
)
async def knowledge_sync(event: EntityChanged, ctx: Context[Deps]) -> Outcome:
    """Look, plan, act; look again after each part that makes another sight."""
    if not ctx.deps.knowledge.enabled:
        return Skipped("knowledge bases are not managed here: DOCUMENT_KNOWLEDGE_BASES is false")
    await _tell_of_links(ctx)
    book, acted, rule = Book(ctx, KnowledgeState), 0, ""
    errand = ctx.deps.brake.errand(event.entity_id, ctx.extent())
    for _ in range(_LOOKS_AT_MOST):
        sight = await look(event.entity_id, ctx, book)
        to_do, sight = await decided(sight, ctx)
        rule = rule or to_do.rule
        ctx.decided(rule, to_do.reason)
        effects = cost(to_do)
        held = errand.ask(effects) if effects else None
        if held is not None:
            ctx.decided(rule, f"{to_do.reason}; held back by the brake")
            return held.wait()
        done = await execute(to_do, sight, ctx, book)
        errand.did(effects)
        acted += len(to_do.actions)
        if done:
            if to_do.ending is not None:
                return to_do.ending
            return Done(to_do.reason) if acted else Skipped(to_do.reason)
    return Retry("the knowledge base moved each time it was looked at", error="Moving")


async def _tell_of_links(ctx: Context[Deps]) -> None:
    """Warn once where the CRM does not serve the rows of the link: their columns are left out."""
    knowledge = ctx.deps.knowledge
    if knowledge.warned or await knowledge.bases.serves_links():
        return
    knowledge.warned.add("links")
    ctx.logger.warning(
        "the CRM serves no rows of the link between knowledge bases and documents; their columns "
        "are left out",
        entity="CAIKnowledgeCDokumente",
    )
