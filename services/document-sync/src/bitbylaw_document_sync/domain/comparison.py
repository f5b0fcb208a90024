"""Compares both sides in bulk: what is in line, what is off, what belongs to nobody (pure).

Whole lists stand in for the questions that a single run asks, and the same planner judges: what it
would do nothing about is in line. So nothing can be in line here and off there. What a survey says
is a reason to look, never to act: its lists are read one after another, and a record may have
changed between two of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from bitbylaw_common.outcomes import Rejected
from bitbylaw_document_sync.domain.model import (
    Absent,
    AskCollections,
    AskFile,
    AskSharers,
    AskUploads,
    DocumentBase,
    Entry,
    FileFacts,
    Found,
    Indexing,
    Member,
    Plan,
    Question,
    Sharer,
    Sight,
    Uploaded,
)
from bitbylaw_document_sync.domain.naming import trace
from bitbylaw_document_sync.domain.planner import Policy, plan, resembles

_QUESTIONS_AT_MOST = 8


class Standing(StrEnum):
    """How a record stands.

    PENDING: a run would do something about it; CONFLICT: only a person can; DUPLICATE: in line,
    and its file is noted by another record as well; EXCLUDED: there is nothing to bring to xAI.
    """

    IN_SYNC = "in_sync"
    PENDING = "pending"
    CONFLICT = "conflict"
    DUPLICATE = "duplicate"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class Shelf:
    """What documents are linked to, and what stands for a collection: a knowledge base.

    Attributes:
        id: the record in the CRM.
        entity, link: its entity type, and its list of documents; empty where the CRM's metadata
            does not name the list, so that it cannot be read from this side.
        collection: xAI's id.
        state: of a shelf "on hold" nothing is added to or taken from.
    """

    id: str
    entity: str
    link: str
    collection: str
    state: Literal["active", "on hold", "off"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A document as the CRM lists it, its links unknown; `modified_at` in the CRM's own time."""

    entry: Entry
    modified_at: datetime | None


@dataclass(frozen=True, slots=True)
class Held:
    """A file as xAI lists it.

    Attributes:
        name: personal; only compared.
        size: bytes; None where the list does not tell, as `created_at`.
        indexing, hash, error: of a file in a collection, as of `Member`.
    """

    file_id: str
    name: str = ""
    size: int | None = None
    created_at: datetime | None = None
    indexing: Indexing = Indexing.READY
    hash: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """How one record stands, and why.

    Attributes:
        rule, reason: of the plan that a run would make, in the journal's words.
        seen: digest of what was seen; another one says that something changed since.
        modified_at: as the CRM says; None where the record is gone or was not listed.
    """

    document_id: str
    standing: Standing
    rule: str
    reason: str
    seen: str = ""
    modified_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file at xAI that no record knows, or one that lies where no record has it.

    Attributes:
        file_id: the file.
        collection: where it lies; empty: the file itself, in no collection that is known.
        twin_of: a document whose file has the same name and size, so this is likely an upload that
            was made twice.
        owned: a record knows the file; only its place is strange.
        created_at: when it was uploaded, as far as xAI tells.
    """

    file_id: str
    collection: str
    owned: bool = False
    twin_of: str | None = None
    created_at: datetime | None = None

    @property
    def key(self) -> str:
        """Names it: `{collection}/{file}`."""
        return f"{self.collection}/{self.file_id}"


@dataclass(slots=True)
class Survey:
    """Both sides, as far as they were read.

    Attributes:
        now: when reading began.
        bases: what was agreed on, by document; of records that may be gone as well.
        wanted, on_hold: collections by document, from the lists of all shelves.
        members: the files of each collection that was read; None: xAI has no such collection.
        files: all files at xAI; None: they were not listed, and a file that a base names counts as
            there.
        noted: who notes a file in the CRM, by file; complete only where `all_noted`.
        facts: what was found out about attachments, which never change.
        blind: collections whose list of documents could not be read: nothing can be said about
            the documents that they may want.
        findings: of the records that are not in line, by document.
        counts: how many records stand how.
        newest: the latest change that was listed, in the CRM's time.
    """

    now: datetime
    bases: Mapping[str, DocumentBase] = field(default_factory=dict)
    wanted: dict[str, set[str]] = field(default_factory=dict)
    on_hold: dict[str, set[str]] = field(default_factory=dict)
    members: dict[str, dict[str, Held] | None] = field(default_factory=dict)
    files: dict[str, Held] | None = None
    noted: dict[str, list[Sharer]] = field(default_factory=dict)
    all_noted: bool = False
    facts: dict[str, FileFacts | Absent] = field(default_factory=dict)
    blind: dict[str, str] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    counts: dict[Standing, int] = field(default_factory=lambda: dict.fromkeys(Standing, 0))
    newest: datetime | None = None

    def put(self, shelf: Shelf, documents: Iterable[str]) -> None:
        """Note what is linked to a shelf."""
        if shelf.state == "off":
            return
        places = self.wanted if shelf.state == "active" else self.on_hold
        for document in documents:
            places.setdefault(document, set()).add(shelf.collection)

    def linked(self, entry: Entry) -> Entry:
        """Return the entry with the collections that its links want."""
        wanted = frozenset(self.wanted.get(entry.id, ()))
        held = frozenset(self.on_hold.get(entry.id, ())) - wanted
        return replace(entry, wanted=wanted, on_hold=held)

    def places(self, entry: Entry | None, base: DocumentBase | None) -> frozenset[str]:
        """Return the collections that a run for this record looks into."""
        ours = frozenset(base.collections) if base is not None else frozenset()
        theirs = entry.wanted | entry.on_hold | entry.collections if entry is not None else ours
        return ours | theirs

    def found(self, entry: Entry | None, base: DocumentBase | None) -> Found:
        """Return what a run for this record would find at xAI."""
        files = set(_files(entry, base))
        members = [
            Member(file, place, held.indexing, held.hash, held.error)
            for place in sorted(self.places(entry, base))
            for file in sorted(files)
            if (held := (self.members.get(place) or {}).get(file)) is not None
        ]
        there = files
        if self.files is not None:
            # A collection may go on to list a file that was deleted.
            there = {file for file in files if file in self.files}
        return Found(frozenset(there)).with_members(members)

    def note(self, entry: Entry) -> None:
        """Take down which file a record notes."""
        if entry.xai_id is not None:
            sharer = Sharer(entry.id, entry.xai_id, entry.collections)
            self.noted.setdefault(entry.xai_id, []).append(sharer)

    def knowing(self, others: Iterable[Sharer]) -> "Survey":
        """Return the same survey, in which it is known who notes the files that were asked about."""
        noted: dict[str, list[Sharer]] = {}
        for other in others:
            noted.setdefault(other.file_id, []).append(other)
        return replace(self, noted=noted, all_noted=True)

    def shared(self, in_line: Iterable[str]) -> None:
        """Tell those of the records in line whose file another record notes as well."""
        candidates = set(in_line)
        for file, notes in self.noted.items():
            for note in notes if len(notes) > 1 else ():
                if note.document_id in candidates:
                    self.counts[Standing.IN_SYNC] -= 1
                    others = ", ".join(
                        sorted(n.document_id for n in notes if n.document_id != note.document_id)
                    )
                    reason = f"its file {file} is noted by {others} as well"
                    self.add(Finding(note.document_id, Standing.DUPLICATE, "shared file", reason))

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it where the record is not in line."""
        self.counts[finding.standing] += 1
        if finding.standing not in (Standing.IN_SYNC, Standing.EXCLUDED):
            self.findings[finding.document_id] = finding


@dataclass(frozen=True, slots=True)
class Lacking:
    """What must be read before a record can be judged.

    Attributes:
        collections: whose members are not known.
        attachment: of which nothing is known.
        files: of which it is not known who notes them.
    """

    collections: frozenset[str] = frozenset()
    attachment: str = ""
    files: tuple[str, ...] = ()


def suspects(survey: Survey) -> Iterator[str]:
    """Yield the documents that the lists alone show to be off, or that they cannot judge.

    Whoever is not among them lies exactly where its links want it, and nothing of it is left to be
    cleared away; whether its bytes are still the same only its record tells.
    """
    for document in survey.bases.keys() | survey.wanted.keys():
        base = survey.bases.get(document)
        wanted = survey.wanted.get(document, set())
        held = survey.on_hold.get(document, set())
        ours = () if base is None else base.collections
        if survey.blind and not survey.blind.keys().isdisjoint((*ours, *wanted, *held)):
            continue  # nothing could be said of it
        if base is None or not _lies_right(survey, base, wanted, held):
            yield document


def _lies_right(survey: Survey, base: DocumentBase, wanted: set[str], held: set[str]) -> bool:
    """Say whether a document's file lies where it is wanted, searchable, and nothing is left to do."""
    if base.pending is not None or not all(retired.lent for retired in base.retired):
        return False
    if base.file_id is None:
        return not wanted
    here = {
        place: member
        for place in {*base.collections, *wanted, *held}
        if (member := (survey.members.get(place) or {}).get(base.file_id)) is not None
    }
    ready = all(member.indexing is Indexing.READY for member in here.values())
    return ready and wanted <= here.keys() <= wanted | held


def judged(
    survey: Survey, document_id: str, listed: Listed | None, policy: Policy
) -> Finding | Lacking | None:
    """Say how a record stands, or what must be read first.

    Args:
        listed: its record; None: the CRM has none.

    Returns:
        None where nothing can be said: a list of links could not be read that may name it.
    """
    base = survey.bases.get(document_id)
    entry = survey.linked(listed.entry) if listed is not None else None
    unread = survey.places(entry, base) - survey.members.keys()
    if unread:
        return Lacking(collections=unread)
    if entry is not None and survey.places(entry, base) & survey.blind.keys():
        return None
    found = survey.found(entry, base)
    sight = Sight(document_id, entry, base, found, survey.now)
    seen = policy.digester.of(*sight.told())[:16]
    modified_at = listed.modified_at if listed is not None else None

    def finding(standing: Standing, rule: str, reason: str) -> Finding:
        return Finding(document_id, standing, rule, reason, seen, modified_at)

    for _ in range(_QUESTIONS_AT_MOST):
        answer = plan(sight, policy)
        if isinstance(answer, Plan):
            return finding(_standing(answer, sight), answer.rule, answer.reason)
        known = _answered(answer, sight, survey)
        if isinstance(known, Lacking):
            return known
        if isinstance(known, str):
            return finding(Standing.PENDING, known, "only a look at the record itself can tell")
        sight = known
    raise AssertionError(f"the planner asks without end about {document_id}")


def _answered(question: Question, sight: Sight, survey: Survey) -> Sight | Lacking | str:
    """Return the sight with the answer, what must be read for it, or why lists cannot answer."""
    match question:
        case AskCollections(collections):
            there = [c for c in collections if survey.members.get(c) is not None]
            return replace(sight, existing=frozenset(there))
        case AskFile(attachment_id, hashed=False):
            if attachment_id not in survey.facts:
                return Lacking(attachment=attachment_id)
            return replace(sight, file=survey.facts[attachment_id])
        case AskSharers(file_ids):
            if not survey.all_noted:
                return Lacking(files=file_ids)
            others = sharers(survey, file_ids, besides=sight.document_id)
            return replace(sight, sharers=others)
        case AskFile():
            return "its bytes were never compared"
        case AskUploads():
            return "an upload began and has no end"


def sharers(survey: Survey, file_ids: Iterable[str], *, besides: str) -> tuple[Sharer, ...]:
    """Return the other records that note one of these files."""
    return tuple(
        sharer
        for file in file_ids
        for sharer in survey.noted.get(file, ())
        if sharer.document_id != besides
    )


def _standing(made: Plan, sight: Sight) -> Standing:
    if made.actions:
        return Standing.PENDING
    if isinstance(made.ending, Rejected):
        return Standing.CONFLICT
    if made.ending is not None or not _written(made.after, sight.base):
        return Standing.PENDING
    entry = sight.entry
    if entry is None:
        return Standing.EXCLUDED  # gone, and what it left is another record's now
    lies_there = any(place in entry.wanted for _, place in sight.found.attached)
    return Standing.IN_SYNC if lies_there else Standing.EXCLUDED


def _written(after: DocumentBase | None, base: DocumentBase | None) -> bool:
    """Say whether the base that a run would leave is there already."""
    return base is None if after is None else after.says_the_same_as(base)


def _files(entry: Entry | None, base: DocumentBase | None) -> Iterator[str]:
    if base is not None:
        yield from (retired.file_id for retired in base.retired)
        if base.file_id is not None:
            yield base.file_id
    if entry is not None and entry.xai_id is not None:
        yield entry.xai_id


# -- what belongs to nobody -------------------------------------------------------------------------


def orphans(survey: Survey, policy: Policy, *, settle: timedelta) -> tuple[Orphan, ...]:
    """Return the files and places at xAI that no record answers for, sorted.

    Only a survey with all files and all notes can tell. A file that is younger than `settle`, or
    whose age nobody knows, or that an upload under way may have become, is none.
    """
    if survey.files is None or not survey.all_noted:
        raise AssertionError("orphans are told from complete lists only")
    owners = _owners(survey)
    young = survey.now - settle
    pending = [base.pending for base in survey.bases.values() if base.pending is not None]
    twins = _by_look(survey)

    def settled(held: Held) -> bool:
        if held.created_at is None or held.created_at > young:
            return False
        if held.size is None:
            return not pending
        looks = Uploaded(held.file_id, held.name, held.size)
        return not any(resembles(looks, intent, policy.digester) for intent in pending)

    found: list[Orphan] = []
    placed: set[str] = set()
    for collection, members in survey.members.items():
        for file_id, member in (members or {}).items():
            placed.add(file_id)
            held = survey.files.get(file_id, member)
            strayed = collection not in owners.get(file_id, frozenset())
            if strayed and collection not in survey.blind and settled(held):
                found.append(_orphan(held, collection, owners, twins))
    for file_id, held in survey.files.items():
        if file_id not in owners and file_id not in placed and settled(held):
            found.append(_orphan(held, "", owners, twins))
    return tuple(sorted(found, key=lambda orphan: orphan.key))


def _orphan(
    held: Held,
    collection: str,
    owners: Mapping[str, frozenset[str]],
    twins: Mapping[tuple[str, int | None], str],
) -> Orphan:
    owned = held.file_id in owners
    twin = None if owned else twins.get((trace(held.name), held.size))
    return Orphan(held.file_id, collection, owned, twin, held.created_at)


def _owners(survey: Survey) -> dict[str, frozenset[str]]:
    """Return each file that a record or a base names, with the places where it may lie."""
    owners: dict[str, frozenset[str]] = {}
    for document, base in survey.bases.items():
        wanted = survey.wanted.get(document, set()) | survey.on_hold.get(document, set())
        for file in _files(None, base):
            owners[file] = owners.get(file, frozenset()) | {*base.collections, *wanted}
    for file, notes in survey.noted.items():
        for note in notes:
            wanted = survey.wanted.get(note.document_id, set())
            held = survey.on_hold.get(note.document_id, set())
            owners[file] = owners.get(file, frozenset()) | note.collections | wanted | held
    return owners


def _by_look(survey: Survey) -> dict[tuple[str, int | None], str]:
    """Return a document for each name and size that an owned file has."""
    documents = {
        file: document for document, base in survey.bases.items() for file in _files(None, base)
    } | {file: notes[0].document_id for file, notes in survey.noted.items()}
    return {
        (trace(held.name), held.size): documents[file]
        for file, held in (survey.files or {}).items()
        if file in documents
    }
