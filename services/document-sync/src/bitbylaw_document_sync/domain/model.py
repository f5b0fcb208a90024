"""What is known about one document: EspoCRM's word, xAI's word, the base, and what to do (pure)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bitbylaw_common.outcomes import Rejected, Wait
from bitbylaw_common.sync.base import BaseState
from bitbylaw_document_sync.domain.notices import CloseTask, Notify, Told, Trouble

# -- what EspoCRM says ----------------------------------------------------------------------------


class Word(StrEnum):
    """What a status field can tell people about a document once we have looked at it."""

    SYNCED = "synced"
    INDEXING = "indexing"
    UNWANTED = "unwanted"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


FRESH = "fresh"
"""A status that asks for a sync, in whatever words."""


class Noted(StrEnum):
    """What we write into the record. The adapter knows how the CRM calls each."""

    FILE = "file"
    COLLECTIONS = "collections"
    HASH = "hash"
    STATUS = "status"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Entry:
    """What EspoCRM says about one document.

    Attributes:
        id: the record.
        attachment_id: the file it carries; None: it carries none. An attachment never changes,
            another file is another attachment.
        name: as people see it.
        md5, sha256: of the file, as the CRM computed them; lower case; None where it did not.
        fresh: a status field says "new" or "changed", in whatever spelling.
        says: what its status says, where that is one of our words.
        words: the words that writing would not change: said already, or unknown to the CRM.
        xai_id, collections, synced_hash: what the last sync left in the record.
        message: the error message it shows now.
        version: EspoCRM's count of saves, where the entity has one: the precondition of a write.
        wanted: ids of the active collections that it is linked to.
        on_hold: collections it is linked to whose knowledge base is paused or not ready: nothing
            is added to them or taken from them.
        writable: what the CRM has a field for; the rest is left out.
        strange: names of status fields that hold a word nobody knows.
        status_fields: names of the status fields that there are, the chief one first.
        status_said: what the chief one says, as it is spelt there.
        assigned_to: the user it is assigned to, who is told what a person must do about it.
    """

    id: str
    attachment_id: str | None
    name: str = ""
    md5: str | None = None
    sha256: str | None = None
    fresh: bool = False
    says: Word | None = None
    words: frozenset[Word] = frozenset()
    xai_id: str | None = None
    collections: frozenset[str] = frozenset()
    synced_hash: str | None = None
    message: str | None = None
    version: int | None = None
    wanted: frozenset[str] = frozenset()
    on_hold: frozenset[str] = frozenset()
    writable: frozenset[Noted] = frozenset(Noted)
    strange: tuple[str, ...] = ()
    status_fields: tuple[str, ...] = ()
    status_said: str = ""
    assigned_to: str | None = None

    def value_of(self, what: Noted) -> str:
        """Return what the record shows in one of our fields, as text; "fresh" for a new status."""
        match what:
            case Noted.FILE:
                return self.xai_id or ""
            case Noted.COLLECTIONS:
                return ",".join(sorted(self.collections))
            case Noted.HASH:
                return self.synced_hash or ""
            case Noted.MESSAGE:
                return self.message or ""
            case Noted.STATUS:
                return FRESH if self.fresh else self.says or self.status_said

    def synced_as(self, md5: str | None) -> bool:
        """Say whether the record notes exactly these bytes as synced."""
        known = {known for known in (md5, self.sha256) if known}
        return self.synced_hash in known


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known about an attachment itself.

    Attributes:
        attachment_id: which.
        name: as it will be called at xAI.
        mime, size: as EspoCRM stored it; `size` in bytes, None where it does not say.
        md5: of the bytes, computed by us; None: not read.
    """

    attachment_id: str
    name: str
    mime: str
    size: int | None
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """The record names an attachment that EspoCRM does not have."""

    attachment_id: str


@dataclass(frozen=True, slots=True)
class Sharer:
    """Another record that notes the same xAI file, as EspoCRM's "duplicate" makes them."""

    document_id: str
    file_id: str
    collections: frozenset[str]


# -- what xAI says --------------------------------------------------------------------------------


class Indexing(StrEnum):
    """How far xAI is with making a file searchable in a collection."""

    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in one collection.

    Attributes:
        hash: of the bytes, as xAI reports it; empty where it does not.
        error: why indexing failed, in xAI's words. May be personal.
    """

    file_id: str
    collection: str
    state: Indexing = Indexing.READY
    hash: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What xAI holds of the files and collections that were asked about.

    Attributes:
        files: ids of the files that exist.
        attached: pairs of file and collection.
        members: what is known beyond that; a pair without is searchable.
    """

    files: frozenset[str] = frozenset()
    attached: frozenset[tuple[str, str]] = frozenset()
    members: tuple[Member, ...] = ()

    def with_members(self, members: Iterable[Member]) -> "Found":
        """Return the same with these, in place of what was known of their pairs."""
        new = {(one.file_id, one.collection): one for one in members}
        kept = [one for one in self.members if (one.file_id, one.collection) not in new]
        return Found(self.files, self.attached | new.keys(), (*kept, *new.values()))

    def indexing(self, file_id: str, state: Indexing) -> frozenset[str]:
        """Return the collections in which the file is that far; RUNNING or FAILED."""
        return frozenset(
            one.collection for one in self.members if one.file_id == file_id and one.state is state
        )

    def error_of(self, file_id: str) -> str:
        """Return why indexing the file failed, in xAI's words; empty where it does not say."""
        return next((m.error for m in self.members if m.file_id == file_id and m.error), "")

    def hash_of(self, file_id: str) -> str:
        """Return the hash that xAI reports of the file; empty where it does not."""
        return next((m.hash for m in self.members if m.file_id == file_id and m.hash), "")

    def collections_of(self, file_id: str) -> frozenset[str]:
        """Return the collections that hold the file."""
        return frozenset(collection for file, collection in self.attached if file == file_id)


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file as xAI's list shows it."""

    file_id: str
    name: str
    size: int


# -- what both agreed on --------------------------------------------------------------------------


class UploadIntent(BaseModel):
    """An upload that was about to happen; whether it did, the next run finds out.

    Attributes:
        since: when, by our clock.
        attachment_id: which file.
        name, content: keyed digests of the file name's `naming.trace` and of the bytes' MD5.
        recorded: keyed digest of the MD5 that the record named, which may be wrong.
        size: bytes.
        run_id: the run that meant to.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    since: datetime
    attachment_id: str
    name: str
    content: str
    recorded: str | None = None
    size: int
    run_id: str = ""


class Retired(BaseModel):
    """A file that is not this document's any more, but not cleared away yet.

    Attributes:
        lent: it was left for another record that notes it, too. That one may vanish before it takes
            the file over, so whoever looks at this document looks whether it is still needed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    file_id: str
    ours: bool
    lent: bool = False


class Obstacle(BaseModel):
    """What xAI could not do with a file; kept so that it is not tried for ever.

    Attributes:
        kind: it "refused" the bytes, its "indexing" failed, or the "hash" it reports is not theirs.
        content: keyed digest of the bytes' MD5; with other bytes it is out of the way.
        tries: how often it happened.
        since: when it happened last, by our clock.
        status: the HTTP status of a refusal.
        file_id: the file whose hash was wrong first.
        told: the record says so.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["refused", "indexing", "hash"]
    content: str | None
    tries: int = 1
    since: datetime
    status: int | None = None
    file_id: str | None = None
    told: bool = False


class Noting(BaseModel):
    """A write-back that was about to happen; whether it did, the next run finds out.

    Attributes:
        version: EspoCRM's count of saves before it, where the entity has one.
        target: keyed digests of what was to be noted, by field.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int | None = None
    target: dict[Noted, str]


class DocumentBase(BaseState):
    """What EspoCRM and xAI agreed on last about one document.

    Attributes:
        file_id: its file at xAI; None: it has none.
        ours: we uploaded that file, so we may delete it.
        attachment_id: the file's origin in EspoCRM.
        content: keyed digest of the bytes' MD5; None: never known.
        recorded: keyed digest of the MD5 that the record named then.
        size: bytes; None where never known.
        collections: every collection that may hold the file; written before it is put there.
        retired: earlier files that are still to be cleared away.
        pending: an upload of unknown fate.
        hashes: keyed digests of what xAI may report as the hash of its file; empty: not known.
        indexing: since when the file is on its way to be searchable where it is wanted.
        obstacle: what xAI could not do with the file.
        noted: keyed digests of what the record showed in our fields when both sides agreed last.
        noting: a write-back of unknown fate.
        told: the troubles that a person was told about and that last.
    """

    file_id: str | None = None
    ours: bool = False
    attachment_id: str | None = None
    content: str | None = None
    recorded: str | None = None
    size: int | None = None
    collections: tuple[str, ...] = ()
    retired: tuple[Retired, ...] = ()
    pending: UploadIntent | None = None
    hashes: tuple[str, ...] = ()
    indexing: datetime | None = None
    obstacle: Obstacle | None = None
    noted: dict[Noted, str] = Field(default_factory=dict)
    noting: Noting | None = None
    told: tuple[Told, ...] = ()

    def with_file(
        self, file_id: str, intent: UploadIntent, hashes: tuple[str, ...] = ()
    ) -> "DocumentBase":
        """Return the base after the intended upload became `file_id`; the file before retires."""
        again = self.obstacle is not None and self.obstacle.kind == "hash"
        return self.retiring(file_id).model_copy(
            update={
                "hashes": hashes,
                "indexing": intent.since,
                "obstacle": self.obstacle if again else None,
                "ours": True,
                "attachment_id": intent.attachment_id,
                "content": intent.content,
                "recorded": intent.recorded,
                "size": intent.size,
                "pending": None,
            }
        )

    def retiring(self, successor: str | None) -> "DocumentBase":
        """Return the base with another file, or none; the file before is to be cleared away."""
        retired = self.retired
        if self.file_id is not None:
            retired = (*retired, Retired(file_id=self.file_id, ours=self.ours))
        unknown = {
            "attachment_id": None,
            "content": None,
            "recorded": None,
            "size": None,
            "hashes": (),
            "indexing": None,
        }
        return self.model_copy(
            update={"file_id": successor, "ours": False, "retired": retired, **unknown}
        )


# -- what to do -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upload:
    """Put the attachment's bytes to xAI as a new file. They must have this MD5 and size."""

    attachment_id: str
    name: str
    mime: str
    size: int
    md5: str
    intent: UploadIntent


@dataclass(frozen=True, slots=True)
class Attach:
    """Put the file into the collection. Attached already counts as done."""

    file_id: str
    collection: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Take the file out of the collection. Not there counts as done."""

    file_id: str
    collection: str


@dataclass(frozen=True, slots=True)
class WriteBack:
    """Note in the record what differs, and only that; refused when the record changed.

    A value is a text, None to empty the field, ids for the collections, a `Word` for the status.
    """

    values: tuple[tuple[Noted, str | tuple[str, ...] | Word | None], ...]


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """Delete a file that we uploaded and that nothing uses. Not there counts as done."""

    file_id: str


Action = Upload | Attach | Detach | WriteBack | DeleteFile | Notify | CloseTask


@dataclass(frozen=True, slots=True)
class Clash:
    """A value in one of our fields that somebody else wrote, and that is about to be overwritten.

    Personal: never log it.
    """

    what: Noted
    ours: str
    theirs: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about a document, why, and what holds before and after.

    Attributes:
        rule: the short name of the rule that decided, for the journal.
        reason: the same in words.
        before: the base to write before the first action: everything the actions may touch.
        actions: in order. An upload stands alone: once its id is known, the rest is planned anew.
        after: the base once all actions are done; after an upload, without the new file's id.
            None: forget the record.
        ending: how the run ends where it is neither done nor skipped.
        more: the actions show something new: once they are done, the rest is planned anew.
        clashes: what the write-back overwrites that is not ours; to be told before.
        troubles: what a person should know about the record as it is now.
    """

    rule: str
    reason: str
    before: DocumentBase | None = None
    actions: tuple[Action, ...] = ()
    after: DocumentBase | None = None
    ending: Wait | Rejected | None = None
    more: bool = False
    clashes: tuple[Clash, ...] = ()
    troubles: tuple[Trouble, ...] = ()


# -- what must be known first ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskFile:
    """Look at the attachment; with `hashed` read its bytes as well."""

    attachment_id: str
    hashed: bool


@dataclass(frozen=True, slots=True)
class AskUploads:
    """Find the file that an upload of unknown fate left at xAI, `besides` the known ones."""

    intent: UploadIntent
    besides: frozenset[str]


@dataclass(frozen=True, slots=True)
class AskSharers:
    """Find other records that note one of these files."""

    file_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskCollections:
    """Find out which of these collections exist at xAI."""

    collections: tuple[str, ...]


Question = AskFile | AskUploads | AskSharers | AskCollections


@dataclass(frozen=True, slots=True)
class Sight:
    """All that a plan is made from. What is None was not asked yet.

    Attributes:
        entry: None: the record is gone.
        now: the host's clock, UTC.
        run_id: names the run in an upload's intent.
        file: what is known about the attachment.
        uploads: ids of files that the pending upload may have become, best first.
        sharers: other records with the same files.
        existing: the collections that exist, of those asked about.
        asked: an operator asked for this run: what was refused before is tried once more.
    """

    document_id: str
    entry: Entry | None
    base: DocumentBase | None
    found: Found
    now: datetime
    run_id: str = ""
    file: FileFacts | Absent | None = None
    uploads: tuple[str, ...] | None = None
    sharers: tuple[Sharer, ...] | None = None
    existing: frozenset[str] | None = None
    asked: bool = False

    def told(self) -> tuple[str, ...]:
        """Return what both sides said, in a fixed order, to make a digest of."""
        entry = self.entry
        ours = (
            ()
            if entry is None
            else (
                entry.attachment_id or "",
                entry.name,
                entry.md5 or "",
                entry.synced_hash or "",
                entry.xai_id or "",
                str(entry.fresh),
                *_marked("word", entry.words),
                *_marked("noted", entry.collections),
                *_marked("wanted", entry.wanted),
                *_marked("held", entry.on_hold),
            )
        )
        # A person who sets the status back shows what the failed attempt saw, and means more.
        obstacle = self.base.obstacle if self.base is not None else None
        known = () if obstacle is None else (f"{obstacle.kind} {obstacle.tries}",)
        return (
            "gone" if entry is None else "there",
            *ours,
            *known,
            *_marked("file", self.found.files),
            *_marked("attached", (f"{file} {place}" for file, place in self.found.attached)),
            *_marked(
                "indexing",
                (
                    f"{one.file_id} {one.collection} {one.state}"
                    for one in self.found.members
                    if one.state is not Indexing.READY
                ),
            ),
        )


def _marked(mark: str, values: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{mark} {value}" for value in sorted(values))
