"""What document-sync needs of the outside, in its own words, and the one value that holds it."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from bitbylaw_common.circuits import Circuits
from bitbylaw_common.registrations import Registration, Wanted
from bitbylaw_common.sync.brake import Brake
from bitbylaw_document_sync.domain.comparison import Held, Listed, Shelf, Survey
from bitbylaw_document_sync.domain.coverage import Known
from bitbylaw_document_sync.domain.knowledge import (
    Column,
    Knowledge,
    KnowledgePolicy,
    LinkColumn,
    Linked,
    LinkRow,
)
from bitbylaw_document_sync.domain.knowledge import Member as ShelfMember
from bitbylaw_document_sync.domain.model import (
    Absent,
    Entry,
    FileFacts,
    Member,
    Noted,
    Sharer,
    Uploaded,
    WriteBack,
)
from bitbylaw_document_sync.domain.notices import About
from bitbylaw_document_sync.domain.planner import Policy

_CLAIMS_KEPT = 10_000
_FACTS_KEPT = 20_000


class Documents(Protocol):
    """The documents of the CRM. Every method may raise an `OutsideError` of "espocrm"."""

    async def load(self, document_id: str) -> Entry | None:
        """Return the record with the collections that want it; None when it is gone.

        Raises:
            Invalid: the record or its links cannot be read as the settings say; nothing may be
                concluded from what is missing.
        """
        ...

    async def inspect(self, attachment_id: str, *, hashed: bool) -> FileFacts | Absent:
        """Return what is known about an attachment; with `hashed` read all its bytes for it."""
        ...

    def content(self, attachment_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open the attachment's bytes, streamed.

        Raises:
            NotFound: EspoCRM does not have it.
        """
        ...

    async def sharers(self, file_ids: Iterable[str], *, besides: str) -> tuple[Sharer, ...]:
        """Return the records other than `besides` that note one of these xAI files."""
        ...

    async def write_back(self, entry: Entry, back: WriteBack) -> None:
        """Note these values in the record. May be repeated.

        Raises:
            Conflict: the record is not as `entry` says any more; load and plan again.
            NotFound: it is gone.
        """
        ...


class Files(Protocol):
    """The files at xAI. Every method may raise an `OutsideError` of "xai"."""

    async def exists(self, file_id: str) -> bool:
        """Say whether there is such a file."""
        ...

    async def upload(
        self, content: AsyncIterable[bytes], *, name: str, mime: str, size: int
    ) -> str:
        """Upload and return the new file's id. Twice makes two files.

        Raises:
            OutsideError: where `ambiguous`, the file may be there. What `content` raises comes
                through, and nothing is stored then.
        """
        ...

    def uploaded_since(self, since: datetime) -> AsyncIterator[Uploaded]:
        """Yield the files uploaded since then, the newest first."""
        ...

    async def md5(self, file_id: str) -> str:
        """Return the MD5 of the file's bytes, reading all of them.

        Raises:
            NotFound: it is gone.
        """
        ...

    async def delete(self, file_id: str) -> None:
        """Delete the file; one that is gone counts as done."""
        ...


class Collections(Protocol):
    """The collections at xAI. Every method may raise an `OutsideError` of "xai"."""

    async def exists(self, collection: str) -> bool:
        """Say whether there is such a collection."""
        ...

    async def member(self, collection: str, file_id: str) -> Member | None:
        """Return the file as the collection's; None where it is not attached."""
        ...

    async def attach(self, collection: str, file_id: str) -> None:
        """Attach; attached already counts as done.

        Raises:
            NotFound: the file or the collection is gone.
        """
        ...

    async def detach(self, collection: str, file_id: str) -> None:
        """Detach; not attached, or a collection that is gone, counts as done."""
        ...


class Registers(Protocol):
    """The CRM's documents and their links as whole lists. May raise an `OutsideError` of "espocrm".

    A list that ends without an error is complete: what is not in it was not there all the time.
    """

    async def shelves(self) -> tuple[Shelf, ...]:
        """Return everything that documents may be linked to and that stands for a collection.

        Raises:
            Invalid: the CRM has no such link.
        """
        ...

    def on_shelf(self, shelf: Shelf) -> AsyncIterator[str]:
        """Yield the documents that are linked to the shelf, each once.

        Raises:
            NotFound: the shelf is gone.
        """
        ...

    def listed(self, since: datetime | None) -> AsyncIterator[Listed]:
        """Yield the documents that were changed since then, by the CRM's clock; None: all."""
        ...

    def some(self, document_ids: Iterable[str]) -> AsyncIterator[Listed]:
        """Yield those of these documents that there are."""
        ...


class Holdings(Protocol):
    """What xAI holds as whole lists, as complete as `Registers`. May raise an `OutsideError`."""

    def members(self, collection: str) -> AsyncIterator[Held]:
        """Yield the files in a collection, each once.

        Raises:
            NotFound: there is no such collection.
        """
        ...

    def files(self) -> AsyncIterator[Held]:
        """Yield every file, each once."""
        ...


@dataclass(slots=True)
class Reading:
    """A survey under way: long work does a part, then goes on where it was.

    It lives in this process only; after a restart the survey begins anew.

    Attributes:
        run_id: the run that it is for.
        known: what waits and what was given up, when it began.
        parts: reads on; each step of it is a part.
    """

    run_id: str
    survey: Survey
    known: Mapping[str, Known]
    parts: AsyncGenerator[None, None]


@dataclass(frozen=True, slots=True)
class Lists:
    """What comparing needs beside the records themselves.

    Attributes:
        orphans: what becomes of files that no record knows: "list" them only, "detach" them from
            the collections of knowledge bases, or "delete" them as well.
        settle: how long a file must have been an orphan before it is removed.
        readings: the surveys under way, by cron.
        facts: of attachments, which never change; only the latest 20,000 are kept.
    """

    registers: Registers
    holdings: Holdings
    orphans: Literal["list", "detach", "delete"] = "list"
    settle: timedelta = timedelta(hours=20)
    readings: dict[str, Reading] = field(default_factory=dict)
    facts: OrderedDict[str, FileFacts | Absent] = field(default_factory=OrderedDict)

    def remember(self, facts: FileFacts) -> None:
        """Keep what was found out about an attachment."""
        self.facts[facts.attachment_id] = facts
        if len(self.facts) > _FACTS_KEPT:
            self.facts.popitem(last=False)


class Messages(Protocol):
    """What people are told in the CRM. Every method may raise an `OutsideError` of "espocrm"."""

    async def message(self, about: About, user_id: str, subject: str, text: str) -> None:
        """Send a notification; twice sends two.

        Raises:
            Invalid: the CRM will not take it.
        """
        ...

    async def open_task(self, about: About, user_id: str, subject: str, text: str) -> None:
        """Open a task about the record, unless one of this subject is open; may be repeated."""
        ...

    async def complete_task(self, about: About, subject: str) -> None:
        """Complete the open tasks of this subject about the record; may be repeated."""
        ...


class Registrations(Protocol):
    """The webhooks that the CRM has registered."""

    async def registrations(self) -> tuple[Registration, ...]:
        """Return every webhook that we may see.

        Raises:
            Invalid: we may see none.
            OutsideError: of "espocrm".
        """
        ...


class KnowledgeBases(Protocol):
    """The knowledge bases of the CRM. Every method may raise an `OutsideError` of "espocrm"."""

    def all(self) -> AsyncIterator[Knowledge]:
        """Yield every knowledge base, each once.

        Raises:
            NotFound: the CRM has no knowledge bases.
        """
        ...

    async def load(self, knowledge_id: str) -> Knowledge | None:
        """Return the knowledge base; None when it is gone."""
        ...

    async def sharers(self, collections: Iterable[str], *, besides: str) -> frozenset[str]:
        """Return those of the collections that another knowledge base in use stands for."""
        ...

    async def linked(self, knowledge_id: str) -> Linked | None:
        """Return its documents, and the rows of the link where the CRM serves them; None: gone."""
        ...

    async def serves_links(self) -> bool:
        """Say whether the CRM serves the rows of the link as records of their own."""
        ...

    async def note(
        self, knowledge: Knowledge, values: tuple[tuple[Column, str | None], ...]
    ) -> None:
        """Note these values in the knowledge base. May be repeated.

        Raises:
            Conflict: it is not as `knowledge` says any more; load and plan again.
            NotFound: it is gone.
        """
        ...

    async def note_link(
        self, row: LinkRow, values: tuple[tuple[LinkColumn, str | None], ...]
    ) -> None:
        """Note these values in a row of the link. May be repeated.

        Raises:
            NotFound: the row is gone.
        """
        ...


class Shelves(Protocol):
    """The collections at xAI as such. Every method may raise an `OutsideError` of "xai"."""

    async def marked(self, mark: str) -> tuple[str, ...]:
        """Return the ids of the collections whose description has the mark, the oldest first."""
        ...

    async def create(self, name: str, description: str) -> str:
        """Make a collection and return its id. Twice makes two.

        Raises:
            OutsideError: where `ambiguous`, it may be there.
        """
        ...

    async def delete(self, collection: str) -> None:
        """Delete it with all its memberships; gone counts as done. The files stay."""
        ...

    async def members(self, collection: str) -> Mapping[str, ShelfMember] | None:
        """Return the files in the collection by id; None when there is no such collection."""
        ...


@dataclass(frozen=True, slots=True)
class KnowledgeDeps:
    """What the knowledge bases need.

    Attributes:
        enabled: they are managed here; else whoever made them by hand does it.
        warned: what the CRM does not have and was told about already.
    """

    bases: KnowledgeBases
    shelves: Shelves
    policy: KnowledgePolicy
    enabled: bool = False
    warned: set[str] = field(default_factory=set)


class Claims:
    """Which document of this process has which xAI file, until EspoCRM can tell it.

    Two documents with the same name and bytes are told apart by it while one of them looks for
    the file of an upload without an answer. Only the latest 10,000 are kept.
    """

    def __init__(self) -> None:
        self._owners: OrderedDict[str, str] = OrderedDict()

    def take(self, file_id: str, document_id: str) -> None:
        """Note that the file is this document's."""
        self._owners[file_id] = document_id
        self._owners.move_to_end(file_id)
        if len(self._owners) > _CLAIMS_KEPT:
            self._owners.popitem(last=False)

    def taken_from(self, document_id: str, file_id: str) -> bool:
        """Say whether another document has the file."""
        return self._owners.get(file_id, document_id) != document_id


@dataclass(frozen=True, slots=True)
class Deps:
    """What the steps of document-sync reach.

    Attributes:
        circuits: of the systems that the steps need; the runtime starts none that they hold back.
        lists: for the steps that compare both sides in bulk.
        brake: holds back what would change too much.
        messages: how people are told.
        webhooks: what the CRM posts to us.
        wanted_webhooks: what it should.
        knowledge: for the life of collections.
        warned: what the CRM has no field for and was told about already.
    """

    documents: Documents
    files: Files
    collections: Collections
    policy: Policy
    circuits: Circuits
    lists: Lists
    brake: Brake
    messages: Messages
    webhooks: Registrations
    wanted_webhooks: Wanted
    knowledge: KnowledgeDeps
    claims: Claims = field(default_factory=Claims)
    warned: set[Noted] = field(default_factory=set)
