"""Looks at both sides of a knowledge base, answers the planner's questions, carries out its plans."""

from collections.abc import Mapping
from dataclasses import replace

from bitbylaw_common import topics
from bitbylaw_common.errors import Conflict, NotFound, OutsideError
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.runtime.context import Context, Emit
from bitbylaw_common.sync.brake import DELETE, RECORD, UPLOAD
from bitbylaw_document_sync.book import Book
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.knowledge import (
    Action,
    AskContent,
    AskExists,
    AskMarked,
    AskSharers,
    CheckDocuments,
    CreateCollection,
    DeleteCollection,
    KnowledgePlan,
    KnowledgeSight,
    KnowledgeState,
    Linked,
    NoteKnowledge,
    NoteLink,
    Question,
    plan,
)
from bitbylaw_document_sync.domain.notices import About, CloseTask, Notify
from bitbylaw_document_sync.notifying import close_task, notify

ENTITY = "CAIKnowledge"
DOCUMENT = "CDokumente"
_QUESTIONS_AT_MOST = 8
_EVENTS_AT_ONCE = 250


# -- looking --------------------------------------------------------------------------------------


async def look(knowledge_id: str, ctx: Context[Deps], book: Book[KnowledgeState]) -> KnowledgeSight:
    """Return what EspoCRM says; xAI is asked only for what a plan needs of it."""
    knowledge = await ctx.deps.knowledge.bases.load(knowledge_id)
    return KnowledgeSight(knowledge_id, knowledge, book.base, ctx.now(), ctx.run_id)


async def decided(
    sight: KnowledgeSight, ctx: Context[Deps]
) -> tuple[KnowledgePlan, KnowledgeSight]:
    """Return the plan, and the sight with all that had to be found out for it."""
    for _ in range(_QUESTIONS_AT_MOST):
        answer = plan(sight, ctx.deps.knowledge.policy)
        if isinstance(answer, KnowledgePlan):
            return answer, sight
        sight = await _answered(answer, sight, ctx)
    raise AssertionError(f"the planner asks without end: {answer}")


async def _answered(
    question: Question, sight: KnowledgeSight, ctx: Context[Deps]
) -> KnowledgeSight:
    deps, knowledge = ctx.deps, ctx.deps.knowledge
    match question:
        case AskExists(collection):
            found = await deps.collections.exists(collection)
            return replace(sight, existing={**(sight.existing or {}), collection: found})
        case AskMarked(mark):
            return replace(sight, marked=await knowledge.shelves.marked(mark))
        case AskSharers(collections):
            shared = await knowledge.bases.sharers(collections, besides=sight.knowledge_id)
            return replace(sight, shared=shared)
        case AskContent(collection):
            linked = await knowledge.bases.linked(sight.knowledge_id) or Linked((), {})
            if collection is None:
                return replace(sight, linked=linked)
            members = await knowledge.shelves.members(collection)
            if members is None:
                return replace(sight, existing={**(sight.existing or {}), collection: False})
            return replace(sight, linked=linked, members=members)


# -- acting ---------------------------------------------------------------------------------------


def cost(to_do: KnowledgePlan) -> Mapping[str, int]:
    """Return how much of each kind the plan does, for the brake."""
    kinds = {
        UPLOAD: sum(isinstance(action, CreateCollection) for action in to_do.actions),
        DELETE: sum(isinstance(action, DeleteCollection) for action in to_do.actions),
    }
    counted = {kind: count for kind, count in kinds.items() if count}
    return {**counted, RECORD: 1} if counted else {}


async def execute(
    to_do: KnowledgePlan, sight: KnowledgeSight, ctx: Context[Deps], book: Book[KnowledgeState]
) -> bool:
    """Carry out the plan's actions one by one, the base written before and after.

    Returns:
        True when all is done; False when the world is another one now: look and plan again. What
        was done stays done and is found again.

    Raises:
        OutsideError: an action failed; repeating the run is safe.
    """
    if to_do.actions and to_do.before is not None:
        await book.intend(to_do.before)
    for action in to_do.actions:
        if not await _carried_out(action, sight, ctx, book):
            return False
    await book.agree(to_do.after)
    return not to_do.again


async def _carried_out(
    action: Action, sight: KnowledgeSight, ctx: Context[Deps], book: Book[KnowledgeState]
) -> bool:
    match action:
        case CreateCollection():
            await _create(action, sight, ctx, book)
            return False
        case DeleteCollection(collection):
            async with ctx.effect("xai", "delete_collection", target=collection):
                await ctx.deps.knowledge.shelves.delete(collection)
        case NoteKnowledge():
            return await _note(action, sight, ctx)
        case NoteLink():
            await _note_link(action, ctx)
        case CheckDocuments(document_ids):
            await _check(document_ids, ctx)
        case Notify():
            await notify(action, _about(sight), ctx, book.untell)
        case CloseTask():
            await close_task(action, _about(sight), ctx)
    return True


async def _create(
    action: CreateCollection, sight: KnowledgeSight, ctx: Context[Deps], book: Book[KnowledgeState]
) -> None:
    before = book.base
    if before is None or before.pending is None:
        raise AssertionError("a collection without its intent in the base could get a twin")
    try:
        async with ctx.effect("xai", "create_collection", target=sight.knowledge_id):
            collection = await ctx.deps.knowledge.shelves.create(action.name, action.description)
    except OutsideError as error:
        if not error.ambiguous:
            await book.agree(before.model_copy(update={"pending": None}))
        raise
    ctx.logger.info("collection made", collection=collection)
    # The id is ours only once it is written: from here on a crash makes none again.
    known = {"collection": collection, "pending": None}
    await book.intend(before.model_copy(update=known))


async def _note(action: NoteKnowledge, sight: KnowledgeSight, ctx: Context[Deps]) -> bool:
    if sight.knowledge is None:
        raise AssertionError("a write was planned for a knowledge base that is gone")
    fields = {what.value: value or "" for what, value in action.values}
    try:
        async with ctx.effect("espocrm", "update_entity", target=sight.knowledge_id, fields=fields):
            await ctx.deps.knowledge.bases.note(sight.knowledge, action.values)
    except Conflict as conflict:
        if conflict.reason != "modified":
            raise
        return False
    except NotFound:
        return False
    return True


async def _note_link(action: NoteLink, ctx: Context[Deps]) -> None:
    fields = {what.value: value or "" for what, value in action.values if what.value != "hash"}
    target = f"{action.row.id}/{action.row.document_id}"
    try:
        async with ctx.effect("espocrm", "update_link", target=target, fields=fields):
            await ctx.deps.knowledge.bases.note_link(action.row, action.values)
    except NotFound:
        ctx.logger.info("a link went away before it was noted", document=action.row.document_id)


async def _check(document_ids: tuple[str, ...], ctx: Context[Deps]) -> None:
    events = [
        Emit(
            topics.DOCUMENT_SYNC_CHECK,
            EntityChanged(
                entity_type=DOCUMENT, entity_id=one, action="sync_check", source="knowledge"
            ),
        )
        for one in document_ids
    ]
    for start in range(0, len(events), _EVENTS_AT_ONCE):
        await ctx.enqueue_all(events[start : start + _EVENTS_AT_ONCE])


def _about(sight: KnowledgeSight) -> About:
    name = "" if sight.knowledge is None else sight.knowledge.name
    return About(ENTITY, sight.knowledge_id, name)
