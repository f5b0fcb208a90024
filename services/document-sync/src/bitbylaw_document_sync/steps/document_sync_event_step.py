"""Brings one document's xAI file and collections in line with EspoCRM, whatever was told of it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from bitbylaw_common import topics
from bitbylaw_common.errors import Invalid
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.outcomes import Done, Outcome, Rejected, Retry, Skipped, Wait
from bitbylaw_common.runtime.context import Context
from bitbylaw_common.runtime.step import step
from bitbylaw_common.runtime.triggers import queue
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.model import (
    Action,
    Attach,
    DeleteFile,
    Detach,
    Noted,
    Sight,
    Upload,
    WriteBack,
)
from bitbylaw_document_sync.domain.planner import refusal
from bitbylaw_document_sync.executor import Book, Stale, decided, execute, look

_LOOKS_AT_MOST = 3
"""A record that changes this often while it is worked on is looked at again later."""

_UNNEEDED = frozenset({Noted.MESSAGE})


@step(
    name="Document Sync",
    description="Brings one document's xAI file and collections in line with EspoCRM",
    flows=["vmh", "vmh-document"],
    triggers=[queue(topic) for topic in topics.DOCUMENT],
    enqueues=[],
    lock="document",
    coalesce=True,
    needs=["espocrm", "xai"],
    deadline=timedelta(seconds=150),
)
async def document_sync(event: EntityChanged, ctx: Context[Deps]) -> Outcome:
    """Look at both sides, plan, act; look again when the world moved meanwhile."""
    book = Book(ctx)
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
        outcome = await _brought_in_line(sight, ctx, book)
        if not isinstance(outcome, Stale):
            return _burnt(outcome, stale)
        ctx.logger.info("looking again", reason=outcome.reason)
        stale = outcome
    return Retry("the record moved each time it was looked at", error="Moving")


async def _brought_in_line(sight: Sight, ctx: Context[Deps], book: Book) -> Outcome | Stale:
    done: list[Action] = []
    rule, reasons = "", []
    while True:
        to_do, sight = await decided(sight, ctx)
        rule = rule or to_do.rule
        reasons.append(to_do.reason)
        ctx.decided(rule, "; ".join(dict.fromkeys(reasons)))
        try:
            result = await execute(to_do, sight, ctx, book)
        except Invalid as error:
            if error.system != "xai":
                raise
            return await _refused(error, sight, ctx, book)
        if isinstance(result, Stale):
            return result
        done += to_do.actions
        if result is None:
            break
        found = replace(sight.found, files=sight.found.files | {result, *(sight.uploads or ())})
        sight = replace(sight, base=book.base, found=found, uploads=None, sharers=None)
    if to_do.ending is not None:
        return to_do.ending
    return Done(_summary(done)) if done else Skipped(reasons[-1])


async def _refused(error: Invalid, sight: Sight, ctx: Context[Deps], book: Book) -> Outcome:
    """Note in the record that xAI will never take this; the run is rejected all the same."""
    to_do = refusal(
        replace(sight, base=book.base), ctx.deps.policy, status=error.status, words=str(error)
    )
    ctx.decided(to_do.rule, to_do.reason)
    await execute(to_do, sight, ctx, book)
    return to_do.ending or Rejected(str(error), error="Invalid")


def _burnt(outcome: Outcome, stale: Stale | None) -> Outcome:
    """Count a failed attempt where waiting alone would repeat an upload for ever."""
    if isinstance(outcome, Wait) and stale is not None and stale.failure is not None:
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
    }
    counts = {kind: sum(isinstance(action, kind) for action in done) for kind in said}
    return ", ".join(words.format(counts[kind]) for kind, words in said.items() if counts[kind])
