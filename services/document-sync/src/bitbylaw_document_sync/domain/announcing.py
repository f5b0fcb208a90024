"""Adds to a document's plan whom it tells what, once, and which tasks are over (pure)."""

from collections.abc import Iterator
from dataclasses import replace

from bitbylaw_common.outcomes import Wait
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.model import (
    Action,
    DocumentBase,
    Entry,
    Noted,
    Plan,
    Sight,
    Upload,
    WriteBack,
)
from bitbylaw_document_sync.domain.notices import Kind, Trouble, telling

_FIELDS = {Noted.FILE: "xaiId", Noted.COLLECTIONS: "xaiCollections"}
"""What a person could mean by an edit; of the others nobody knows what they should be."""


def announced(
    plan: Plan, sight: Sight, *, to: str | None, key_id: str, conclusive: bool | None = None
) -> Plan:
    """Return the plan with what it tells people; the same plan where there is nothing to tell.

    A message goes out before the record is written, so that an edit of a person that the plan
    overwrites is told first. A plan that only waits, or that goes on after an upload, ends nothing.

    Args:
        plan: made from `sight`.
        sight: both sides and the base.
        to: who is told about a record that is assigned to nobody.
        key_id: of the digests of a base that is made only for this.
        conclusive: `plan.troubles` are all there are; by default unless the plan waits or uploads.
    """
    entry, base = sight.entry, sight.base
    told = () if base is None else base.told
    if conclusive is None:
        uploads = any(isinstance(action, Upload) for action in plan.actions)
        conclusive = not uploads and not plan.more and not isinstance(plan.ending, Wait)
    troubles = (*plan.troubles, *_conflicts(plan))
    whom = None if entry is None else entry.assigned_to or to
    news = telling(troubles, told, whom, sight.now, conclusive=conclusive)
    if not news.notify and not news.close and news.after == told:
        return plan
    before = plan.before or base or _only_for_this(entry, sight, key_id)
    after = plan.after or (None if entry is None else before)
    return replace(
        plan,
        before=before.model_copy(update={"told": news.before}),
        actions=tuple(_with(plan.actions, news.notify, news.close)),
        after=None if after is None else after.model_copy(update={"told": news.after}),
    )


def _with(
    actions: tuple[Action, ...], notify: tuple[Action, ...], close: tuple[Action, ...]
) -> Iterator[Action]:
    first = next(
        (at for at, one in enumerate(actions) if isinstance(one, WriteBack | Upload)), len(actions)
    )
    yield from (*actions[:first], *notify, *actions[first:], *close)


def _conflicts(plan: Plan) -> tuple[Trouble, ...]:
    """Return the trouble of what a person wrote into our fields and the plan overwrites."""
    edits = [
        (_FIELDS[clash.what], clash.theirs, clash.ours)
        for clash in plan.clashes
        if clash.what in _FIELDS
    ]
    return (Trouble(Kind.CONFLICT, texts.overwritten(edits)),) if edits else ()


def _only_for_this(entry: Entry | None, sight: Sight, key_id: str) -> DocumentBase:
    """Return a base that knows no more than the record tells."""
    return DocumentBase(
        key_id=key_id,
        written_at=sight.now,
        file_id=None if entry is None else entry.xai_id,
        collections=() if entry is None else tuple(sorted(entry.collections)),
    )
