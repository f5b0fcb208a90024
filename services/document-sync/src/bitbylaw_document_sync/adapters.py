"""The ports of document-sync, done with the clients; nothing past here is untyped."""

import hashlib
import unicodedata
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from bitbylaw_common.clients.espocrm import EspoCRM
from bitbylaw_common.errors import Conflict, Invalid, NotFound
from bitbylaw_document_sync.domain.comparison import Held, Listed, Shelf
from bitbylaw_document_sync.domain.model import (
    Absent,
    Entry,
    FileFacts,
    Indexing,
    Member,
    Noted,
    Sharer,
    Uploaded,
    Word,
    WriteBack,
)
from bitbylaw_document_sync.settings import CollectionLink
from bitbylaw_document_sync.xai import IndexStatus, Xai, safe_filename

ENTITY = "CDokumente"

FILE, COLLECTIONS, HASH, MESSAGE = "xaiId", "xaiCollections", "xaiSyncedHash", "syncErrorMessage"
_STATUS_FIELDS = ("fileStatus", "dateiStatus", "xaiSyncStatus")
"""What the status was called over the years; the configured name comes before them."""

_FRESH = frozenset({"neu", "new", "geändert", "geaendert", "changed", "unclean"})
_SAID: Mapping[Word, tuple[str, ...]] = {
    Word.SYNCED: ("synced", "clean"),
    Word.INDEXING: ("indexing", "indexierung", "in_progress", "pending_sync"),
    Word.UNWANTED: ("unchanged", "unverändert", "no_sync", "synced", "clean"),
    Word.UNSUPPORTED: ("unsupported", "failed"),
    Word.FAILED: ("failed",),
}
"""Our words as CRMs spell them, the best first; the first one that a field offers is written."""

_ONLY_WHERE_OFFERED = frozenset({Word.INDEXING})
"""Said to people in passing: a CRM that has no word for it hears the next one."""

_INDEXING: Mapping[IndexStatus, Indexing] = {
    "processing": Indexing.RUNNING,
    "processed": Indexing.READY,
    "failed": Indexing.FAILED,
}

_STAMP = "%Y-%m-%d %H:%M:%S"
_ASKED_TOGETHER = 50
"""So many ids fit into one address, whatever stands between us and the CRM."""

_ACTIVE = "active"
_ON_HOLD = frozenset({"", "new", "paused"})


@dataclass(frozen=True, slots=True)
class Names:
    """What this CRM calls the fields that differ from one CRM to another."""

    file_link: str
    status_field: str
    collection_links: tuple[CollectionLink, ...]


@dataclass(frozen=True, slots=True)
class _Field:
    """One field as the CRM's metadata has it; `options` None: any text fits, or it is unknown."""

    options: tuple[str, ...] | None


class EspoDocuments:
    """The documents in EspoCRM."""

    def __init__(self, client: EspoCRM, names: Names) -> None:
        self._client = client
        self._names = names

    async def load(self, document_id: str) -> Entry | None:
        """Return the record with the collections that want it; None when it is gone.

        Raises:
            Invalid: it cannot be read as the settings say.
        """
        try:
            record = await self._client.get_entity(ENTITY, document_id)
        except NotFound:
            return None
        entry = (await self._reading(record)).entry(document_id)
        wanted: set[str] = set()
        on_hold: set[str] = set()
        for link in self._names.collection_links:
            linked = await self._linked(document_id, link)
            if linked is None:
                return None
            for row in linked:
                collection = _text(row.get(link.collection))
                activation = _folded(row.get(link.activation, _ACTIVE))
                if collection and activation == _ACTIVE:
                    wanted.add(collection)
                elif collection and activation in _ON_HOLD:
                    on_hold.add(collection)
        return replace(entry, wanted=frozenset(wanted), on_hold=frozenset(on_hold - wanted))

    async def _linked(
        self, document_id: str, link: CollectionLink
    ) -> list[Mapping[str, Any]] | None:
        """Return the records behind the link; None when the document went away meanwhile."""
        select = [name for name in (link.collection, link.activation) if name]
        try:
            rows = self._client.list_all_linked(ENTITY, document_id, link.link, select=select)
            return [row async for row in rows]
        except NotFound as missing:
            try:
                await self._client.get_entity(ENTITY, document_id)
            except NotFound:
                return None
            # Taken for "linked to nothing", this would empty every collection.
            raise Invalid(
                "espocrm",
                missing.operation,
                status=404,
                detail=f"{ENTITY} has no link {link.link}: correct DOCUMENT_COLLECTION_LINKS",
            ) from None

    async def entry_of(self, record: Mapping[str, Any]) -> Entry:
        """Return what a record that was read elsewhere says, but for its links.

        Raises:
            Invalid: it cannot be read as the settings say.
        """
        return (await self._reading(record)).entry(_text(record.get("id")))

    async def _reading(self, record: Mapping[str, Any]) -> "_Reading":
        return _Reading(record, await self._fields(), self._names)

    async def _fields(self) -> Mapping[str, _Field] | None:
        """Return the fields that the CRM has; None where it does not tell."""
        try:
            described = await self._client.metadata(f"entityDefs.{ENTITY}")
        except (Invalid, NotFound):
            return None
        fields = described.get("fields") if isinstance(described, dict) else None
        if not isinstance(fields, dict) or not fields:
            return None
        return {name: _Field(_options(about)) for name, about in fields.items()}

    # -- whole lists

    async def shelves(self) -> tuple[Shelf, ...]:
        """Return everything that documents may be linked to and that stands for a collection.

        Raises:
            Invalid: the CRM has no such link, as far as its metadata tells.
        """
        described = await self._client.metadata(f"entityDefs.{ENTITY}")
        links = described.get("links") if isinstance(described, dict) else None
        found: list[Shelf] = []
        for link in self._names.collection_links:
            about = links.get(link.link) if isinstance(links, dict) else None
            entity = _text(about.get("entity")) if isinstance(about, dict) else ""
            if not entity:
                raise Invalid(
                    "espocrm",
                    "metadata",
                    detail=f"{ENTITY} has no link {link.link}: correct DOCUMENT_COLLECTION_LINKS",
                )
            back = _text(about.get("foreign")) if isinstance(about, dict) else ""
            select = ["id", *(name for name in (link.collection, link.activation) if name)]
            async for row in self._client.list_all(entity, select=select):
                collection = _text(row.get(link.collection))
                if collection:
                    state = _shelf_state(row.get(link.activation, _ACTIVE))
                    found.append(Shelf(_text(row.get("id")), entity, back, collection, state))
        return tuple(found)

    async def on_shelf(self, shelf: Shelf) -> AsyncIterator[str]:
        """Yield the documents that are linked to the shelf, each once.

        Raises:
            NotFound: the shelf is gone.
        """
        rows = self._client.list_all_linked(shelf.entity, shelf.id, shelf.link, select=["id"])
        async for row in rows:
            yield _text(row.get("id"))

    async def listed(self, since: datetime | None) -> AsyncIterator[Listed]:
        """Yield the documents that were changed since then, by the CRM's clock; None: all."""
        where: list[Mapping[str, Any]] = []
        if since is not None:
            stamp = since.astimezone(UTC).strftime(_STAMP)
            where.append({"type": "greaterThanOrEquals", "attribute": "modifiedAt", "value": stamp})
        async for listed in self._listed(where):
            yield listed

    async def some(self, document_ids: Iterable[str]) -> AsyncIterator[Listed]:
        """Yield those of these documents that there are."""
        ids = sorted(document_ids)
        for start in range(0, len(ids), _ASKED_TOGETHER):
            some = ids[start : start + _ASKED_TOGETHER]
            async for listed in self._listed([{"type": "in", "attribute": "id", "value": some}]):
                yield listed

    async def _listed(self, where: Sequence[Mapping[str, Any]]) -> AsyncIterator[Listed]:
        # Every attribute, as in a record that is read alone: what a selection forgot would read as
        # empty, and every record would look changed.
        fields = await self._fields()
        async for row in self._client.list_all(ENTITY, where=where):
            entry = _Reading(row, fields, self._names).entry(_text(row.get("id")))
            yield Listed(entry, _moment(row.get("modifiedAt")))

    async def inspect(self, attachment_id: str, *, hashed: bool) -> FileFacts | Absent:
        """Return what is known about an attachment; with `hashed` read all its bytes for it."""
        try:
            about = await self._client.attachment(attachment_id)
            size = about.get("size")
            facts = FileFacts(
                attachment_id,
                safe_filename(_text(about.get("name"))),
                _text(about.get("type")) or "application/octet-stream",
                size if isinstance(size, int) and not isinstance(size, bool) else None,
            )
            if not hashed:
                return facts
            md5, seen = hashlib.md5(usedforsecurity=False), 0
            async with self._client.download_attachment(attachment_id) as download:
                async for chunk in download.chunks():
                    md5.update(chunk)
                    seen += len(chunk)
        except NotFound:
            return Absent(attachment_id)
        return replace(facts, size=seen, md5=md5.hexdigest())

    @asynccontextmanager
    async def content(self, attachment_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the attachment's bytes, streamed.

        Raises:
            NotFound: EspoCRM does not have it.
        """
        async with self._client.download_attachment(attachment_id) as download:
            yield download.chunks()

    async def sharers(self, file_ids: Iterable[str], *, besides: str) -> tuple[Sharer, ...]:
        """Return the records other than `besides` that note one of these xAI files."""
        rows = self._client.list_all(
            ENTITY,
            where=[{"type": "in", "attribute": FILE, "value": sorted(file_ids)}],
            select=["id", FILE, COLLECTIONS],
        )
        return tuple(
            [
                Sharer(_text(row.get("id")), _text(row.get(FILE)), _ids(row.get(COLLECTIONS)))
                async for row in rows
                if row.get("id") != besides
            ]
        )

    async def write_back(self, entry: Entry, back: WriteBack) -> None:
        """Note these values in the record.

        The version is the precondition. A CRM that keeps none is read directly before: what
        changes between that reading and the write is overwritten in the fields that are ours.

        Raises:
            Conflict: the record is not as `entry` says any more.
            NotFound: it is gone.
        """
        record = await self._client.get_entity(ENTITY, entry.id) if entry.version is None else {}
        reading = await self._reading(record)
        if entry.version is None:
            unlinked = replace(entry, wanted=frozenset(), on_hold=frozenset())
            if reading.entry(entry.id) != unlinked:
                raise Conflict("espocrm", "update_entity", reason="modified")
        values: dict[str, Any] = {}
        for what, value in back.values:
            match what:
                case Noted.STATUS:
                    values |= reading.rendered(Word(str(value)), entry.status_fields)
                case _:
                    values[_NAME_OF[what]] = list(value) if isinstance(value, tuple) else value
        await self._client.update_entity(ENTITY, entry.id, values, version=entry.version)


_NAME_OF = {
    Noted.FILE: FILE,
    Noted.COLLECTIONS: COLLECTIONS,
    Noted.HASH: HASH,
    Noted.MESSAGE: MESSAGE,
}


class _Reading:
    """A record beside what the CRM says about its fields."""

    def __init__(
        self, record: Mapping[str, Any], fields: Mapping[str, _Field] | None, names: Names
    ) -> None:
        self._record = record
        self._fields = fields
        self._names = names

    def _has(self, name: str) -> bool:
        return name in self._record or (self._fields is not None and name in self._fields)

    def entry(self, document_id: str) -> Entry:
        record, status = self._record, self._status_fields()
        attachment_key = f"{self._names.file_link}Id"
        xai_id = _text(record.get(FILE)) or None
        if attachment_key not in record and xai_id is not None:
            # Taken for "the file was removed", this would empty every collection.
            raise Invalid(
                "espocrm",
                "get_entity",
                detail=f"the record shows no {attachment_key}: correct DOCUMENT_FILE_LINK, or let "
                "our API user read the field",
            )
        said = {name: _folded(record.get(name)) for name in status}
        known = _FRESH | {word for words in _SAID.values() for word in words} | {""}
        version = record.get("versionNumber")
        return Entry(
            id=document_id,
            attachment_id=_text(record.get(attachment_key)) or None,
            name=_text(record.get("name")),
            md5=_hash(record.get("md5sum")),
            sha256=_hash(record.get("sha256")),
            fresh=any(word in _FRESH for word in said.values()),
            says=self._says(status),
            words=frozenset(
                word
                for word in Word
                if all(
                    value == record.get(name) for name, value in self.rendered(word, status).items()
                )
            ),
            xai_id=xai_id,
            collections=_ids(record.get(COLLECTIONS)),
            synced_hash=_hash(record.get(HASH)),
            message=_text(record.get(MESSAGE)) or None,
            version=version if isinstance(version, int) else None,
            writable=self._writable(status),
            strange=tuple(sorted(name for name, word in said.items() if word not in known)),
            status_fields=status,
            status_said=_text(record.get(status[0])) if status else "",
            assigned_to=_text(record.get("assignedUserId")) or None,
        )

    def _status_fields(self) -> tuple[str, ...]:
        names = dict.fromkeys((self._names.status_field, *_STATUS_FIELDS))
        return tuple(name for name in names if self._has(name))

    def _says(self, status: tuple[str, ...]) -> Word | None:
        word = _folded(self._record.get(status[0])) if status else ""
        meant = [ours for ours in Word if word in _SAID[ours]]
        # "failed" stands in for "unsupported" where a CRM has no such word: the best fit counts.
        return min(meant, key=lambda ours: _SAID[ours].index(word), default=None)

    def _writable(self, status: tuple[str, ...]) -> frozenset[Noted]:
        writable = {what for what, name in _NAME_OF.items() if self._has(name)}
        return frozenset(writable | ({Noted.STATUS} if status else set()))

    def rendered(self, word: Word, status: tuple[str, ...]) -> dict[str, str]:
        """Return what each status field is to say for `word`; a field without a word stays out."""
        return {
            name: value
            for at, name in enumerate(status)
            if (value := self._spelling(name, word, first=at == 0)) is not None
        }

    def _spelling(self, name: str, word: Word, *, first: bool) -> str | None:
        field = self._fields.get(name) if self._fields is not None else None
        if field is None or field.options is None:
            # Which words the field offers is unknown: only the one that people look at is written.
            return _SAID[word][0] if first and word not in _ONLY_WHERE_OFFERED else None
        return _offered(field.options, word)


@lru_cache(maxsize=256)
def _offered(options: tuple[str, ...], word: Word) -> str | None:
    """Return how a field with these options spells the word; asked for every row of every list."""
    for spelling in _SAID[word]:
        for option in options:
            if _folded(option) == spelling:
                return option
    return None


class XaiFiles:
    """The files at xAI."""

    def __init__(self, client: Xai) -> None:
        self._client = client

    async def exists(self, file_id: str) -> bool:
        """Say whether there is such a file; what is no id names none."""
        try:
            await self._client.get_file(file_id)
        except NotFound:
            return False
        except Invalid as error:
            return _not_sent(error)
        return True

    async def upload(
        self, content: AsyncIterable[bytes], *, name: str, mime: str, size: int
    ) -> str:
        """Upload and return the new file's id. Twice makes two files.

        Raises:
            OutsideError: where `ambiguous`, the file may be there.
        """
        file = await self._client.upload_file(content, filename=name, mime_type=mime, size=size)
        return file.id

    async def uploaded_since(self, since: datetime) -> AsyncIterator[Uploaded]:
        """Yield the files uploaded since then, the newest first."""
        async for file in self._client.list_files(until=since):
            if file.size is not None:
                yield Uploaded(file.id, file.filename, file.size)

    async def md5(self, file_id: str) -> str:
        """Return the MD5 of the file's bytes.

        Raises:
            NotFound: it is gone.
        """
        md5 = hashlib.md5(usedforsecurity=False)
        async with self._client.file_content(file_id) as content:
            async for chunk in content.chunks():
                md5.update(chunk)
        return md5.hexdigest()

    async def delete(self, file_id: str) -> None:
        """Delete the file; one that is gone counts as done."""
        await self._client.delete_file(file_id)


class XaiCollections:
    """The collections at xAI."""

    def __init__(self, client: Xai) -> None:
        self._client = client

    async def exists(self, collection: str) -> bool:
        """Say whether there is such a collection; what is no id names none."""
        try:
            await self._client.get_collection(collection)
        except NotFound:
            return False
        except Invalid as error:
            return _not_sent(error)
        return True

    async def member(self, collection: str, file_id: str) -> Member | None:
        """Return the file as the collection's; None where it is not attached."""
        try:
            found = await self._client.membership(collection, file_id)
        except Invalid as error:
            _not_sent(error)
            return None
        if found is None:
            return None
        state = _INDEXING[found.status]
        return Member(file_id, collection, state, found.hash, found.error_message)

    async def attach(self, collection: str, file_id: str) -> None:
        """Attach; attached already counts as done.

        Raises:
            NotFound: the file or the collection is gone.
        """
        await self._client.add_to_collection(collection, file_id)

    async def detach(self, collection: str, file_id: str) -> None:
        """Detach; not attached, or a collection that is gone, counts as done."""
        await self._client.remove_from_collection(collection, file_id)


class XaiHoldings:
    """What xAI holds, as whole lists."""

    def __init__(self, client: Xai) -> None:
        self._client = client

    async def members(self, collection: str) -> AsyncIterator[Held]:
        """Yield the files in a collection, each once.

        Raises:
            NotFound: there is no such collection; what is no id names none.
        """
        try:
            async for document in self._client.list_documents(collection):
                yield Held(
                    document.file_id,
                    document.name,
                    document.size,
                    document.created_at,
                    _INDEXING[document.status],
                    document.hash,
                    document.error_message,
                )
        except Invalid as error:
            _not_sent(error)
            raise NotFound("xai", error.operation, detail="no collection has such an id") from None

    async def files(self) -> AsyncIterator[Held]:
        """Yield every file, each once."""
        async for file in self._client.list_files():
            yield Held(file.id, file.filename, file.size, file.created_at)


def _not_sent(error: Invalid) -> Literal[False]:
    """Return False where the client saw that something is no id; raise what xAI itself refused.

    A refusal must not read as "not there": every file would be uploaded again.
    """
    if error.status is not None:
        raise error
    return False


# -- parsing --------------------------------------------------------------------------------------


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _folded(value: object) -> str:
    """Return a word so that its spellings are one: NFC, no outer blanks, no capitals."""
    return unicodedata.normalize("NFC", _text(value)).casefold()


def _hash(value: object) -> str | None:
    return _text(value).lower() or None


def _ids(value: object) -> frozenset[str]:
    """Return a list of ids, also one that was kept as text with commas."""
    found: Iterator[object] = iter(())
    if isinstance(value, str):
        found = iter(value.split(","))
    elif isinstance(value, list):
        found = iter(value)
    return frozenset(text for item in found if (text := _text(item)))


def _moment(value: object) -> datetime | None:
    """Return a date-time as EspoCRM writes it: UTC, without a zone."""
    try:
        return datetime.strptime(_text(value), _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _shelf_state(activation: object) -> Literal["active", "on hold", "off"]:
    word = _folded(activation)
    if word == _ACTIVE:
        return "active"
    return "on hold" if word in _ON_HOLD else "off"


def _options(about: object) -> tuple[str, ...] | None:
    options = about.get("options") if isinstance(about, dict) else None
    if not isinstance(options, list):
        return None
    return tuple(option for option in options if isinstance(option, str))
