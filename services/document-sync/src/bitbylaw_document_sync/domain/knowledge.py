"""Decides about a knowledge base and the collection it stands for; every decision names its rule (pure).

    new           the collection is made once, its id noted, the knowledge base switched to active
    active        each linked document is looked at by the document sync; once all are searchable or
                  cannot be, the knowledge base says so
    paused        nothing, whatever else is the case
    deactivated   the collection is deleted, the id and the rows of the link are forgotten; the files
                  follow the policy for unlinked documents, because the document sync is told

A collection's name is not unique and making one cannot be repeated safely. So its description
carries a mark with the knowledge base's id: before one is made it is looked for by that mark, and
after an answer that got lost it is not made again before the settle time has passed.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bitbylaw_common.outcomes import Wait
from bitbylaw_common.sync.base import BaseState
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.model import Entry, Word
from bitbylaw_document_sync.domain.notices import (
    CloseTask,
    Kind,
    Notify,
    Told,
    Trouble,
    telling,
)

_NAME_CHARACTERS = 100
SETTLED = ("synced", "unsupported")
"""States of a link after which a knowledge base has nothing to wait for."""

Stage = Literal["new", "active", "paused", "deactivated"]
Progress = Literal["unclean", "indexing", "synced", "failed", "unsupported"]
"""How far a document is in a collection; "unclean" is to be looked at."""

ASK_AGAIN = timedelta(hours=1)
"""Documents that do not come into line are not asked for again before."""


class Column(StrEnum):
    """What we write into the knowledge base. The adapter knows how the CRM calls each."""

    COLLECTION = "collection"
    STAGE = "stage"
    STATUS = "status"
    LAST_SYNC = "last_sync"


class LinkColumn(StrEnum):
    """What we write into a row of the link between a knowledge base and a document."""

    FILE = "file"
    STATE = "state"
    HASH = "hash"
    LAST_SYNC = "last_sync"


# -- what both sides say --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What EspoCRM says about one knowledge base.

    Attributes:
        name: as people see it.
        stage: None where it says something that nobody knows: then nothing is done.
        collection: xAI's collection, as noted; None: none yet.
        status: what its sync status says, folded; "" for nothing.
        assigned_to: the user it is assigned to.
        version: EspoCRM's count of saves, where the entity has one.
    """

    id: str
    name: str = ""
    stage: Stage | None = None
    collection: str | None = None
    status: str = ""
    assigned_to: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A row of the link, where the CRM serves them."""

    id: str
    document_id: str
    file_id: str | None = None
    state: str = ""
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class Linked:
    """The documents of a knowledge base.

    Attributes:
        documents: as the document sync reads them, but for their links.
        rows: by document; empty where the CRM does not serve them.
    """

    documents: tuple[Entry, ...]
    rows: Mapping[str, LinkRow]


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the collection, and how far xAI is with it."""

    file_id: str
    status: Literal["processing", "processed", "failed"]


# -- the base -------------------------------------------------------------------------------------


class CreateIntent(BaseModel):
    """A collection that was about to be made; whether it was, the next run finds out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    since: datetime
    run_id: str = ""


class KnowledgeState(BaseState):
    """What EspoCRM and xAI agreed on last about one knowledge base.

    Attributes:
        collection: its collection; None: it has none.
        pending: a collection of unknown fate.
        asked: digest of the ids of the documents that were asked for last, and when.
        told: the troubles that a person was told about and that last.
    """

    collection: str | None = None
    pending: CreateIntent | None = None
    asked: str | None = None
    asked_at: datetime | None = None
    told: tuple[Told, ...] = ()


# -- what to do -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateCollection:
    """Make a collection with the mark in its description."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class DeleteCollection:
    """Delete it; its files stay in Files. Gone counts as done."""

    collection: str


@dataclass(frozen=True, slots=True)
class NoteKnowledge:
    """Note these values in the knowledge base; refused when a person changed it meanwhile."""

    values: tuple[tuple[Column, str | None], ...]


@dataclass(frozen=True, slots=True)
class NoteLink:
    """Note these values in a row of the link. May be repeated."""

    row: LinkRow
    values: tuple[tuple[LinkColumn, str | None], ...]


@dataclass(frozen=True, slots=True)
class CheckDocuments:
    """Let the document sync look at these documents."""

    document_ids: tuple[str, ...]


Action = (
    CreateCollection
    | DeleteCollection
    | NoteKnowledge
    | NoteLink
    | CheckDocuments
    | Notify
    | CloseTask
)


@dataclass(frozen=True, slots=True)
class KnowledgePlan:
    """What to do about a knowledge base, why, and what holds before and after.

    Attributes:
        before: the base to write before the first action.
        actions: in order; a creation stands alone, because its id makes a new sight.
        after: the base once all is done; None: forget the knowledge base.
        ending: how the run ends where it is neither done nor skipped.
        again: look again: what was just noted makes a new sight.
    """

    rule: str
    reason: str
    before: KnowledgeState | None = None
    actions: tuple[Action, ...] = ()
    after: KnowledgeState | None = None
    ending: Wait | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class AskExists:
    """Find out whether xAI has the collection."""

    collection: str


@dataclass(frozen=True, slots=True)
class AskMarked:
    """Find the collections that carry the mark, the oldest first."""

    mark: str


@dataclass(frozen=True, slots=True)
class AskSharers:
    """Find other knowledge bases that stand for one of these collections."""

    collections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskContent:
    """Read the linked documents, and with a collection the files in it."""

    collection: str | None


Question = AskExists | AskMarked | AskSharers | AskContent


@dataclass(frozen=True, slots=True)
class KnowledgeSight:
    """All that a plan is made from. What is None was not asked yet.

    Attributes:
        knowledge: None: the record is gone.
        now: the host's clock, UTC.
        existing: which of the collections asked about exist.
        marked: collections with the mark, the oldest first.
        shared: those collections that another knowledge base in use stands for as well.
        linked: the documents.
        members: the files in the collection, by id.
    """

    knowledge_id: str
    knowledge: Knowledge | None
    base: KnowledgeState | None
    now: datetime
    run_id: str = ""
    existing: Mapping[str, bool] | None = None
    marked: tuple[str, ...] | None = None
    shared: frozenset[str] | None = None
    linked: Linked | None = None
    members: Mapping[str, Member] | None = None


@dataclass(frozen=True, slots=True)
class KnowledgePolicy:
    """What the firm decided.

    Attributes:
        key_id: of the digests, which every base carries.
        settle: how long a collection that was asked for may stay unseen.
        notify: the user who is told about a knowledge base that is assigned to nobody.
    """

    key_id: str
    settle: timedelta
    notify: str | None = None


# -- deciding -------------------------------------------------------------------------------------


def mark_of(knowledge_id: str) -> str:
    """Return the words in a collection's description by which it is found again."""
    return f"EspoCRM CAIKnowledge {knowledge_id}"


def collection_name(knowledge: Knowledge) -> str:
    """Return what its collection is called at xAI: its name on one line, for people to recognise."""
    name = " ".join(knowledge.name.split())[:_NAME_CHARACTERS].strip()
    return name or knowledge.id


def plan(sight: KnowledgeSight, policy: KnowledgePolicy) -> KnowledgePlan | Question:
    """Return what to do about the knowledge base, or what must be known first.

    The same sight gives the same plan, and a world in which the plan was carried out gives an
    empty one.
    """
    knowledge = sight.knowledge
    if knowledge is None:
        reason = "the record is gone; its collection stays, because a deletion may be taken back"
        return _nothing("gone", reason, sight)
    match knowledge.stage:
        case "new":
            return _new(knowledge, sight, policy)
        case "active":
            return _active(knowledge, sight, policy)
        case "deactivated":
            return _deactivated(knowledge, sight, policy)
        case "paused":
            return _nothing("paused", "it is paused", sight)
        case None:
            return _nothing("unknown", "its activation says something that nobody knows", sight)


def _nothing(rule: str, reason: str, sight: KnowledgeSight) -> KnowledgePlan:
    return KnowledgePlan(rule, reason, sight.base, (), sight.base)


def _base(sight: KnowledgeSight, policy: KnowledgePolicy) -> KnowledgeState:
    base = sight.base
    if base is None:
        return KnowledgeState(key_id=policy.key_id, written_at=sight.now)
    return base.model_copy(update={"key_id": policy.key_id})


# new -----------------------------------------------------------------------------------------------


def _new(
    knowledge: Knowledge, sight: KnowledgeSight, policy: KnowledgePolicy
) -> KnowledgePlan | Question:
    base = _base(sight, policy)
    for known in dict.fromkeys([knowledge.collection, base.collection]):
        if known is None:
            continue
        if known != base.collection and sight.shared is None:
            return AskSharers((known,))
        if known in (sight.shared or ()):
            continue  # EspoCRM's "duplicate" copies the id as well
        if sight.existing is None or known not in sight.existing:
            return AskExists(known)
        if sight.existing[known]:
            return _adopted(knowledge, known, sight, policy)
    if sight.marked is None:
        return AskMarked(mark_of(knowledge.id))
    if sight.marked:
        return _adopted(knowledge, sight.marked[0], sight, policy)
    waiting = _waiting(base, sight, policy)
    if waiting is not None:
        return waiting
    before = base.model_copy(
        update={
            "collection": None,
            "pending": CreateIntent(since=sight.now, run_id=sight.run_id),
        }
    )
    create = CreateCollection(collection_name(knowledge), mark_of(knowledge.id))
    return KnowledgePlan("new: make", "it has no collection yet", before, (create,), before)


def _waiting(
    base: KnowledgeState, sight: KnowledgeSight, policy: KnowledgePolicy
) -> KnowledgePlan | None:
    if base.pending is None:
        return None
    rest = base.pending.since + policy.settle - sight.now
    if rest <= timedelta():
        return None
    return KnowledgePlan(
        "collection's fate unknown",
        "a collection was asked for and no answer came; another one could be a twin",
        base,
        (),
        base,
        Wait("a collection's fate is unknown", rest),
    )


def _adopted(
    knowledge: Knowledge, collection: str, sight: KnowledgeSight, policy: KnowledgePolicy
) -> KnowledgePlan:
    base = _base(sight, policy)
    after = base.model_copy(update={"collection": collection, "pending": None})
    values: list[tuple[Column, str | None]] = []
    if knowledge.collection != collection:
        values.append((Column.COLLECTION, collection))
    values.append((Column.STAGE, "active"))
    if knowledge.status != "unclean":
        values.append((Column.STATUS, "unclean"))
    return KnowledgePlan(
        "new: active",
        "its collection is there",
        after,
        (NoteKnowledge(tuple(values)),),
        after,
        again=True,
    )


# active --------------------------------------------------------------------------------------------


def _active(
    knowledge: Knowledge, sight: KnowledgeSight, policy: KnowledgePolicy
) -> KnowledgePlan | Question:
    collection = knowledge.collection
    if collection is None:  # somebody switched it to active by hand, or emptied the field
        return _new(knowledge, sight, policy)
    if sight.existing is None or collection not in sight.existing:
        return AskExists(collection)
    base = _base(sight, policy).model_copy(update={"collection": collection, "pending": None})
    if not sight.existing[collection]:
        return _collection_missing(knowledge, collection, base, sight, policy)
    if sight.linked is None or sight.members is None:
        return AskContent(collection)
    states = {
        document.id: _state(document, collection, sight.members)
        for document in sight.linked.documents
    }
    before = base
    base, check = _asked((one for one, state in states.items() if state == "unclean"), base, sight)
    done = sum(state in SETTLED for state in states.values())
    status = "synced" if done == len(states) else "unclean"
    noting = _status(knowledge, status, sight.now)
    reason = f"{done} of {len(states)} documents are in line"
    made = KnowledgePlan(
        f"active: {status}",
        reason,
        before,
        (*_links(sight.linked, states, sight.now), *check, *noting),
        base,
        # A document linked in between would be taken for synced.
        again=status == "synced" and bool(noting),
    )
    return _told(made, knowledge, (), sight, policy)


def _asked(
    document_ids: Iterable[str], base: KnowledgeState, sight: KnowledgeSight
) -> tuple[KnowledgeState, tuple[CheckDocuments, ...]]:
    """Return whom to ask for, unless these very documents were asked for a while ago."""
    ids = tuple(sorted(document_ids))
    if not ids:
        return base.model_copy(update={"asked": None, "asked_at": None}), ()
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32]
    lately = base.asked_at is not None and sight.now < base.asked_at + ASK_AGAIN
    if base.asked == digest and lately:
        return base, ()
    asked = base.model_copy(update={"asked": digest, "asked_at": sight.now})
    return asked, (CheckDocuments(ids),)


def _state(document: Entry, collection: str, members: Mapping[str, Member]) -> Progress:
    """Return how far a document is in the collection; "unclean" where it is to be looked at."""
    if document.fresh:
        return "unclean"
    member = members.get(document.xai_id or "")
    unhashed = document.md5 is None and document.sha256 is None
    current = unhashed or document.synced_as(document.md5)
    if member is not None and current and collection in document.collections:
        return _PROGRESS[member.status]
    match document.says:
        case Word.UNSUPPORTED:
            return "unsupported"
        case Word.FAILED:
            return "failed"
        case _:
            return "unclean"


_PROGRESS: Mapping[str, Progress] = {
    "processed": "synced",
    "failed": "failed",
    "processing": "indexing",
}


def _links(linked: Linked, states: Mapping[str, Progress], now: datetime) -> Iterator[NoteLink]:
    for document in linked.documents:
        row = linked.rows.get(document.id)
        if row is not None and (values := _differing(row, document, states[document.id], now)):
            yield NoteLink(row, values)


def _differing(
    row: LinkRow, document: Entry, state: Progress, now: datetime
) -> tuple[tuple[LinkColumn, str | None], ...]:
    if state in ("unclean", "indexing"):
        waits = row.state in ("new", "unclean")
        return () if waits else ((LinkColumn.STATE, "unclean"),)
    wanted: dict[LinkColumn, str | None] = {LinkColumn.STATE: state}
    if state == "synced":
        wanted |= {LinkColumn.FILE: document.xai_id, LinkColumn.HASH: document.synced_hash}
    now_says = {
        LinkColumn.STATE: row.state,
        LinkColumn.FILE: row.file_id,
        LinkColumn.HASH: row.hash,
    }
    differing = tuple((what, value) for what, value in wanted.items() if now_says[what] != value)
    last = ((LinkColumn.LAST_SYNC, stamp(now)),) if state == "synced" and differing else ()
    return (*differing, *last)


def _status(knowledge: Knowledge, status: str, now: datetime) -> list[Action]:
    """Return the write of the status where it says something else; "pending_sync" may stay."""
    if knowledge.status == status or (status == "unclean" and knowledge.status == "pending_sync"):
        return []
    values: list[tuple[Column, str | None]] = [(Column.STATUS, status)]
    if status == "synced":
        values.append((Column.LAST_SYNC, stamp(now)))
    return [NoteKnowledge(tuple(values))]


def _collection_missing(
    knowledge: Knowledge,
    collection: str,
    base: KnowledgeState,
    sight: KnowledgeSight,
    policy: KnowledgePolicy,
) -> KnowledgePlan:
    trouble = Trouble(Kind.COLLECTION_MISSING, texts.own_collection_missing(collection))
    noting = () if knowledge.status == "failed" else (NoteKnowledge(((Column.STATUS, "failed"),)),)
    reason = "xAI has no such collection; a person decides whether it is to be made anew"
    missing = KnowledgePlan("active: collection gone", reason, base, noting, base)
    return _told(missing, knowledge, (trouble,), sight, policy)


# deactivated ---------------------------------------------------------------------------------------


def _deactivated(
    knowledge: Knowledge, sight: KnowledgeSight, policy: KnowledgePolicy
) -> KnowledgePlan | Question:
    base = _base(sight, policy)
    if knowledge.collection is None and sight.base is None and knowledge.status == "synced":
        return _nothing("deactivated", "its collection is gone", sight)
    if sight.marked is None:
        return AskMarked(mark_of(knowledge.id))
    noted = [known for known in (knowledge.collection, base.collection) if known is not None]
    candidates = tuple(sorted({*noted, *sight.marked}))
    if not candidates and (waiting := _waiting(base, sight, policy)):
        return waiting
    if candidates and sight.shared is None:
        return AskSharers(candidates)
    if sight.linked is None:
        return AskContent(None)
    shared = sight.shared or frozenset()
    actions: tuple[Action, ...] = (
        *(DeleteCollection(one) for one in candidates if one not in shared),
        *_forgotten(knowledge, sight.linked, sight.now),
    )
    reason = "another knowledge base uses its collection" if shared else "its collection goes"
    return _told(
        KnowledgePlan("deactivated", reason, base, actions, None), knowledge, (), sight, policy
    )


def _forgotten(knowledge: Knowledge, linked: Linked, now: datetime) -> Iterator[Action]:
    """Yield what makes EspoCRM forget the collection; the id of it last, so that a crash goes on."""
    for _, row in sorted(linked.rows.items()):
        reset = _reset(row)
        if reset:
            yield NoteLink(row, reset)
    if linked.documents:
        yield CheckDocuments(tuple(sorted(document.id for document in linked.documents)))
    values: list[tuple[Column, str | None]] = []
    if knowledge.status != "synced":
        values += [(Column.STATUS, "synced"), (Column.LAST_SYNC, stamp(now))]
    if knowledge.collection is not None:
        values.append((Column.COLLECTION, None))
    if values:
        yield NoteKnowledge(tuple(values))


def _reset(row: LinkRow) -> tuple[tuple[LinkColumn, str | None], ...]:
    values: list[tuple[LinkColumn, str | None]] = []
    if row.state != "new":
        values.append((LinkColumn.STATE, "new"))
    if row.file_id is not None:
        values.append((LinkColumn.FILE, None))
    if row.hash is not None:
        values.append((LinkColumn.HASH, None))
    return tuple(values)


# telling -------------------------------------------------------------------------------------------


def _told(
    made: KnowledgePlan,
    knowledge: Knowledge,
    troubles: tuple[Trouble, ...],
    sight: KnowledgeSight,
    policy: KnowledgePolicy,
) -> KnowledgePlan:
    """Return the plan with what it tells; its troubles are tasks, which nothing is written ahead of."""
    told = () if sight.base is None else sight.base.told
    news = telling(troubles, told, knowledge.assigned_to or policy.notify, sight.now)
    return replace(
        made,
        actions=(*news.notify, *made.actions, *news.close),
        after=None if made.after is None else made.after.model_copy(update={"told": news.after}),
    )


def stamp(at: datetime) -> str:
    """Return an instant as EspoCRM writes it: UTC, whole seconds, no zone."""
    return at.strftime("%Y-%m-%d %H:%M:%S")


# -- which are to be looked at ----------------------------------------------------------------------


def due(knowledge: Knowledge, *, everything: bool) -> bool:
    """Say whether a knowledge base is to be looked at.

    Args:
        knowledge: as a list shows it.
        everything: the nightly look, at all that is not at rest for good.
    """
    match knowledge.stage:
        case "new":
            return True
        case "active":
            return everything or knowledge.status != "synced"
        case "deactivated":
            return knowledge.collection is not None or knowledge.status != "synced"
        case _:
            return False
