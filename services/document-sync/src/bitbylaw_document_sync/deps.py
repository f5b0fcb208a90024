"""What document-sync needs of the outside, in its own words, and the one value that holds it."""

from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from bitbylaw_common.circuits import Circuits
from bitbylaw_document_sync.domain.model import (
    Absent,
    Entry,
    FileFacts,
    Noted,
    Sharer,
    Uploaded,
    WriteBack,
)
from bitbylaw_document_sync.domain.planner import Policy

_CLAIMS_KEPT = 10_000


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

    async def holds(self, collection: str, file_id: str) -> bool:
        """Say whether the file is attached to the collection."""
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
        warned: what the CRM has no field for and was told about already.
    """

    documents: Documents
    files: Files
    collections: Collections
    policy: Policy
    circuits: Circuits
    claims: Claims = field(default_factory=Claims)
    warned: set[Noted] = field(default_factory=set)
