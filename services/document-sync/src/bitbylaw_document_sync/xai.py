"""xAI's Files and Collections over REST, in the API's own words.

A file is uploaded once and attached to any number of collections; detaching never deletes it. What
is wrong comes as one `OutsideError`:

    Unauthorized  401, 403, and the 400 that speaks of the API key
    Invalid       400, 405, 413 (too large), 415, 422: this request will never be accepted
    NotFound      404: no such file, collection or document
    Conflict      409: a value that must be unique in the collection is taken
    RateLimited   429, with the time it asks for
    Transient     5xx, no answer, a torn one, one that is no JSON

Every method may raise these; a docstring names only what means something special there. Error texts
carry the API's code and never its sentence, which may repeat a file's name.
"""

import json
import re
import secrets
import unicodedata
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import (
    Conflict,
    Invalid,
    NotFound,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_common.http.answers import (
    is_ambiguous,
    json_object,
    parsed,
    retry_after,
    segment,
    words,
)
from bitbylaw_common.http.transport import Body, Request, Response, Transport

SYSTEM = "xai"

_PAGE_SIZE = 100
_PAGES_AT_MOST = 2_000
_NAME_BYTES = 255
_EXTENSION_BYTES = 20
_DETAIL_CHARACTERS = 200
_KEY_TROUBLE = re.compile(r"(api|management)[ _-]?key", re.IGNORECASE)
_MIME_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)

IndexStatus = Literal["processing", "processed", "failed"]


@dataclass(frozen=True, slots=True)
class XaiFile:
    """A file in Files.

    Attributes:
        id: names it in Files and in every collection.
        size: bytes; None when the answer does not say.
        filename: as xAI keeps it. Personal: never log it.
        created_at: when it was uploaded, UTC; None when the answer does not say.
    """

    id: str
    size: int | None
    filename: str
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class CollectionDocument:
    """A file as a member of one collection.

    Attributes:
        file_id: the file.
        status: where indexing is; a name that nobody knows yet counts as "processing".
        name: the file's name. Personal: never log it.
        size: bytes; None when the answer does not say.
        hash: of the bytes, 64 hex characters (BLAKE3 as far as is known); empty when missing.
        created_at: when the file was uploaded, UTC; None when the answer does not say.
        error_message: why indexing failed, in xAI's words; empty otherwise. May be personal.
        fields: the values given when it was attached.
    """

    file_id: str
    status: IndexStatus
    name: str = ""
    size: int | None = None
    hash: str = ""
    created_at: datetime | None = None
    error_message: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection.

    Attributes:
        id: names it.
        name: not unique.
        documents_count: how many files are attached; None when the answer does not say.
        created_at: UTC; None when the answer does not say.
        description: empty when there is none.
    """

    id: str
    name: str
    documents_count: int | None
    created_at: datetime | None
    description: str = ""


class FileContent:
    """The bytes of a file, on their way; lives inside its `async with`.

    Attributes:
        size: bytes announced; None when the server did not say.
    """

    def __init__(self, response: Response) -> None:
        self._response = response
        self.size = _int(response.headers.get("Content-Length"))

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes in pieces of at most 256 KiB, once.

        Raises:
            Transient: they ended before the announced length.
        """
        return self._response.chunks()


class Xai:
    """A client of xAI Files and Collections. Keeps no connection and no state.

    Args:
        transport: carries the requests.
        files_url: of the host of files, "https://api.x.ai"; with or without "/v1".
        management_url: of the host of collections, "https://management-api.x.ai".
        api_key: for the host of files.
        management_key: for the host of collections; the two are not interchangeable.
        clock: measures a `Retry-After` that is a date.
        upload_timeout_seconds: for one upload or download.
        timeout_seconds: for one other call.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        files_url: str,
        management_url: str,
        api_key: str,
        management_key: str,
        clock: Clock,
        upload_timeout_seconds: float = 120.0,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._transport = transport
        self._files = _Host(_with_version(files_url), api_key)
        self._management = _Host(_with_version(management_url), management_key)
        self._clock = clock
        self._upload_timeout_seconds = upload_timeout_seconds
        self._timeout_seconds = timeout_seconds

    # ---- files

    async def upload_file(
        self,
        content: AsyncIterable[bytes] | bytes,
        *,
        filename: str,
        mime_type: str,
        size: int | None = None,
    ) -> XaiFile:
        """Upload a file and return it, with its id. Never repeated by itself.

        Args:
            content: the bytes, or pieces of them that are passed on as they come.
            filename: sent as `safe_filename(filename)`.
            mime_type: sent as it is; as application/octet-stream when it is none.
            size: bytes that `content` will yield. Without it the length is not announced.

        Raises:
            Transient: where `ambiguous`, the file may be there: look for it before uploading
                again. Not ambiguous when `content` was not `size` bytes long: nothing is stored.
            OutsideError: whatever `content` raises comes through unchanged; nothing is stored.
        """
        if isinstance(content, bytes):
            size = len(content)
        boundary = secrets.token_hex(16)
        head, tail = _multipart(boundary, safe_filename(filename), mime_type)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        body: Body
        if isinstance(content, bytes):
            body = head + content + tail
        else:
            body = _enclosed(head, content, tail, size)
            if size is not None:
                headers["Content-Length"] = str(len(head) + size + len(tail))
        request = self._request(
            self._files,
            "upload_file",
            "POST",
            "/files",
            headers=headers,
            body=body,
            timeout_seconds=self._upload_timeout_seconds,
            idempotent=False,
        )
        return _file(request, await self._object(request))

    async def get_file(self, file_id: str) -> XaiFile:
        """Return what xAI says of a file.

        Raises:
            NotFound: it does not exist.
        """
        path = _path("get_file", "files", file_id)
        request = self._request(self._files, "get_file", "GET", path)
        return _file(request, await self._object(request))

    async def list_files(self, *, until: datetime | None = None) -> AsyncIterator[XaiFile]:
        """Yield the team's files, the newest first, each once.

        Args:
            until: leave out files uploaded before; reading stops there. A file whose age the
                answer does not tell is yielded.

        Raises:
            Transient: the pages do not fit together, so what was yielded is not all.
        """
        params = (("sort_by", "created_at"), ("order", "desc"))
        newest_first = True
        before: datetime | None = None
        seen: set[str] = set()
        async for request, page in self._pages(
            self._files, "list_files", "/files", params=params, key="data"
        ):
            for row in page:
                found = _file(request, row)
                age = found.created_at
                if age is not None:
                    newest_first &= before is None or age <= before
                    before = age
                old = until is not None and age is not None and age < until
                if not old and found.id not in seen:
                    seen.add(found.id)
                    yield found
            # A server that orders otherwise than asked may have newer files on later pages.
            if until is not None and newest_first and before is not None and before < until:
                return

    @asynccontextmanager
    async def file_content(self, file_id: str) -> AsyncIterator[FileContent]:
        """Open a file's bytes; they are streamed and never all in memory.

        Raises:
            NotFound: it does not exist.
        """
        request = self._request(
            self._files,
            "file_content",
            "GET",
            _path("file_content", "files", file_id, "content"),
            timeout_seconds=self._upload_timeout_seconds,
        )
        async with self._transport.send(request) as response:
            await self._judge(request, response)
            yield FileContent(response)

    async def delete_file(self, file_id: str) -> bool:
        """Delete a file; may be repeated.

        Returns:
            True when it was deleted now, False when it was not there.
        """
        path = _path("delete_file", "files", file_id)
        return await self._done_unless_gone(
            self._request(self._files, "delete_file", "DELETE", path)
        )

    # ---- collections

    async def add_to_collection(
        self, collection_id: str, file_id: str, fields: Mapping[str, str] | None = None
    ) -> bool:
        """Attach a file to a collection; may be repeated. Indexing goes on after it returns.

        Returns:
            True when xAI attached it, False when it said that it was attached already.

        Raises:
            NotFound: the file or the collection is gone; `get_file` tells which.
            Conflict: reason "exists": a value of `fields` that must be unique is taken.
        """
        request = self._request(
            self._management,
            "add_to_collection",
            "POST",
            _path("add_to_collection", "collections", collection_id, "documents", file_id),
            headers={"Content-Type": "application/json"},
            body=json.dumps({"fields": dict(fields)} if fields else {}).encode(),
        )
        try:
            await self._done(request)
        except Conflict:
            if await self.membership(collection_id, file_id) is None:
                raise
            return False
        return True

    async def add_to_collections(
        self, collection_ids: Sequence[str], file_id: str
    ) -> tuple[str, ...]:
        """Attach a file to several collections, one after the other; may be repeated.

        Returns:
            The collections it is attached to now, in the order given. One that refuses for a
            reason of its own (gone, conflict, invalid) is left out and does not hold up the others.

        Raises:
            Unauthorized, RateLimited, Transient: what concerns them all; some may be done.
        """
        done: list[str] = []
        for collection_id in collection_ids:
            try:
                await self.add_to_collection(collection_id, file_id)
            except (NotFound, Conflict, Invalid):
                continue
            done.append(collection_id)
        return tuple(done)

    async def remove_from_collection(self, collection_id: str, file_id: str) -> bool:
        """Detach a file from a collection; may be repeated. The file stays in Files.

        Returns:
            True when it was detached now, False when it was not attached or the collection is gone.
        """
        path = _path("remove_from_collection", "collections", collection_id, "documents", file_id)
        return await self._done_unless_gone(
            self._request(self._management, "remove_from_collection", "DELETE", path)
        )

    async def membership(self, collection_id: str, file_id: str) -> CollectionDocument | None:
        """Return the file as a member of the collection; None when it is not, or either is gone."""
        path = _path("membership", "collections", collection_id, "documents", file_id)
        request = self._request(self._management, "membership", "GET", path)
        try:
            return _document(request, await self._object(request))
        except NotFound:
            return None

    async def list_documents(self, collection_id: str) -> AsyncIterator[CollectionDocument]:
        """Yield every document of a collection, each once.

        Raises:
            NotFound: the collection does not exist.
            Transient: the pages do not fit together, so what was yielded is not all.
        """
        seen: set[str] = set()
        path = _path("list_documents", "collections", collection_id, "documents")
        async for request, page in self._pages(
            self._management, "list_documents", path, params=(), key="documents"
        ):
            for row in page:
                found = _document(request, row)
                if found.file_id not in seen:
                    seen.add(found.file_id)
                    yield found

    async def get_collection(self, collection_id: str) -> Collection:
        """Return what xAI says of a collection.

        Raises:
            NotFound: it does not exist.
        """
        path = _path("get_collection", "collections", collection_id)
        request = self._request(self._management, "get_collection", "GET", path)
        return _collection(request, await self._object(request))

    async def create_collection(self, name: str, description: str) -> Collection:
        """Make a collection and return it. Names are not unique: twice makes two.

        Raises:
            Transient: where `ambiguous`, it may be there: look for it before making it again.
        """
        request = self._request(
            self._management,
            "create_collection",
            "POST",
            "/collections",
            headers={"Content-Type": "application/json"},
            body=json.dumps(
                {"collection_name": name, "collection_description": description}
            ).encode(),
            idempotent=False,
        )
        return _collection(request, await self._object(request))

    async def list_collections(self) -> AsyncIterator[Collection]:
        """Yield the team's collections, each once.

        Raises:
            Transient: the pages do not fit together, so what was yielded is not all.
        """
        seen: set[str] = set()
        async for request, page in self._pages(
            self._management, "list_collections", "/collections", params=(), key="collections"
        ):
            for row in page:
                found = _collection(request, row)
                if found.id not in seen:
                    seen.add(found.id)
                    yield found

    async def delete_collection(self, collection_id: str) -> bool:
        """Delete a collection; may be repeated. Its files stay in Files.

        Returns:
            True when it was deleted now, False when it was not there.
        """
        path = _path("delete_collection", "collections", collection_id)
        return await self._done_unless_gone(
            self._request(self._management, "delete_collection", "DELETE", path)
        )

    async def check_keys(self) -> None:
        """Return when both keys are accepted, each by its host: the cheap check of the settings.

        Raises:
            Unauthorized: a key is wrong or blocked; the operation names which: "check_api_key" or
                "check_management_key".
        """
        request = self._request(self._files, "check_api_key", "GET", "/api-key")
        answer = await self._object(request)
        for flag in ("api_key_blocked", "api_key_disabled", "team_blocked"):
            if answer.get(flag) is True:
                raise Unauthorized(SYSTEM, "check_api_key", status=200, detail=flag)
        await self._object(
            self._request(
                self._management,
                "check_management_key",
                "GET",
                "/collections",
                params=(("limit", "1"),),
            )
        )

    # ---- one call

    def _request(
        self,
        host: "_Host",
        operation: str,
        method: str,
        path: str,
        *,
        params: tuple[tuple[str, str], ...] = (),
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        timeout_seconds: float | None = None,
        idempotent: bool = True,
    ) -> Request:
        return Request(
            system=SYSTEM,
            operation=operation,
            method=method,
            url=host.url + path,
            params=params,
            headers={
                "Authorization": f"Bearer {host.key}",
                "Accept": "application/json",
                **(headers or {}),
            },
            body=body,
            timeout_seconds=timeout_seconds or self._timeout_seconds,
            idempotent=idempotent,
        )

    async def _object(self, request: Request) -> Mapping[str, Any]:
        async with self._transport.send(request) as response:
            await self._judge(request, response)
            return await json_object(request, response)

    async def _done(self, request: Request) -> None:
        async with self._transport.send(request) as response:
            await self._judge(request, response)
            await response.read()

    async def _done_unless_gone(self, request: Request) -> bool:
        try:
            await self._done(request)
        except NotFound:
            return False
        return True

    async def _pages(
        self,
        host: "_Host",
        operation: str,
        path: str,
        *,
        params: tuple[tuple[str, str], ...],
        key: str,
    ) -> AsyncIterator[tuple[Request, list[Mapping[str, Any]]]]:
        token: str | None = None
        for _ in range(_PAGES_AT_MOST):
            where = (("pagination_token", token),) if token else ()
            request = self._request(
                host, operation, "GET", path, params=(("limit", str(_PAGE_SIZE)), *params, *where)
            )
            answer = await self._object(request)
            # The management host leaves out what is empty.
            rows = answer.get(key, [])
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise _unreadable(request)
            yield request, rows
            before, token = token, _text(answer.get("pagination_token")) or None
            if token is None and answer.get("has_more") is not True:
                return
            if token in (None, before):
                break
        raise Transient(SYSTEM, operation, status=200, detail="the pages do not end")

    async def _judge(self, request: Request, response: Response) -> None:
        if 200 <= response.status < 300:
            return
        patience = retry_after(response.headers, self._clock.now())
        body = parsed(await words(response))
        status, operation = response.status, request.operation
        code, message = _said(body)
        match status:
            case 400 if _KEY_TROUBLE.search(message) or _KEY_TROUBLE.search(code):
                error: OutsideError = Unauthorized(
                    SYSTEM, operation, status=status, detail="the key is not accepted"
                )
            case 401 | 403:
                error = Unauthorized(SYSTEM, operation, status=status, detail=code)
            case 404:
                error = NotFound(SYSTEM, operation, status=status, detail=code)
            case 409:
                error = Conflict(SYSTEM, operation, detail=code, reason="exists")
            case 429:
                error = RateLimited(SYSTEM, operation, detail=code, retry_after=patience)
            case _ if status >= 500 or status == 408 or status < 400:
                error = Transient(
                    SYSTEM,
                    operation,
                    status=status,
                    detail=code or ("no JSON" if body is None else ""),
                    ambiguous=is_ambiguous(request),
                )
            case _:
                error = Invalid(SYSTEM, operation, status=status, detail=code)
        raise error


@dataclass(frozen=True, slots=True)
class _Host:
    """One of the two hosts, with the key that it accepts."""

    url: str
    key: str = field(repr=False)


def safe_filename(name: str) -> str:
    """Return `name` as it is sent: what every server keeps unchanged, and a person recognises.

    NFC; control and invisible characters are gone, path separators are dashes, a double quote is
    an apostrophe, because servers disagree on how one inside a multipart header ends; at most 255
    bytes of UTF-8, the extension kept; "document" when nothing is left. Applied twice it changes
    nothing, so it also tells whether a stored name is this one.
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join(
        c for c in text if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    )
    text = text.translate({ord("/"): "-", ord("\\"): "-", ord('"'): "'"}).strip().lstrip(".")
    stem, dot, extension = text.rpartition(".")
    if not dot or not stem or len(extension.encode()) > _EXTENSION_BYTES:
        stem, dot, extension = text, "", ""
    room = _NAME_BYTES - len((dot + extension).encode())
    short = stem.encode()[:room].decode(errors="ignore").strip()
    return unicodedata.normalize("NFC", short + dot + extension) if short else "document"


def _multipart(boundary: str, filename: str, mime_type: str) -> tuple[bytes, bytes]:
    """Return what goes before and after the file's bytes."""
    if not _MIME_TYPE.fullmatch(mime_type):
        mime_type = "application/octet-stream"
    # `purpose` stands first: fields after the file are refused.
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="purpose"\r\n\r\n'
        "assistants\r\n"
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        f"Content-Type: {mime_type}\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


async def _enclosed(
    head: bytes, content: AsyncIterable[bytes], tail: bytes, size: int | None
) -> AsyncIterator[bytes]:
    """Yield the multipart body; refuses to end it when the content is not `size` bytes."""
    yield head
    seen = 0
    async for chunk in content:
        seen += len(chunk)
        if size is not None and seen > size:
            break
        yield chunk
    if size is not None and seen != size:
        raise Transient(SYSTEM, "upload_file", detail=f"the content is not {size} bytes long")
    yield tail


def _with_version(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1") + "/v1"


def _path(operation: str, *parts: str) -> str:
    return "".join("/" + segment(SYSTEM, operation, part) for part in parts)


def _said(body: Any) -> tuple[str, str]:
    """Return code and message of an error body, in whichever of its shapes it came."""
    match body:
        case {"error": {**inner}}:
            said: Iterable[Any] = (inner.get("code") or inner.get("type"), inner.get("message"))
        case {**outer}:
            said = (outer.get("code"), outer.get("error") or outer.get("message"))
        case _:
            return "", ""
    code, message = (str(part) if isinstance(part, str | int) else "" for part in said)
    return "".join(c for c in code if c.isprintable())[:_DETAIL_CHARACTERS], message


def _unreadable(request: Request) -> Transient:
    return Transient(
        SYSTEM,
        request.operation,
        status=200,
        detail="the answer has not the shape that is documented",
        ambiguous=is_ambiguous(request),
    )


def _file(request: Request, answer: Mapping[str, Any]) -> XaiFile:
    size = _int(answer.get("bytes"))
    return XaiFile(
        id=_id(request, answer, "id", "file_id"),
        size=size if size is not None else _int(answer.get("size_bytes")),
        filename=_text(answer.get("filename")) or _text(answer.get("name")),
        created_at=_time(answer.get("created_at")),
    )


def _collection(request: Request, answer: Mapping[str, Any]) -> Collection:
    return Collection(
        id=_id(request, answer, "collection_id"),
        name=_text(answer.get("collection_name")),
        documents_count=_int(answer.get("documents_count")),
        created_at=_time(answer.get("created_at")),
        description=_text(answer.get("collection_description")),
    )


def _document(request: Request, answer: Mapping[str, Any]) -> CollectionDocument:
    about = answer.get("file_metadata")
    if not isinstance(about, dict):
        raise _unreadable(request)
    fields = answer.get("fields")
    return CollectionDocument(
        file_id=_id(request, about, "file_id"),
        status=_STATUS.get(_text(answer.get("status")), "processing"),
        name=_text(about.get("name")),
        size=_int(about.get("size_bytes")),
        hash=_text(about.get("hash")).lower(),
        created_at=_time(about.get("created_at")),
        error_message=_text(answer.get("error_message")),
        fields=(
            {str(key): _text(value) for key, value in fields.items()}
            if isinstance(fields, dict)
            else {}
        ),
    )


_STATUS: dict[str, IndexStatus] = {
    "DOCUMENT_STATUS_PROCESSED": "processed",
    "DOCUMENT_STATUS_FAILED": "failed",
}


def _id(request: Request, answer: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = answer.get(name)
        if isinstance(value, str) and value:
            return value
    raise _unreadable(request)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _int(value: Any) -> int | None:
    """Return a count that comes as a number or as its digits."""
    match value:
        case bool():
            return None
        case int() if value >= 0:
            return value
        case str() if re.fullmatch(r"[0-9]{1,18}", value):
            return int(value)
        case _:
            return None


def _time(value: Any) -> datetime | None:
    """Return an instant that comes as Unix seconds or as RFC 3339."""
    seconds = value if isinstance(value, float) else _int(value)
    try:
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC)
        stamp = datetime.fromisoformat(_text(value))
    except (ValueError, OverflowError, OSError):
        return None
    return stamp.astimezone(UTC) if stamp.tzinfo else stamp.replace(tzinfo=UTC)
