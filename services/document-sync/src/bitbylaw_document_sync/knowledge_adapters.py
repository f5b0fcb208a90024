"""The ports of the knowledge bases, done with the clients."""

import unicodedata
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from bitbylaw_common.clients.espocrm import EspoCRM
from bitbylaw_common.errors import Conflict, Invalid, NotFound
from bitbylaw_document_sync.adapters import EspoDocuments
from bitbylaw_document_sync.domain.knowledge import (
    Column,
    Knowledge,
    LinkColumn,
    Linked,
    LinkRow,
    Member,
    Stage,
)
from bitbylaw_document_sync.xai import Xai

ENTITY = "CAIKnowledge"
JUNCTION = "CAIKnowledgeCDokumente"
DOCUMENTS = "dokumentes"
"""The link from a knowledge base to its documents."""

_NEAR, _FAR = "cAIKnowledgeId", "cDokumenteId"
_OF_COLUMN = {
    Column.COLLECTION: "datenbankId",
    Column.STAGE: "aktivierungsstatus",
    Column.STATUS: "syncStatus",
    Column.LAST_SYNC: "lastSync",
}
_OF_LINK_COLUMN = {
    LinkColumn.FILE: "aiDocumentId",
    LinkColumn.STATE: "syncstatus",  # the CRM spells this one without a capital
    LinkColumn.HASH: "syncedHash",
    LinkColumn.LAST_SYNC: "lastSync",
}
_LAST = datetime.max.replace(tzinfo=UTC)
_STAGES: Mapping[str, Stage] = {stage: stage for stage in get_args(Stage)}


class EspoKnowledge:
    """The knowledge bases in EspoCRM.

    Args:
        client: of EspoCRM.
        documents: reads a document's record.
    """

    def __init__(self, client: EspoCRM, documents: EspoDocuments) -> None:
        self._client = client
        self._documents = documents

    async def all(self) -> AsyncIterator[Knowledge]:
        """Yield every knowledge base, each once."""
        select = ["id", *_OF_COLUMN.values()]
        async for row in self._client.list_all(ENTITY, select=select):
            yield _knowledge(row)

    async def load(self, knowledge_id: str) -> Knowledge | None:
        """Return the knowledge base; None when it is gone."""
        try:
            return _knowledge(await self._client.get_entity(ENTITY, knowledge_id))
        except NotFound:
            return None

    async def sharers(self, collections: Iterable[str], *, besides: str) -> frozenset[str]:
        """Return those of the collections that another knowledge base in use stands for."""
        rows = self._client.list_all(
            ENTITY,
            where=[
                {
                    "type": "in",
                    "attribute": _OF_COLUMN[Column.COLLECTION],
                    "value": sorted(collections),
                }
            ],
            select=["id", *_OF_COLUMN.values()],
        )
        others = [_knowledge(row) async for row in rows]
        return frozenset(
            other.collection
            for other in others
            if other.collection and other.id != besides and other.stage != "deactivated"
        )

    async def linked(self, knowledge_id: str) -> Linked | None:
        """Return its documents, and the rows of the link where the CRM serves them; None: gone."""
        try:
            rows = self._client.list_all_linked(ENTITY, knowledge_id, DOCUMENTS)
            documents = [await self._documents.entry_of(row) async for row in rows]
        except NotFound:
            return None
        links = await self._rows(knowledge_id) if await self.serves_links() else {}
        return Linked(tuple(documents), links)

    async def serves_links(self) -> bool:
        """Say whether the CRM serves the rows of the link as records of their own."""
        try:
            described = await self._client.metadata(f"entityDefs.{JUNCTION}.fields")
        except (Invalid, NotFound):
            return False
        return isinstance(described, dict) and _OF_LINK_COLUMN[LinkColumn.STATE] in described

    async def _rows(self, knowledge_id: str) -> dict[str, LinkRow]:
        where = [{"type": "equals", "attribute": _NEAR, "value": knowledge_id}]
        select = ["id", _FAR, *_OF_LINK_COLUMN.values()]
        rows = self._client.list_all(JUNCTION, where=where, select=select, order_by="id")
        found = [_link_row(row) async for row in rows]
        return {row.document_id: row for row in found}

    async def note(
        self, knowledge: Knowledge, values: tuple[tuple[Column, str | None], ...]
    ) -> None:
        """Note these values in the knowledge base.

        The version is the precondition; a CRM that keeps none is read directly before: what a
        person changes between that reading and the write is overwritten in the fields we write.

        Raises:
            Conflict: it is not as `knowledge` says any more; load and plan again.
            NotFound: it is gone.
        """
        if knowledge.version is None:
            now = _knowledge(await self._client.get_entity(ENTITY, knowledge.id))
            if now != knowledge:
                raise Conflict("espocrm", "update_entity", reason="modified")
        named = {_OF_COLUMN[what]: value for what, value in values}
        await self._client.update_entity(ENTITY, knowledge.id, named, version=knowledge.version)

    async def note_link(
        self, row: LinkRow, values: tuple[tuple[LinkColumn, str | None], ...]
    ) -> None:
        """Note these values in a row of the link. May be repeated.

        Raises:
            NotFound: the row is gone.
        """
        named = {_OF_LINK_COLUMN[what]: value for what, value in values}
        await self._client.update_entity(JUNCTION, row.id, named)


class XaiShelves:
    """The collections at xAI that knowledge bases stand for."""

    def __init__(self, client: Xai) -> None:
        self._client = client

    async def marked(self, mark: str) -> tuple[str, ...]:
        """Return the ids of the collections whose description has the mark, the oldest first."""
        found = [
            one
            async for one in self._client.list_collections()
            if mark in one.description.splitlines()
        ]
        return tuple(
            one.id for one in sorted(found, key=lambda one: (one.created_at or _LAST, one.id))
        )

    async def create(self, name: str, description: str) -> str:
        """Make a collection and return its id. Twice makes two.

        Raises:
            OutsideError: where `ambiguous`, it may be there.
        """
        return (await self._client.create_collection(name, description)).id

    async def delete(self, collection: str) -> None:
        """Delete it; gone counts as done, and so does what is no id."""
        try:
            await self._client.delete_collection(collection)
        except Invalid as error:
            if error.status is not None:
                raise

    async def members(self, collection: str) -> Mapping[str, Member] | None:
        """Return the files in the collection by id; None when there is no such collection."""
        try:
            return {
                one.file_id: Member(one.file_id, one.status)
                async for one in self._client.list_documents(collection)
            }
        except NotFound:
            return None


def _knowledge(row: Mapping[str, Any]) -> Knowledge:
    version = row.get("versionNumber")
    return Knowledge(
        id=_text(row.get("id")),
        name=_text(row.get("name")),
        stage=_STAGES.get(_folded(row.get(_OF_COLUMN[Column.STAGE]))),
        collection=_text(row.get(_OF_COLUMN[Column.COLLECTION])) or None,
        status=_folded(row.get(_OF_COLUMN[Column.STATUS])),
        assigned_to=_text(row.get("assignedUserId")) or None,
        version=version if isinstance(version, int) else None,
    )


def _link_row(row: Mapping[str, Any]) -> LinkRow:
    return LinkRow(
        id=_text(row.get("id")),
        document_id=_text(row.get(_FAR)),
        file_id=_text(row.get(_OF_LINK_COLUMN[LinkColumn.FILE])) or None,
        state=_folded(row.get(_OF_LINK_COLUMN[LinkColumn.STATE])),
        hash=_text(row.get(_OF_LINK_COLUMN[LinkColumn.HASH])) or None,
    )


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _folded(value: object) -> str:
    return unicodedata.normalize("NFC", _text(value)).casefold()
