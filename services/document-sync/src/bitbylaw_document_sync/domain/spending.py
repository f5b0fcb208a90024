"""What a plan costs of the brake's budgets, and what of it can do without (pure)."""

from dataclasses import replace

from bitbylaw_common.sync.brake import DELETE, DETACH, OVERWRITE, RECORD, UPLOAD, counted
from bitbylaw_document_sync.domain.model import (
    Attach,
    DeleteFile,
    Detach,
    Entry,
    Noted,
    Plan,
    Retired,
    Sight,
    Upload,
    WriteBack,
)

_CHANGES = (Upload, Attach, Detach, WriteBack, DeleteFile)
_VALUES = (Noted.FILE, Noted.COLLECTIONS, Noted.HASH)


def cost(plan: Plan, sight: Sight, key_id: str) -> dict[str, int]:
    """Return how much of each kind the plan does, for the brake.

    An upload counts with the detaches that must follow it: half of a replacement is no good. A
    base that says nothing any more, because key or normaliser changed, counts as overwritten: it is
    a mistake of ours that would touch every record.

    Args:
        key_id: of the digests made now.
    """
    lost = sight.base is not None and not sight.base.comparable(key_id)
    changes = any(isinstance(action, _CHANGES) for action in plan.actions)
    kinds: list[tuple[str, int]] = [(RECORD, int(changes)), (OVERWRITE, int(lost and changes))]
    for action in plan.actions:
        match action:
            case Upload():
                kinds += [(UPLOAD, 1), (DETACH, len(sight.found.attached))]
            case Detach():
                kinds.append((DETACH, 1))
            case DeleteFile():
                kinds.append((DELETE, 1))
            case WriteBack() if sight.entry is not None:
                kinds.append((OVERWRITE, overwritten(action, sight.entry)))
            case _:
                pass
    return {kind: count for kind, count in counted(kinds).items() if count}


def done(plan: Plan) -> dict[str, int]:
    """Return how much of each kind has happened once the plan is carried out."""
    kinds = {Upload: UPLOAD, Detach: DETACH, DeleteFile: DELETE}
    return counted((kinds[type(one)], 1) for one in plan.actions if type(one) in kinds)


def overwritten(back: WriteBack, entry: Entry) -> int:
    """Return how many values of ours are replaced by others; what was empty is not overwritten."""
    return sum(what in _VALUES and entry.value_of(what) != "" for what, _ in back.values)


def without_deletes(plan: Plan) -> Plan:
    """Return the plan that keeps the files it would delete, to be deleted another time."""
    kept = tuple(
        Retired(file_id=action.file_id, ours=True)
        for action in plan.actions
        if isinstance(action, DeleteFile)
    )
    after = plan.after if plan.after is not None else plan.before
    if not kept or after is None:
        return plan
    ids = {one.file_id for one in kept}
    others = tuple(one for one in after.retired if one.file_id not in ids)
    update: dict[str, object] = {"retired": (*others, *kept)}
    if after.file_id in ids or plan.after is None:
        update |= {"file_id": None, "ours": False, "content": None}
    if plan.after is None:
        update["collections"] = ()
    actions = tuple(one for one in plan.actions if not isinstance(one, DeleteFile))
    return replace(plan, actions=actions, after=after.model_copy(update=update))
