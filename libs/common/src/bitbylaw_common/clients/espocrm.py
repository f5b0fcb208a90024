"""EspoCRM's REST API: records, links, attachments and metadata, in the API's own words.

Answers come back as mappings; an adapter parses them. What is wrong comes as one `OutsideError`:

    Unauthorized  401, and the 403 that bans an address after too many failed logins: never repeat
    Invalid       400, any other 403, a 409 of validation: this request will never be accepted
    NotFound      404: no such record, link or entity type; a deleted record too
    Conflict      409 with reason "modified"; `Duplicate` (reason "duplicate") names the others
    RateLimited   429, which only a gateway before the CRM answers
    Transient     5xx, no answer, a torn one, one that is no JSON

Every method may raise these; a docstring names only what means something special there.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any

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
from bitbylaw_common.http.transport import Request, Response, Transport

SYSTEM = "espocrm"
PAGE_SIZE = 200
"""The most rows that EspoCRM gives at once; more is answered 403."""

_PAGES_AT_MOST = 5_000
_RESTARTS_AT_MOST = 3
_DETAIL_CHARACTERS = 200
_QUOTES = "\"'`\u00b4\u2018-\u201f\u00ab\u00bb"
"""Straight, typographic and angled quotation marks, for use between brackets of a pattern."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class Duplicate(Conflict):
    """The record to create exists already.

    Attributes:
        ids: up to five records that EspoCRM takes for the same.
    """

    def __init__(self, operation: str, ids: tuple[str, ...]) -> None:
        super().__init__(SYSTEM, operation, reason="duplicate", detail="duplicate")
        self.ids = ids


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list.

    Attributes:
        rows: at most 200 records, with the attributes that were selected.
        total: how many there are in all; -1 when it was not counted and there are more, -2 when it
            was not counted and these are the last.
    """

    rows: tuple[Mapping[str, Any], ...]
    total: int


class Download:
    """The bytes of an attachment, on their way; lives inside its `async with`.

    Attributes:
        size: bytes announced; None when the server did not say.
        content_type: the MIME type, "application/octet-stream" when the server did not say.
        name: the file's name; empty when the server did not say. Personal: never log it.
    """

    def __init__(self, request: Request, response: Response) -> None:
        self._request = request
        self._response = response
        self.size = _size(response.headers)
        self.content_type = (
            response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            or "application/octet-stream"
        )
        self.name = _file_name(response.headers.get("Content-Disposition", ""))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes in pieces of at most 256 KiB, once.

        Raises:
            Transient: there were fewer or more than `size`.
        """
        seen = 0
        async for chunk in self._response.chunks():
            seen += len(chunk)
            yield chunk
        if self.size is not None and seen != self.size:
            raise Transient(
                SYSTEM,
                self._request.operation,
                status=self._response.status,
                detail=f"{seen} bytes came, {self.size} were announced",
            )


class EspoCRM:
    """A client of one EspoCRM. Keeps no connection and no state but the metadata it has read.

    Args:
        transport: carries the requests.
        base_url: up to and with the version: "https://crm.example/api/v1".
        api_key: of an API user, sent as `X-Api-Key`.
        clock: tells how old cached metadata is.
        timeout_seconds: for one call.
        download_timeout_seconds: for one attachment, from the request to its last byte.
        metadata_ttl_seconds: how long `metadata` is answered from memory.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        base_url: str,
        api_key: str,
        clock: Clock,
        timeout_seconds: float = 30.0,
        download_timeout_seconds: float = 120.0,
        metadata_ttl_seconds: float = 300.0,
    ) -> None:
        self._transport = transport
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._download_timeout_seconds = download_timeout_seconds
        self._metadata_ttl_seconds = metadata_ttl_seconds
        self._metadata: dict[str, tuple[float, Any]] = {}
        self._metadata_lock = asyncio.Lock()

    # ---- records

    async def get_entity(self, entity_type: str, entity_id: str) -> Mapping[str, Any]:
        """Return the record's attributes.

        Raises:
            NotFound: it does not exist or was deleted.
        """
        path = self._path("get_entity", entity_type, entity_id)
        return await self._object(self._request("get_entity", "GET", path, idempotent=True))

    async def update_entity(
        self,
        entity_type: str,
        entity_id: str,
        values: Mapping[str, Any],
        *,
        version: int | None = None,
    ) -> Mapping[str, Any]:
        """Write these attributes, leave the others, and return the record as it is then.

        Args:
            entity_type: EspoCRM's name of the entity, such as "CDokumente".
            entity_id: the record.
            values: attributes to write.
            version: the record's `versionNumber` when it was read. With it a lost answer is
                repeated safely; without it a second write might cover what a person wrote in
                between, so it is not repeated and the error is `ambiguous`.

        Raises:
            Conflict: reason "modified": another version is stored, and one of `values` differs
                from it. Load and plan again.
            NotFound: it does not exist or was deleted.
        """
        path = self._path("update_entity", entity_type, entity_id)
        return await self._object(
            self._request(
                "update_entity",
                "PUT",
                path,
                body=values,
                headers={} if version is None else {"X-Version-Number": str(version)},
                idempotent=version is not None,
            )
        )

    async def create_entity(
        self, entity_type: str, values: Mapping[str, Any], *, skip_duplicate_check: bool = False
    ) -> Mapping[str, Any]:
        """Create a record and return it, with its id. Never repeated by itself.

        Raises:
            Duplicate: EspoCRM takes other records for the same; adopt one of `ids`.
            OutsideError: where `ambiguous`, look for the record before creating it again.
        """
        path = self._path("create_entity", entity_type)
        return await self._object(
            self._request(
                "create_entity",
                "POST",
                path,
                body=values,
                headers={"X-Skip-Duplicate-Check": "true"} if skip_duplicate_check else {},
                idempotent=False,
            )
        )

    # ---- lists

    async def list_entities(
        self,
        entity_type: str,
        *,
        where: Sequence[Mapping[str, Any]] = (),
        select: str | Sequence[str] = (),
        order_by: str | None = None,
        order: str = "asc",
        offset: int = 0,
        max_size: int = PAGE_SIZE,
        count: bool = True,
    ) -> Page:
        """Return one page of the records that fit.

        Args:
            entity_type: EspoCRM's name of the entity.
            where: conditions that must all hold, as EspoCRM writes them:
                `{"type": "equals", "attribute": "fileStatus", "value": "neu"}`.
            select: the attributes wanted, as a sequence or "id,name"; all when empty.
            order_by: an attribute; the entity's own order when None.
            order: "asc" or "desc".
            offset: rows to leave out at the beginning.
            max_size: rows wanted, at most 200.
            count: let EspoCRM count the total; without it big tables answer faster.
        """
        path = self._path("list_entities", entity_type)
        query = _list_query(
            where=where,
            select=select,
            order_by=order_by,
            order=order,
            offset=offset,
            max_size=max_size,
        )
        return await self._page("list_entities", path, query, count=count)

    def list_all(
        self,
        entity_type: str,
        *,
        where: Sequence[Mapping[str, Any]] = (),
        select: str | Sequence[str] = (),
        order_by: str = "createdAt",
        order: str = "asc",
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yield every record that fits, page after page, each once.

        Rows that vanish or move while it reads shift the pages; it notices and reads again from
        the beginning, yielding only what it has not yielded yet. In the default order a row that
        existed all the time is never missed. A record edited meanwhile may come twice when
        `modifiedAt` is among `select`.

        Raises:
            Transient: the rows moved again and again, so no reading was complete.
        """

        async def page(offset: int) -> Page:
            return await self.list_entities(
                entity_type,
                where=where,
                select=_with_id(select),
                order_by=order_by,
                order=order,
                offset=offset,
                count=False,
            )

        return _all("list_all", page)

    async def list_linked(
        self,
        entity_type: str,
        entity_id: str,
        link: str,
        *,
        where: Sequence[Mapping[str, Any]] = (),
        select: str | Sequence[str] = (),
        order_by: str | None = None,
        order: str = "asc",
        offset: int = 0,
        max_size: int = PAGE_SIZE,
        count: bool = True,
    ) -> Page:
        """Return one page of the records behind a link; arguments as in `list_entities`.

        Raises:
            NotFound: the record or the link does not exist.
        """
        path = self._path("list_linked", entity_type, entity_id, link)
        query = _list_query(
            where=where,
            select=select,
            order_by=order_by,
            order=order,
            offset=offset,
            max_size=max_size,
        )
        return await self._page("list_linked", path, query, count=count)

    def list_all_linked(
        self,
        entity_type: str,
        entity_id: str,
        link: str,
        *,
        select: str | Sequence[str] = (),
        order_by: str = "createdAt",
        order: str = "asc",
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yield every record behind a link, each once, as completely as `list_all`.

        Raises:
            NotFound: the record or the link does not exist.
            Transient: as `list_all`.
        """

        async def page(offset: int) -> Page:
            return await self.list_linked(
                entity_type,
                entity_id,
                link,
                select=_with_id(select),
                order_by=order_by,
                order=order,
                offset=offset,
                count=False,
            )

        return _all("list_all_linked", page)

    # ---- links

    async def link(
        self, entity_type: str, entity_id: str, link: str, foreign_ids: Sequence[str]
    ) -> None:
        """Link these records; what is linked already stays so. May be repeated.

        Fires no webhook and leaves `modifiedAt` as it is, on both sides.

        Raises:
            Invalid: the link is one that is set by writing its `...Id` attribute.
            NotFound: the record or the link does not exist.
        """
        path = self._path("link", entity_type, entity_id, link)
        body = {"ids": list(foreign_ids)}
        await self._done(self._request("link", "POST", path, body=body, idempotent=True))

    async def unlink(self, entity_type: str, entity_id: str, link: str, foreign_id: str) -> None:
        """Unlink this record; one that is not linked counts as done. May be repeated.

        Raises:
            NotFound: the record or the link does not exist.
        """
        path = self._path("unlink", entity_type, entity_id, link)
        body = {"id": foreign_id}
        await self._done(self._request("unlink", "DELETE", path, body=body, idempotent=True))

    # ---- attachments

    async def attachment(self, attachment_id: str) -> Mapping[str, Any]:
        """Return what EspoCRM says of an attachment: `name`, `type`, `size`, its parent.

        Raises:
            NotFound: it does not exist.
        """
        path = self._path("attachment", "Attachment", attachment_id)
        return await self._object(self._request("attachment", "GET", path, idempotent=True))

    @asynccontextmanager
    async def download_attachment(self, attachment_id: str) -> AsyncIterator[Download]:
        """Open an attachment's bytes; they are streamed and never all in memory.

        The bytes behind an id never change: a replaced file is another attachment.

        Raises:
            NotFound: it does not exist.
        """
        path = self._path("download_attachment", "Attachment", "file", attachment_id)
        request = self._request(
            "download_attachment",
            "GET",
            path,
            timeout_seconds=self._download_timeout_seconds,
            idempotent=True,
        )
        async with self._transport.send(request) as response:
            await self._judge(request, response)
            yield Download(request, response)

    # ---- the CRM itself

    async def metadata(self, key: str) -> Any:
        """Return one part of the metadata, such as "entityDefs.CDokumente"; None when there is none.

        Read once per `metadata_ttl_seconds`, however many ask. Do not change what comes back.
        """
        async with self._metadata_lock:
            read_at, value = self._metadata.get(key, (None, None))
            now = self._clock.monotonic()
            if read_at is None or now - read_at >= self._metadata_ttl_seconds:
                request = self._request(
                    "metadata", "GET", "/Metadata", params=(("key", key),), idempotent=True
                )
                async with self._transport.send(request) as response:
                    await self._judge(request, response)
                    body = await response.read()
                value = parsed(body)
                if value is None and body.strip() not in (b"", b"null"):
                    raise Transient(SYSTEM, "metadata", status=200, detail="the body is no JSON")
                self._metadata[key] = (now, value)
            return value

    async def app_user(self) -> Mapping[str, Any]:
        """Return who the key belongs to, under "user": the cheap check of address and key.

        Raises:
            Unauthorized: the key is wrong. Ask at most once a minute: EspoCRM bans an address
                after ten failed logins in one.
        """
        return await self._object(self._request("app_user", "GET", "/App/user", idempotent=True))

    # ---- one call

    def _path(self, operation: str, *parts: str) -> str:
        return "".join("/" + segment(SYSTEM, operation, part) for part in parts)

    def _request(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        idempotent: bool,
        params: tuple[tuple[str, str], ...] = (),
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> Request:
        wire = {"X-Api-Key": self._api_key, "Accept": "application/json", **(headers or {})}
        if body is not None:
            wire["Content-Type"] = "application/json"
        return Request(
            system=SYSTEM,
            operation=operation,
            method=method,
            url=self._base_url + path,
            params=params,
            headers=wire,
            body=None if body is None else json.dumps(body, ensure_ascii=False).encode(),
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

    async def _page(
        self, operation: str, path: str, query: Mapping[str, Any], *, count: bool
    ) -> Page:
        request = self._request(
            operation,
            "GET",
            path,
            params=bracketed(query),
            headers={} if count else {"X-No-Total": "true"},
            idempotent=True,
        )
        answer = await self._object(request)
        rows, total = answer.get("list"), answer.get("total")
        if (
            not isinstance(rows, list)
            or not isinstance(total, int)
            or not all(isinstance(row, dict) for row in rows)
        ):
            raise Transient(SYSTEM, operation, status=200, detail="the body is no list of records")
        return Page(tuple(rows), total)

    async def _judge(self, request: Request, response: Response) -> None:
        if response.status == 200:
            return
        patience = retry_after(response.headers, self._clock.now())
        reason = response.headers.get("X-Status-Reason", "").strip()
        body = parsed(await words(response))
        raise _error(request, response.status, reason, body, patience)


def bracketed(query: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return a nested query as PHP reads it: `where[0][attribute]=name`.

    True and False become 1 and 0, because PHP takes the word "false" for true; None is left out.
    """
    return tuple(pair for name, value in query.items() for pair in _flattened(name, value))


def _flattened(name: str, value: Any) -> list[tuple[str, str]]:
    match value:
        case None:
            return []
        case bool():
            return [(name, "1" if value else "0")]
        case str():
            return [(name, value)]
        case Mapping():
            return [p for key, item in value.items() for p in _flattened(f"{name}[{key}]", item)]
        case Sequence():
            return [p for at, item in enumerate(value) for p in _flattened(f"{name}[{at}]", item)]
        case _:
            return [(name, str(value))]


def _list_query(
    *,
    where: Sequence[Mapping[str, Any]],
    select: str | Sequence[str],
    order_by: str | None,
    order: str,
    offset: int,
    max_size: int,
) -> Mapping[str, Any]:
    if not 1 <= max_size <= PAGE_SIZE:
        raise ValueError(f"max_size is 1 to {PAGE_SIZE}, not {max_size}: read page after page")
    if order not in ("asc", "desc"):
        raise ValueError(f'order is "asc" or "desc", not {order!r}')
    return {
        "where": where,
        "select": (select if isinstance(select, str) else ",".join(select)) or None,
        "orderBy": order_by,
        "order": order if order_by is not None else None,
        "offset": offset,
        "maxSize": max_size,
    }


def _with_id(select: str | Sequence[str]) -> Sequence[str]:
    """Return the selection with the id in it, by which rows are told apart; all stays all."""
    names = [name for name in (select.split(",") if isinstance(select, str) else select) if name]
    return names if not names or "id" in names else ["id", *names]


async def _all(
    operation: str, page: Callable[[int], Awaitable[Page]]
) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the rows of all pages.

    Each page begins with the last row of the one before: another row there says that rows moved.
    """
    yielded: set[tuple[Any, Any]] = set()
    last: Any = None
    offset = restarts = 0
    for _ in range(_PAGES_AT_MOST):
        found = await page(offset)
        if last is not None and (not found.rows or found.rows[0].get("id") != last):
            restarts += 1
            if restarts > _RESTARTS_AT_MOST:
                break
            last, offset = None, 0
            continue
        for row in found.rows:
            mark = (row.get("id"), row.get("modifiedAt"))
            if mark not in yielded:
                yielded.add(mark)
                yield row
        end = offset + len(found.rows)
        more = found.total == -1 or (found.total >= 0 and end < found.total)
        if not more:
            return
        if end <= offset + 1:  # nothing new although there is more: it would go on for ever
            break
        last, offset = found.rows[-1].get("id"), end - 1
    raise Transient(SYSTEM, operation, status=200, detail="the rows moved, or the pages do not end")


def _error(request: Request, status: int, reason: str, body: Any, patience: Any) -> OutsideError:
    """Return the error that an answer other than 200 means."""
    operation = request.operation
    match status:
        case 401:
            return Unauthorized(SYSTEM, operation, status=status, detail="the key is not accepted")
        case 403 if "max failed login attempts" in reason.lower():
            return Unauthorized(
                SYSTEM, operation, status=status, detail="too many failed logins from this address"
            )
        case 404:
            return NotFound(SYSTEM, operation, status=status, detail=_harmless(reason))
        case 409:
            return _conflict(operation, reason, body)
        case 429:
            return RateLimited(SYSTEM, operation, retry_after=patience)
        case 400:
            detail = _validation(body) or _harmless(reason)
            return Invalid(SYSTEM, operation, status=status, detail=detail)
        case _ if status >= 500 or status == 408:
            return Transient(
                SYSTEM,
                operation,
                status=status,
                detail=_harmless(reason),
                ambiguous=is_ambiguous(request),
            )
        case _ if status < 400:
            return Transient(
                SYSTEM,
                operation,
                status=status,
                detail="another server seems to answer at this address; check ESPOCRM_API_BASE_URL",
                ambiguous=is_ambiguous(request),
            )
        case _:
            return Invalid(SYSTEM, operation, status=status, detail=_harmless(reason))


def _conflict(operation: str, reason: str, body: Any) -> OutsideError:
    word = reason.lower()
    if word == "duplicate" or (not word and isinstance(body, list)):
        rows = body if isinstance(body, list) else []
        ids = (row.get("id") for row in rows if isinstance(row, dict))
        return Duplicate(operation, tuple(found for found in ids if isinstance(found, str)))
    if word == "modified" or (not word and isinstance(body, dict) and "versionNumber" in body):
        return Conflict(SYSTEM, operation, reason="modified", detail="modified")
    detail = _validation(body) or _harmless(reason)
    return Invalid(SYSTEM, operation, status=409, detail=detail)


def _validation(body: Any) -> str:
    """Return which field was refused and why, as far as the body says; names only, no value."""
    match body:
        case {"messageTranslation": {"data": {"field": str() as field, **more}}} if _NAME.fullmatch(
            field
        ):
            kind = more.get("type")
            why = f" ({kind})" if isinstance(kind, str) and _NAME.fullmatch(kind) else ""
            return f"field {field}{why}"
        case _:
            return ""


def _harmless(reason: str) -> str:
    """Return EspoCRM's reason without what may be a value of a record.

    Its reasons are fixed English sentences. A value in them stands between quotes, or is a number,
    an address or no English word: all of that goes, rather too much than too little.
    """
    text = re.sub(f"[{_QUOTES}](.*[{_QUOTES}]|.*)", "…", reason)
    text = re.sub(r"[^\s…]*[^\x20-\x3f\x41-\x7e…][^\s…]*|[^\s…]*\d[^\s…]*", "…", text)
    return text[:_DETAIL_CHARACTERS].strip()


def _size(headers: Mapping[str, str]) -> int | None:
    """Return the bytes announced; None too when they are compressed, and so not comparable."""
    value = headers.get("Content-Length", "")
    if headers.get("Content-Encoding", "identity").lower() != "identity" or not value.isdecimal():
        return None
    return int(value)


def _file_name(disposition: str) -> str:
    message = Message()
    message["Content-Disposition"] = disposition.replace("\r", "").replace("\n", "")
    return message.get_filename("")
