"""xAI's two faces: files with search under one key, collections under another."""

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bitbylaw_simulators.calls import Call
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.contents import Contents, sliced
from bitbylaw_simulators.faults import Fault
from bitbylaw_simulators.multipart import Part, parts
from bitbylaw_simulators.quirks import described, switched
from bitbylaw_simulators.simulator import Simulator, delay_of
from bitbylaw_simulators.wire import SimRequest, SimResponse, json_answer
from bitbylaw_simulators.xai.listing import matches, page
from bitbylaw_simulators.xai.model import (
    Collection,
    Document,
    StoredFile,
    plain,
    rfc3339,
    timed,
)
from bitbylaw_simulators.xai.quirks import XaiQuirks
from bitbylaw_simulators.xai.search import search

API_KEY = "xai-simulated-api-key"
MANAGEMENT_KEY = "xai-token-simulated-management-key"

_CODES = {
    400: "Client specified an invalid argument",
    401: "The caller is not authenticated",
    403: "The caller does not have permission to execute the specified operation",
    404: "Some requested entity was not found",
    405: "The method is not allowed",
    409: "The entity that a client attempted to create already exists",
    413: "The request is too large",
    415: "The content type is not supported",
    429: "Some resource has been exhausted",
    500: "Internal error",
    503: "The service is currently unavailable",
}


class Refusal(Exception):  # noqa: N818 - an answer on its way, not a fault of ours
    """The call ends with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call on its way: the request, its ids from the path, its log entry, its marks."""

    request: SimRequest
    ids: tuple[str, ...]
    call: Call | None
    marks: Sequence[Fault]

    def fields(self) -> dict[str, Any]:
        try:
            body = self.request.json()
        except ValueError as error:
            raise Refusal(400, "the body is not JSON") from error
        if body is None:
            return {}
        if not isinstance(body, dict):
            raise Refusal(400, "the body must be an object")
        return body


class Xai(Simulator):
    """xAI as it behaves.

    Args:
        clock: its time; a virtual one when absent.
        contents: where bytes are kept; in memory when absent.
        quirks: its doubtful manners.
        seed: of the ids; None makes every run differ.
        api_key: opens files and search.
        management_key: opens collections.
    """

    name = "xai"

    def __init__(
        self,
        clock: SimClock | None = None,
        *,
        contents: Contents | None = None,
        quirks: XaiQuirks | None = None,
        seed: int | None = 0,
        api_key: str = API_KEY,
        management_key: str = MANAGEMENT_KEY,
    ) -> None:
        super().__init__(clock, contents, seed)
        self.quirks = quirks or XaiQuirks()
        self.api_key = api_key
        self.management_key = management_key
        self._files: dict[str, StoredFile] = {}
        self._collections: dict[str, Collection] = {}
        self._number = 0
        self._routes = self._route_table()

    # what a test says and asks

    def add_collection(self, name: str, collection_id: str | None = None) -> str:
        """Make a collection as in the console; return its id."""
        collection = self._new_collection(name, None, collection_id)
        self.did(None, "create_collection", collection.id)
        return collection.id

    def remove_collection(self, collection: str) -> None:
        """Delete a collection as in the console; its files stay."""
        del self._collections[self._named(collection).id]
        self.did(None, "delete_collection", collection)

    def add_file(self, name: str, content: bytes, *, content_type: str = "application/pdf") -> str:
        """Store a file that nobody uploaded through a logged call; return its id."""
        file = self._store(name, content_type, self.stored.add(content).sha256, ())
        self.did(None, "upload", file.id)
        return file.id

    def remove_file(self, file_id: str) -> None:
        """Delete a file as in the console."""
        self._delete_file(self._files[file_id])
        self.did(None, "delete_file", file_id)

    def attach(self, collection: str, file_id: str, fields: dict[str, str] | None = None) -> None:
        """Attach a file as in the console."""
        self._attach(self._named(collection), self._files[file_id], fields or {}, ())
        self.did(None, "attach", f"{collection}/{file_id}")

    def detach(self, collection: str, file_id: str) -> None:
        """Detach a file as in the console."""
        del self._named(collection).documents[file_id]
        self.did(None, "detach", f"{collection}/{file_id}")

    def files(self) -> list[StoredFile]:
        """Return all files, oldest first, shown or not."""
        return list(self._files.values())

    def content(self, file_id: str) -> bytes:
        """Return a file's bytes."""
        return self.stored.read(self._files[file_id].sha256)

    def file_ids(self, collection: str) -> list[str]:
        """Return the files of a collection (by id or name) in the order they were attached."""
        return list(self._named(collection).documents)

    def contents(self, collection: str) -> list[bytes]:
        """Return the bytes in a collection (by id or name) in the order they were attached."""
        ids = self.file_ids(collection)
        return [self.content(file_id) for file_id in ids if file_id in self._files]

    def collection_ids(self) -> list[str]:
        """Return the ids of all collections, oldest first."""
        return list(self._collections)

    def status(self, collection: str, file_id: str) -> str:
        """Return how far indexing is, without counting as a look: `PROCESSED`, `FAILED` ..."""
        return self._stage(self._named(collection).documents[file_id])

    # the simulator's own face

    def operation(self, request: SimRequest) -> str:
        """Return what is asked, without ids."""
        found = self._find(request)
        return found[0] if found else "unknown"

    def answer(self, request: SimRequest, call: Call, marks: Sequence[Fault]) -> SimResponse:
        """Do what is asked and return the answer."""
        try:
            found = self._find(request)
            self._check_key(request, found[0] if found else "unknown")
            if found is None:
                return self.error(404, "no such resource")
            _, ids, act = found
            return act(_Ask(request, ids, call, marks))
        except Refusal as refusal:
            return self.error(refusal.status, refusal.message)
        except ValueError as error:
            return self.error(400, str(error))

    def error(self, status: int, message: str) -> SimResponse:
        """Return an error in the shape the quirk names."""
        code = _CODES.get(status, "Unknown error")
        if self.quirks.error_shape == "code":
            return json_answer({"code": code, "error": message}, status)
        inner = {"message": message, "type": code, "code": str(status)}
        return json_answer({"error": inner}, status)

    def state(self) -> dict[str, Any]:
        """Return files, collections and contents' hashes."""
        return {
            "files": [plain(file) for file in self._files.values()],
            "collections": [
                {**plain(entry), "documents": [plain(doc) for doc in entry.documents.values()]}
                for entry in self._collections.values()
            ],
            "contents": self.stored.dump(),
            "now": self.clock.now().isoformat(),
            "number": self._number,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up an earlier state."""
        self.stored.load(state["contents"])
        self._number = int(state["number"])
        self.reseed(self._number)
        stamps = ("created_at", "visible_at", "expires_at")
        for entry in state["files"]:
            file = StoredFile(**timed(entry, *stamps))
            self._files[file.id] = file
        for entry in state["collections"]:
            documents = [
                Document(**timed(doc, "indexed_from", "visible_at")) for doc in entry["documents"]
            ]
            collection = Collection(**{**timed(entry, "created_at"), "documents": {}})
            collection.documents = {doc.file_id: doc for doc in documents}
            self._collections[collection.id] = collection

    def reset(self) -> None:
        """Forget everything."""
        self._files.clear()
        self._collections.clear()
        self._number = 0
        self.forget()

    def quirk_list(self) -> list[dict[str, Any]]:
        """Return every switch."""
        return described(self.quirks)

    def switch(self, values: dict[str, Any]) -> None:
        """Switch quirks over."""
        self.quirks = switched(self.quirks, values)

    # routes

    def _route_table(self) -> list[tuple[str, re.Pattern[str], str, Callable[[_Ask], SimResponse]]]:
        documents = r"/collections/([^/]+)/documents"
        one = documents + r"/([^/]+)"
        table: list[tuple[str, str, str, Callable[[_Ask], SimResponse]]] = [
            ("GET", "/api-key", "api_key", self._on_api_key),
            ("POST", "/files", "upload", self._on_upload),
            ("GET", "/files", "list_files", self._on_list_files),
            ("GET", "/files/([^/]+)/content", "file_content", self._on_content),
            ("GET", "/files/([^/]+)", "get_file", self._on_get_file),
            ("DELETE", "/files/([^/]+)", "delete_file", self._on_delete_file),
            ("POST", "/documents/search", "search", self._on_search),
            ("POST", "/collections", "create_collection", self._on_create_collection),
            ("GET", "/collections", "list_collections", self._on_list_collections),
            ("GET", "/collections/([^/]+)", "get_collection", self._on_get_collection),
            ("PUT", "/collections/([^/]+)", "update_collection", self._on_update_collection),
            ("DELETE", "/collections/([^/]+)", "delete_collection", self._on_delete_collection),
            ("GET", documents + ":batchGet", "batch_get", self._on_batch_get),
            ("GET", documents, "list_documents", self._on_list_documents),
            ("POST", documents, "upload_document", self._on_upload_document),
            ("POST", one, "attach", self._on_attach),
            ("GET", one, "get_document", self._on_get_document),
            ("PATCH", one, "patch_document", self._on_patch_document),
            ("DELETE", one, "detach", self._on_detach),
        ]
        return [(verb, re.compile("/v1" + path), name, act) for verb, path, name, act in table]

    def _find(
        self, request: SimRequest
    ) -> tuple[str, tuple[str, ...], Callable[[_Ask], SimResponse]] | None:
        for verb, pattern, name, act in self._routes:
            found = pattern.fullmatch(request.path)
            if verb == request.method and found:
                return name, found.groups(), act
        return None

    def _check_key(self, request: SimRequest, operation: str) -> None:
        given = request.header("Authorization")
        if not given or not given.startswith("Bearer ") or not given[7:].strip():
            raise Refusal(401, "No credentials were provided")
        management = request.path.startswith("/v1/collections")
        if given[7:].strip() != (self.management_key if management else self.api_key):
            if management:
                raise Refusal(401, "Invalid management key")
            status = int(self.quirks.wrong_api_key_status)
            raise Refusal(status, "Incorrect API key provided. Obtain an API key from the console.")
        if not management and self.quirks.api_key_blocked and operation != "api_key":
            raise Refusal(403, "The API key is blocked")
        managing = {"create_collection", "update_collection", "delete_collection"}
        if operation in managing and not self.quirks.management_may_manage:
            raise Refusal(403, "The key lacks the permission for the Collections endpoint")

    # files

    def _on_api_key(self, ask: _Ask) -> SimResponse:
        del ask
        return json_answer(
            {
                "redacted_api_key": "xai-...",
                "name": "simulated",
                "acls": ["api-key:endpoint:*", "api-key:model:*"],
                "api_key_blocked": self.quirks.api_key_blocked,
                "api_key_disabled": False,
                "team_blocked": False,
            }
        )

    def _on_upload(self, ask: _Ask) -> SimResponse:
        with ask.request.view() as view:
            form = parts(view, ask.request.header("Content-Type") or "")
            expires = self._expiry(
                [bytes(view[p.start : p.end]) for p in form if p.name == "expires_after"], form
            )
            part = next((entry for entry in form if entry.name == "file"), None)
            if part is None or part.filename is None:
                raise Refusal(400, "the form has no file")
            self._check_size(part)
            stored = self.stored.add(sliced(view, part.start, part.end))
        kind = part.content_type or "application/octet-stream"
        file = self._store(part.filename, kind, stored.sha256, ask.marks)
        file.expires_at = expires
        self.did(ask.call, "upload", file.id, content=file.sha256)
        return json_answer(self._file_json(file))

    def _expiry(self, given: list[bytes], form: Sequence[Part]) -> datetime | None:
        if not given:
            return None
        names = [part.name for part in form]
        if "file" in names and names.index("expires_after") > names.index("file"):
            raise Refusal(400, "expires_after must come before the file")
        text = given[0].decode("ascii", "replace")
        seconds = int(text) if text.isdigit() else 0
        if not 3600 <= seconds <= 2_592_000:
            raise Refusal(400, "expires_after must be between 3600 and 2592000 seconds")
        return self.clock.now() + timedelta(seconds=seconds)

    def _check_size(self, part: Part) -> None:
        if part.end - part.start > self.quirks.upload_limit_mib * 1024 * 1024:
            raise Refusal(413, "The file is too large")

    def _store(self, name: str, kind: str, sha256: str, marks: Sequence[Fault]) -> StoredFile:
        now = self.clock.now()
        stored = self.stored.stored(sha256)
        spoilt = {"hash_null": "null", "hash_wrong": "wrong"}
        file = StoredFile(
            id=f"file_{self._uuid()}",
            number=self._next(),
            filename=name,
            content_type=kind,
            sha256=sha256,
            blake3=stored.blake3,
            size=stored.size,
            created_at=now,
            visible_at=now + timedelta(seconds=delay_of(marks)),
            hash_fault=next((spoilt[mark.kind] for mark in marks if mark.kind in spoilt), None),
        )
        self._files[file.id] = file
        return file

    def _on_list_files(self, ask: _Ask) -> SimResponse:
        request = ask.request
        now = self.clock.now()
        keys: dict[str, Callable[[StoredFile], tuple[Any, int]]] = {
            "created_at": lambda file: (int(file.created_at.timestamp()), file.number),
            "filename": lambda file: (file.filename, file.number),
            "size": lambda file: (file.size, file.number),
        }
        sort_by = request.parameter("sort_by") or "created_at"
        if sort_by not in keys:
            raise Refusal(400, "unknown sort_by")
        shown, token = page(
            [file for file in self._files.values() if file.shown(now)],
            keys[sort_by],
            descending=_descending(request),
            limit=self._limit(request),
            token=request.parameter("pagination_token"),
        )
        answer: dict[str, Any] = {
            "data": [self._file_json(file) for file in shown],
            "pagination_token": token,
        }
        if self.quirks.list_shape == "old":
            answer |= {"object": "list", "has_more": token is not None}
        return json_answer(answer)

    def _on_get_file(self, ask: _Ask) -> SimResponse:
        return json_answer(self._file_json(self._shown_file(ask.ids[0])))

    def _on_content(self, ask: _Ask) -> SimResponse:
        file = self._shown_file(ask.ids[0])
        return self.stored.answer(file.sha256, {"Content-Type": file.content_type})

    def _on_delete_file(self, ask: _Ask) -> SimResponse:
        file = self._shown_file(ask.ids[0])
        self._delete_file(file)
        self.did(ask.call, "delete_file", file.id)
        return json_answer({"id": file.id, "deleted": True, "object": "file"})

    def _delete_file(self, file: StoredFile) -> None:
        del self._files[file.id]
        if self.quirks.delete_attached == "vanish":
            for collection in self._collections.values():
                collection.documents.pop(file.id, None)

    def _shown_file(self, file_id: str) -> StoredFile:
        file = self._files.get(file_id)
        if file is None or not file.shown(self.clock.now()):
            raise Refusal(404, "The file was not found")
        return file

    def _file_json(self, file: StoredFile) -> dict[str, Any]:
        skew = self.quirks.clock_skew_seconds
        return {
            "id": file.id,
            "object": "file",
            "bytes": file.size,
            "created_at": int(file.created_at.timestamp() + skew),
            "filename": file.filename,
            "purpose": "",
            **(
                {"expires_at": file.expires_at and int(file.expires_at.timestamp())}
                if self.quirks.optional_keys
                else {}
            ),
        }

    def _on_search(self, ask: _Ask) -> SimResponse:
        wanted = ask.fields()
        query = wanted.get("query")
        ids = _object(wanted, "source").get("collection_ids")
        if not isinstance(query, str) or not query or not isinstance(ids, list) or not ids:
            raise Refusal(400, "query and source.collection_ids are needed")
        texts = []
        for collection_id in ids:
            collection = self._collection(str(collection_id))
            for document in collection.documents.values():
                if self._stage(document) == "PROCESSED" and document.file_id in self._files:
                    content = self.content(document.file_id)
                    texts.append((collection.id, document.file_id, content, document.fields))
        return json_answer({"matches": search(query, texts, _whole(wanted, "limit", 10))})

    # collections

    def _on_create_collection(self, ask: _Ask) -> SimResponse:
        wanted = ask.fields()
        name = _text(wanted, "collection_name")
        if not name:
            raise Refusal(400, "collection_name is needed")
        definitions = [_definition(entry) for entry in _entries(wanted, "field_definitions")]
        index = _object(wanted, "index_configuration")
        chunk = _object(wanted, "chunk_configuration")
        about = _text(wanted, "collection_description")
        collection = self._new_collection(name, about, None)
        collection.field_definitions = definitions
        collection.index_configuration |= index
        collection.chunk_configuration |= chunk
        self.did(ask.call, "create_collection", collection.id)
        return json_answer(self._collection_json(collection))

    def _new_collection(self, name: str, about: str | None, wanted: str | None) -> Collection:
        collection = Collection(
            id=wanted or f"collection_{self._uuid()}",
            number=self._next(),
            name=name,
            description=about,
            created_at=self.clock.now(),
            index_configuration={"model_name": "grok-embedding-small"},
            chunk_configuration={
                "chars_configuration": {"max_chunk_size_chars": 1000, "chunk_overlap_chars": 200},
                "strip_whitespace": True,
                "inject_name_into_chunks": False,
            },
        )
        self._collections[collection.id] = collection
        return collection

    def _on_list_collections(self, ask: _Ask) -> SimResponse:
        request = ask.request
        keys: dict[str, Callable[[Collection], tuple[Any, int]]] = {
            "name": lambda entry: (entry.name, entry.number),
            "created_at": lambda entry: (entry.created_at.isoformat(), entry.number),
        }
        sort_by = (request.parameter("sort_by") or "name").removeprefix("collection_").lower()
        sort_by = sort_by.removeprefix("collections_sort_by_")
        shown, token = page(
            [
                entry
                for entry in self._collections.values()
                if matches(
                    request.parameter("filter"),
                    {"collection_name": entry.name, "documents_count": len(entry.documents)},
                )
            ],
            keys.get(sort_by, keys["name"]),
            descending=_descending(request),
            limit=self._limit(request),
            token=request.parameter("pagination_token"),
        )
        listed = [self._collection_json(entry) for entry in shown]
        return json_answer({"collections": listed, "pagination_token": token})

    def _on_get_collection(self, ask: _Ask) -> SimResponse:
        return json_answer(self._collection_json(self._collection(ask.ids[0])))

    def _on_update_collection(self, ask: _Ask) -> SimResponse:
        collection = self._collection(ask.ids[0])
        wanted = ask.fields()
        name = _text(wanted, "collection_name") or collection.name
        chunk = _object(wanted, "chunk_configuration")
        updates = [
            (_definition(_object(entry, "field_definition")), _text(entry, "operation"))
            for entry in _entries(wanted, "field_definition_updates")
        ]
        about = _text(wanted, "collection_description")
        collection.name = name
        collection.description = about if about is not None else collection.description
        collection.chunk_configuration |= chunk
        for definition, operation in updates:
            key = definition["key"]
            kept = [known for known in collection.field_definitions if known["key"] != key]
            if operation == "FIELD_DEFINITION_ADD":
                kept.append(definition)
            else:
                for document in collection.documents.values():
                    document.fields.pop(key, None)
            collection.field_definitions = kept
        self.did(ask.call, "update_collection", collection.id)
        return json_answer(self._collection_json(collection))

    def _on_delete_collection(self, ask: _Ask) -> SimResponse:
        collection = self._collection(ask.ids[0])
        del self._collections[collection.id]
        self.did(ask.call, "delete_collection", collection.id)
        return json_answer({})

    # documents

    def _on_attach(self, ask: _Ask) -> SimResponse:
        collection = self._collection(ask.ids[0])
        file = self._shown_file(ask.ids[1])
        fields = _texts(ask.fields().get("fields"))
        if file.id in collection.documents:
            if self.quirks.double_attach == "409":
                raise Refusal(409, "The file is in the collection already")
            return json_answer({})
        self._attach(collection, file, fields, ask.marks)
        self.did(ask.call, "attach", f"{collection.id}/{file.id}")
        return json_answer({})

    def _attach(
        self,
        collection: Collection,
        file: StoredFile,
        fields: dict[str, str],
        marks: Sequence[Fault],
    ) -> None:
        self._check_fields(collection, fields)
        if len(collection.documents) >= self.quirks.files_per_collection:
            raise Refusal(400, "The collection is full")
        now = self.clock.now()
        document = Document(
            file_id=file.id,
            number=self._next(),
            fields=fields,
            indexed_from=now,
            visible_at=now + timedelta(seconds=delay_of(marks)),
        )
        for mark in marks:
            _marked(document, mark)
        collection.documents[file.id] = document

    def _check_fields(self, collection: Collection, fields: dict[str, str]) -> None:
        for definition in collection.field_definitions:
            key = definition["key"]
            if definition.get("required") and key not in fields:
                raise Refusal(400, f"the field {key} is required")
            others = (document.fields.get(key) for document in collection.documents.values())
            if definition.get("unique") and key in fields and fields[key] in others:
                raise Refusal(409, f"the field {key} is unique")

    def _on_detach(self, ask: _Ask) -> SimResponse:
        collection = self._collection(ask.ids[0])
        document = self._document(collection, ask.ids[1])
        del collection.documents[document.file_id]
        self.did(ask.call, "detach", f"{collection.id}/{document.file_id}")
        return json_answer({})

    def _on_get_document(self, ask: _Ask) -> SimResponse:
        collection = self._collection(ask.ids[0])
        return json_answer(self._looked_at(self._document(collection, ask.ids[1])))

    def _on_list_documents(self, ask: _Ask) -> SimResponse:
        request = ask.request
        now = self.clock.now()
        name = request.parameter("name")
        shown, token = page(
            [
                document
                for document in self._collection(ask.ids[0]).documents.values()
                if document.visible_at <= now
                and (name is None or name.lower() in self._name(document).lower())
                and matches(request.parameter("filter"), self._filterable(document))
            ],
            self._document_key(request.parameter("sort_by")),
            descending=_descending(request),
            limit=self._limit(request),
            token=request.parameter("pagination_token"),
        )
        listed = [self._looked_at(document) for document in shown]
        return json_answer({"documents": listed, "pagination_token": token})

    def _document_key(self, sort_by: str | None) -> Callable[[Document], tuple[Any, int]]:
        if sort_by in {None, "name", "DOCUMENTS_SORT_BY_NAME"}:
            return lambda document: (self._name(document), document.number)
        return lambda document: (document.indexed_from.isoformat(), document.number)

    def _filterable(self, document: Document) -> dict[str, Any]:
        fields = {f"fields.{key}": text for key, text in document.fields.items()}
        status = f"DOCUMENT_STATUS_{self._stage(document)}"
        return {"name": self._name(document), "status": status, **fields}

    def _on_batch_get(self, ask: _Ask) -> SimResponse:
        collection = self._collection(ask.ids[0])
        now = self.clock.now()
        wanted = [value for name, value in ask.request.query if name == "file_ids"]
        found = [
            collection.documents[file_id] for file_id in wanted if file_id in collection.documents
        ]
        shown = [self._looked_at(document) for document in found if document.visible_at <= now]
        return json_answer({"documents": shown})

    def _on_patch_document(self, ask: _Ask) -> SimResponse:
        collection = self._collection(ask.ids[0])
        document = self._document(collection, ask.ids[1])
        fields = ask.fields().get("fields")
        manner = self.quirks.patch_document
        if fields is not None and manner in {"both", "fields"}:
            document.fields |= _texts(fields)
            self.did(ask.call, "set_fields", f"{collection.id}/{document.file_id}")
        elif manner in {"both", "reindex"}:
            document.indexed_from, document.looks = self.clock.now(), 0
            self.did(ask.call, "reindex", f"{collection.id}/{document.file_id}")
        return json_answer(self._looked_at(document))

    def _on_upload_document(self, ask: _Ask) -> SimResponse:
        collection = self._collection(ask.ids[0])
        if self.quirks.one_step_upload_fault:
            raise Refusal(
                500,
                'gRPC UploadDocument failed: header key "cf-ipcity" contains value with '
                "non-printable ASCII characters",
            )
        with ask.request.view() as view:
            form = {
                part.name: part for part in parts(view, ask.request.header("Content-Type") or "")
            }
            if "data" not in form:
                raise Refusal(400, "the form has no data")
            self._check_size(form["data"])
            stored = self.stored.add(sliced(view, form["data"].start, form["data"].end))
            values = {
                name: bytes(view[part.start : part.end]).decode()
                for name, part in form.items()
                if name != "data"
            }
        name = values.get("name") or form["data"].filename or "document"
        kind = values.get("content_type") or "application/octet-stream"
        file = self._store(name, kind, stored.sha256, ask.marks)
        fields = SimRequest("POST", "/", body=values.get("fields", "").encode()).json()
        self._attach(collection, file, _texts(fields), ask.marks)
        self.did(ask.call, "upload_attach", f"{collection.id}/{file.id}")
        return json_answer(self._document_json(collection.documents[file.id]))

    def _looked_at(self, document: Document) -> dict[str, Any]:
        shown = self._document_json(document)
        document.looks += 1
        return shown

    def _document_json(self, document: Document) -> dict[str, Any]:
        file = self._files.get(document.file_id)
        stage = self._stage(document)
        done = stage == "PROCESSED"
        skew = self.quirks.clock_skew_seconds
        size = file.size if file else 0
        chunks = max(1, size // 1000)
        metadata: dict[str, Any] = {
            "file_id": document.file_id,
            "name": self._name(document),
            "size_bytes": str(size) if self.quirks.size_bytes == "string" else size,
            "content_type": file.content_type if file else "",
            "created_at": rfc3339(file.created_at, skew) if file else None,
            "upload_status": "Complete",
            "processing_status": "Complete" if done else "Pending",
            "file_path": "",
            "expires_at": None,
            "upload_error_message": None,
        }
        if self.quirks.hash != "absent":
            metadata["hash"] = self._hash(file) if file else None
        shown: dict[str, Any] = {
            "file_metadata": metadata,
            "fields": document.fields,
            "status": f"DOCUMENT_STATUS_{stage}",
            "error_message": document.error_message if stage == "FAILED" else None,
            "last_indexed_at": rfc3339(document.indexed_from, skew) if done else None,
            "chunk_count": chunks if done else 0,
            "chunks_processed_count": str(chunks) if done else "0",
        }
        if not self.quirks.optional_keys:
            shown["file_metadata"] = {k: v for k, v in metadata.items() if v is not None}
            shown = {key: value for key, value in shown.items() if value is not None}
        return shown

    def _hash(self, file: StoredFile) -> str | None:
        manner = file.hash_fault or self.quirks.hash
        if manner == "null":
            return None
        if manner == "wrong":
            return file.blake3[::-1]
        return file.sha256 if manner == "sha256" else file.blake3

    def _stage(self, document: Document) -> str:
        return document.stage(
            self.clock.now(),
            by_polls=self.quirks.indexing_by == "polls",
            seconds=self.quirks.indexing_stage_seconds,
            polls=self.quirks.indexing_stage_polls,
        )

    def _name(self, document: Document) -> str:
        file = self._files.get(document.file_id)
        return file.filename if file else ""

    def _collection_json(self, entry: Collection) -> dict[str, Any]:
        shown = {
            "collection_id": entry.id,
            "collection_name": entry.name,
            "created_at": rfc3339(entry.created_at, self.quirks.clock_skew_seconds),
            "index_configuration": entry.index_configuration,
            "chunk_configuration": entry.chunk_configuration,
            "documents_count": len(entry.documents),
            "field_definitions": entry.field_definitions,
            "collection_description": entry.description,
        }
        if not self.quirks.optional_keys:
            shown = {key: value for key, value in shown.items() if value is not None}
        return shown

    def _collection(self, collection_id: str) -> Collection:
        collection = self._collections.get(collection_id)
        if collection is None:
            raise Refusal(404, "The collection was not found")
        return collection

    def _document(self, collection: Collection, file_id: str) -> Document:
        document = collection.documents.get(file_id)
        if document is None or document.visible_at > self.clock.now():
            raise Refusal(404, "The document was not found in the collection")
        return document

    def _named(self, collection: str) -> Collection:
        if collection in self._collections:
            return self._collections[collection]
        found = [entry for entry in self._collections.values() if entry.name == collection]
        if len(found) != 1:
            raise KeyError(f"{len(found)} collections are called {collection!r}")
        return found[0]

    def _limit(self, request: SimRequest) -> int:
        text = request.parameter("limit")
        if text is not None and (not text.isdigit() or not 1 <= int(text) <= 100):
            raise Refusal(400, "limit must be between 1 and 100")
        return min(int(text or 100), self.quirks.page_size)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.dice.getrandbits(128), version=4))


def _descending(request: SimRequest) -> bool:
    order = (request.parameter("order") or "desc").lower()
    return not order.removeprefix("order_").startswith("asc")


def _object(wanted: dict[str, Any], name: str) -> dict[str, Any]:
    value = wanted.get(name)
    if value is not None and not isinstance(value, dict):
        raise Refusal(400, f"{name} must be an object")
    return value or {}


def _text(wanted: dict[str, Any], name: str) -> str | None:
    value = wanted.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(400, f"{name} must be a text")
    return value


def _whole(wanted: dict[str, Any], name: str, default: int) -> int:
    value = wanted.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise Refusal(400, f"{name} must be a positive number")
    return value or default


def _entries(wanted: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = wanted.get(name) or []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Refusal(400, f"{name} must be a list of objects")
    return value


def _definition(entry: dict[str, Any]) -> dict[str, Any]:
    if not _text(entry, "key"):
        raise Refusal(400, "a field definition needs a key")
    return entry


def _texts(fields: Any) -> dict[str, str]:
    if fields is None:
        return {}
    if not isinstance(fields, dict) or not all(isinstance(text, str) for text in fields.values()):
        raise Refusal(400, "fields must be an object of texts")
    return dict(fields)


def _marked(document: Document, mark: Fault) -> None:
    match mark.kind:
        case "slow_indexing" if "polls" in mark.params:
            document.stage_polls = int(mark.params["polls"])
        case "slow_indexing":
            document.stage_seconds = mark.seconds(default=60.0)
        case "indexing_failed":
            document.ends = "FAILED"
            default = "The document could not be parsed"
            document.error_message = str(mark.params.get("message", default))
        case "never_processed":
            document.ends = "PROCESSING"
        case "unknown_status":
            document.ends = str(mark.params.get("name", "SUMMARIZING"))
