"""The simulators' control face, as `bbl up` and `bbl demo` use it: what a person does in the CRM."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import BaseModel, ConfigDict

from bitbylaw_cli.output import CommandError, Exit

_PIECE_BYTES = 1024 * 1024
_UPLOAD_SECONDS = 600.0


class Told(BaseModel):
    """What the simulators print once they listen."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    espocrm: str
    espocrm_api: str
    xai: str
    xai_api: str
    advoware: str
    pid: int
    espocrm_api_key: str
    webhook_secrets: Mapping[str, str]
    xai_api_key: str
    xai_management_key: str
    advoware_app_id: str
    advoware_api_key: str
    advoware_kanzlei: str
    advoware_database: str
    advoware_user: str
    advoware_password: str


@dataclass(frozen=True, slots=True)
class SimulatedDocument:
    """A document as EspoCRM has it.

    Attributes:
        sha256: of its file's bytes as the CRM keeps them; None without a file.
        status: the word that people read; with `message` the German reason where there is one.
        file_id: xAI's file, as the integration noted it.
        collections: where it noted that the file is.
    """

    id: str
    name: str
    deleted: bool
    sha256: str | None
    status: str
    message: str
    file_id: str
    collections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Office:
    """Both sides at one moment.

    Attributes:
        documents: EspoCRM's, by id, deleted ones too.
        knowledge: collection id by id of the knowledge base that stands for it.
        wanted: ids of the collections that want a document, by the document's id.
        collection_names: by collection id.
        files: SHA-256 of xAI's files, by id.
        attached: file ids by collection id.
        undelivered: webhooks that EspoCRM has not delivered yet.
    """

    documents: Mapping[str, SimulatedDocument]
    knowledge: Mapping[str, str]
    wanted: Mapping[str, frozenset[str]]
    collection_names: Mapping[str, str]
    files: Mapping[str, str]
    attached: Mapping[str, frozenset[str]]
    undelivered: int

    def differs(self, document_id: str) -> str:
        """Return what is wrong with a document in words; empty when both sides agree on it."""
        document = self.documents[document_id]
        places = frozenset(self.places_of(document.file_id)) if document.file_id else frozenset()
        wanted = self.wanted.get(document_id, frozenset())
        if document.deleted or not wanted:
            return "still in a collection" if places else ""
        if document.file_id not in self.files:
            return "its file is not at xAI"
        if self.files[document.file_id] != document.sha256:
            return "the bytes at xAI are others"
        return "" if places == wanted else "in other collections than wanted"

    def places_of(self, file_id: str) -> tuple[str, ...]:
        """Return the ids of the collections that hold the file."""
        return tuple(sorted(place for place, files in self.attached.items() if file_id in files))


class Simulated:
    """The simulators from outside.

    Args:
        told: what they printed.
        session: to ask them with.
    """

    def __init__(self, told: Told, session: aiohttp.ClientSession) -> None:
        self.told = told
        self._session = session

    async def office(self) -> Office:
        """Return both sides as they are."""
        crm = await self._json("GET", f"{self.told.espocrm}/_sim/state")
        xai = await self._json("GET", f"{self.told.xai}/_sim/state")
        return office_of(crm, xai)

    async def calls(self, system: str, since: int) -> tuple[list[dict[str, Any]], int]:
        """Return the calls after number `since`, and the last number."""
        base = self.told.xai if system == "xai" else self.told.espocrm
        answer = await self._json("GET", f"{base}/_sim/requests?since={since}")
        return list(answer["requests"]), int(answer["last"])

    async def edit(self, **wanted: Any) -> dict[str, Any]:
        """Do an edit as a person does it in the CRM."""
        return await self._json("POST", f"{self.told.espocrm}/_sim/edit", json=wanted)

    async def put_file(self, file: Path, **wanted: str) -> dict[str, Any]:
        """Do an edit that brings a file of this machine, streamed."""
        return await self._json(
            "POST",
            f"{self.told.espocrm}/_sim/edit",
            params=wanted,
            data=_pieces(file),
            headers={"content-type": "application/octet-stream"},
            timeout=aiohttp.ClientTimeout(total=_UPLOAD_SECONDS),
        )

    async def point_webhooks_at(self, base: str) -> None:
        """Let the nine webhooks of a kept world post to `base`, which may have another port now."""
        crm = await self._json("GET", f"{self.told.espocrm}/_sim/state")
        for webhook_id, row in crm["tables"].get("Webhook", {}).items():
            url = f"{base}/vmh/webhook/{str(row['values']['url']).partition('/vmh/webhook/')[2]}"
            if row["values"]["url"] != url:
                await self.edit(
                    action="update",
                    entity="Webhook",
                    id=webhook_id,
                    values={"url": url},
                    silent=True,
                )

    async def _json(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        try:
            async with self._session.request(method, url, **options) as answer:
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as broken:
            raise CommandError(
                Exit.UNREACHABLE,
                f"the simulator does not answer at {url}: {type(broken).__name__}; "
                "see .devstack/logs/simulators.log",
            ) from None
        if answer.status != 200:
            said = body.get("error", "") if isinstance(body, dict) else ""
            raise CommandError(Exit.FINDING, f"the simulator refused an edit: {said}")
        return dict(body)


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            yield piece


def office_of(crm: Mapping[str, Any], xai: Mapping[str, Any]) -> Office:
    """Return what the two states say."""
    tables = crm["tables"]
    contents = crm["files"]
    queue = crm["webhooks"]
    knowledge = {
        row_id: str(row["values"].get("datenbankId") or "")
        for row_id, row in tables.get("CAIKnowledge", {}).items()
        if not row["deleted"]
    }
    wanted: dict[str, set[str]] = {}
    for row in tables.get("CAIKnowledgeCDokumente", {}).values():
        values = row["values"]
        collection = knowledge.get(str(values["cAIKnowledgeId"]))
        if collection and not row["deleted"]:
            wanted.setdefault(str(values["cDokumenteId"]), set()).add(collection)
    return Office(
        {
            row_id: _document(row_id, row, contents)
            for row_id, row in tables.get("CDokumente", {}).items()
        },
        knowledge,
        {document: frozenset(places) for document, places in wanted.items()},
        {entry["id"]: str(entry["name"]) for entry in xai["collections"]},
        {file["id"]: str(file["sha256"]) for file in xai["files"]},
        {
            entry["id"]: frozenset(str(doc["file_id"]) for doc in entry["documents"])
            for entry in xai["collections"]
        },
        len(queue["events"]) + len(queue["items"]),
    )


def _document(
    row_id: str, row: Mapping[str, Any], contents: Mapping[str, Any]
) -> SimulatedDocument:
    values = row["values"]
    attachment = values.get("dokumentId")
    kept = contents.get(attachment) if attachment else None
    return SimulatedDocument(
        id=row_id,
        name=str(values.get("name") or ""),
        deleted=bool(row["deleted"]),
        sha256=str(kept) if isinstance(kept, str) else None,
        status=str(values.get("fileStatus") or ""),
        message=str(values.get("syncErrorMessage") or ""),
        file_id=str(values.get("xaiId") or ""),
        collections=tuple(values.get("xaiCollections") or ()),
    )
