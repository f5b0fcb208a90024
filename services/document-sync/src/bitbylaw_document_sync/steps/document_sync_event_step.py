"""Brings one document's xAI file and collections in line with EspoCRM, whatever was told of it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from bitbylaw_common import topics
from bitbylaw_common.errors import Invalid, OutsideError, Transient
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.outcomes import Done, Outcome, Rejected, Retry, Skipped, Wait
from bitbylaw_common.retry import pause_after
from bitbylaw_common.runtime.context import Context
from bitbylaw_common.runtime.step import step
from bitbylaw_common.runtime.triggers import queue
from bitbylaw_common.sync.brake import DELETE, Errand, Held
from bitbylaw_document_sync.book import Book
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain import spending
from bitbylaw_document_sync.domain.model import (
    Action,
    Attach,
    DeleteFile,
    Detach,
    DocumentBase,
    Found,
    Noted,
    Plan,
    Sight,
    Upload,
    WriteBack,
)
from bitbylaw_document_sync.domain.notices import CloseTask, Notify
from bitbylaw_document_sync.domain.planner import HASH_DIFFERS, UNKNOWN_FATE, gave_up, refusal
from bitbylaw_document_sync.executor import Stale, decided, execute, look, looked_on

_LOOKS_AT_MOST = 3
"""A record that changes this often while it is worked on is looked at again later."""

_PARTS_AT_MOST = 20
"""The longest plan has a handful of parts; one without an end would be a mistake of the planner's."""

_UNNEEDED = frozenset({Noted.MESSAGE})


@step(
    name="Document Sync",
    description="Brings one document's xAI file and collections in line with EspoCRM",
    flows=["vmh", "vmh-document"],
    triggers=[queue(topic) for topic in topics.DOCUMENT],
    enqueues=[topics.CONFLICTS],
    lock="document",
    coalesce=True,
    needs=["espocrm", "xai"],
    deadline=timedelta(seconds=150),
)
async def document_sync(event: EntityChanged, ctx: Context[Deps]) -> Outcome:
    """Bring the document in line; where the last attempt failed, tell a person of it."""
    last = pause_after(ctx.attempt) is None
    try:
        outcome = await _synced(event, ctx)
    except Transient as error:
        if last:
            await _tell_that_it_gave_up(event.entity_id, ctx, error)
        raise
    if last and isinstance(outcome, Retry):
        await _tell_that_it_gave_up(event.entity_id, ctx, None)
    return outcome


async def _synced(event: EntityChanged, ctx: Context[Deps]) -> Outcome:
    """Look at both sides, plan, act; look again when the world moved meanwhile."""
    book = Book(ctx, DocumentBase)
    errand = ctx.deps.brake.errand(event.entity_id, ctx.extent())
    stale: Stale | None = None
    for number in range(_LOOKS_AT_MOST):
        sight = await look(event.entity_id, ctx, book)
        if number == 0:
            unchanged = ctx.saw(ctx.deps.policy.digester.of(*sight.told()))
            if unchanged is not None:
                return unchanged
            _tell(sight, ctx)
        if stale is not None and stale.facts is not None:
            sight = replace(sight, file=stale.facts)
        outcome = await _brought_in_line(sight, ctx, book, errand)
        if not isinstance(outcome, Stale):
            return _burnt(outcome, stale)
        ctx.logger.info("looking again", reason=outcome.reason)
        stale = outcome
    return Retry("the record moved each time it was looked at", error="Moving")


async def _brought_in_line(
    sight: Sight, ctx: Context[Deps], book: Book[DocumentBase], errand: Errand
) -> Outcome | Stale:
    done: list[Action] = []
    rule, reasons = "", []
    for _ in range(_PARTS_AT_MOST):
        wanted, sight = await decided(sight, ctx)
        rule = rule or wanted.rule
        reasons.append(wanted.reason)
        to_do, held = _within_budget(wanted, sight, ctx, errand)
        if held is not None:
            reasons.append("held back by the brake")
        ctx.decided(rule, "; ".join(dict.fromkeys(reasons)))
        if wanted.rule == HASH_DIFFERS:
            ctx.logger.warning("xAI reports the hash of other bytes than it was sent")
        try:
            result = await execute(to_do, sight, ctx, book)
        except Invalid as error:
            if error.system != "xai":
                raise
            return await _refused(error, to_do, sight, ctx, book)
        if isinstance(result, Stale):
            return result
        errand.did(spending.done(to_do))
        done += to_do.actions
        if held is not None or (result is None and not to_do.more):
            break
        sight = await _seen_since(result, to_do, sight, ctx, book)
    else:
        raise AssertionError(f"the plan for a document has no end: {rule}")
    if held is not None:
        return held.wait()
    return to_do.ending or (Done(_summary(done)) if done else Skipped(reasons[-1]))


async def _seen_since(
    uploaded: str | None, done: Plan, sight: Sight, ctx: Context[Deps], book: Book[DocumentBase]
) -> Sight:
    """Return the sight after a part of the work, for the plan of the rest."""
    if uploaded is None:
        return await looked_on(sight, done, ctx, book)
    found = replace(sight.found, files=sight.found.files | {uploaded, *(sight.uploads or ())})
    return replace(sight, base=book.base, found=found, uploads=None, sharers=None)


def _within_budget(
    to_do: Plan, sight: Sight, ctx: Context[Deps], errand: Errand
) -> tuple[Plan, Held | None]:
    """Return what of the plan may be done now, and what is held back of it.

    Deleting comes last and can wait alone. Of the rest all is done or nothing: half of it would
    leave the document where nobody wants it.
    """
    key_id = ctx.deps.policy.digester.key_id
    held = errand.ask(spending.cost(to_do, sight, key_id))
    if held is None:
        return to_do, None
    if held.kinds.keys() == {DELETE}:
        kept = spending.without_deletes(to_do)
        if errand.ask(spending.cost(kept, sight, key_id)) is None:
            return kept, held
    return replace(to_do, actions=(), clashes=(), after=sight.base), held


async def _refused(
    error: Invalid, refused: Plan, sight: Sight, ctx: Context[Deps], book: Book[DocumentBase]
) -> Outcome:
    """Note in the record that xAI will never take this; the run is rejected all the same."""
    contents = [one.intent.content for one in refused.actions if isinstance(one, Upload)]
    to_do = refusal(
        replace(sight, base=book.base),
        ctx.deps.policy,
        status=error.status,
        words=str(error),
        content=next(iter(contents), None),
    )
    ctx.decided(to_do.rule, to_do.reason)
    await execute(to_do, sight, ctx, book)
    return to_do.ending or Rejected(str(error), error="Invalid")


async def _tell_that_it_gave_up(
    document_id: str, ctx: Context[Deps], failure: Transient | None
) -> None:
    """Note it in the record and tell its user; if that fails too, the dead letter still says it."""
    book = Book(ctx, DocumentBase)
    try:
        entry = await ctx.deps.documents.load(document_id)  # xAI may be what does not answer
        sight = Sight(document_id, entry, book.base, Found(), ctx.now(), ctx.run_id)
        to_do = gave_up(sight, ctx.deps.policy, attempts=ctx.attempt)
        await execute(to_do, sight, ctx, book)
    except OutsideError as error:
        ctx.logger.warning(
            "nobody could be told that a document was given up",
            reason=str(error),
            failure="" if failure is None else str(failure),
        )


def _burnt(outcome: Outcome, stale: Stale | None) -> Outcome:
    """Count a failed attempt where waiting alone would repeat an upload for ever."""
    unknown = isinstance(outcome, Wait) and outcome.reason == UNKNOWN_FATE
    if isinstance(outcome, Wait) and unknown and stale is not None and stale.failure is not None:
        failure = stale.failure
        return Retry(str(failure), error=type(failure).__name__, not_before=outcome.after)
    return outcome


def _tell(sight: Sight, ctx: Context[Deps]) -> None:
    """Warn of what the CRM lacks, once, and of words nobody knows."""
    if sight.entry is None:
        return
    for name in sight.entry.strange:
        ctx.logger.warning("a status field holds a word that nobody knows", field=name)
    missing = frozenset(Noted) - sight.entry.writable - _UNNEEDED - ctx.deps.warned
    for what in sorted(missing):
        ctx.logger.warning("the CRM has no field for this, it is left out", noted=str(what))
    ctx.deps.warned.update(missing)


def _summary(done: Sequence[Action]) -> str:
    said = {
        Upload: "{} uploaded",
        Attach: "{} attached",
        Detach: "{} detached",
        WriteBack: "EspoCRM told",
        DeleteFile: "{} deleted",
        Notify: "a person told",
        CloseTask: "a task completed",
    }
    counts = {kind: sum(isinstance(action, kind) for action in done) for kind in said}
    return ", ".join(words.format(counts[kind]) for kind, words in said.items() if counts[kind])
