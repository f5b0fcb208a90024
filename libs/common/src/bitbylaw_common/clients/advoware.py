"""Advoware's REST API: any call streamed through, and the resources that we know, in its own words.

Property names are read without regard to case, because resources differ in it. What is wrong comes
as one `OutsideError`:

    Unauthorized  401 twice, and the texts that speak of licence, user or password
    Invalid       400, 403, 405, 413, 415, 422: this request will never be accepted
    NotFound      404: no such record. So answers a wrong ADVOWARE_PATH_PREFIX, too
    Conflict      409, 412, or another refusal of an old `rowId`: the record changed meanwhile
    RateLimited   429
    Transient     5xx, no answer (`TimedOut`: none in time), a torn one, one that cannot be read, and
                  the texts that say that the firm's server is away

Every method may raise these; a docstring names only what means something special there. A token that
Advoware does not accept any more is replaced and the request repeated once, whatever its method: it
was not carried out. Nothing else is repeated but GET, DELETE, and a PUT that carries a `rowId`.
Error texts never carry Advoware's sentences, which may repeat what was sent.
"""

import json
import re
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

from bitbylaw_common.clients.advoware_auth import SYSTEM, Token, Tokens, shared_tokens
from bitbylaw_common.clients.advoware_words import Trouble, trouble
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
from bitbylaw_common.http.answers import is_ambiguous, parsed, retry_after
from bitbylaw_common.http.transport import Body, Request, Response, Transport
from bitbylaw_common.settings import AdvowareSettings, RedisSettings

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

REPEATABLE_BYTES = 256 * 1024
"""A streamed body that is no longer is read before it is sent, so that it can be sent again."""


class Record(Mapping[str, Any]):
    """A record as Advoware answered it; `record["betNr"]` finds "BetNr" as well.

    Records inside of it are records too, in tuples. Personal: never log one.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: _wrapped(value) for name, value in values.items()}
        self._names = {name.lower(): name for name in values}

    def __getitem__(self, name: str) -> Any:
        return self._values[self._names[name.lower()]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._names

    def __repr__(self) -> str:
        return f"Record({', '.join(self._values)})"

    @property
    def row_id(self) -> str:
        """The version of the record, to be compared for equality only; empty when it has none."""
        value = self.get("rowId")
        return value if isinstance(value, str) else ""

    def overlaid(self, values: Mapping[str, Any]) -> "Record":
        """Return the record with these values, each under the name as Advoware spells it."""
        spelt = {self._names.get(name.lower(), name): value for name, value in values.items()}
        return Record({**self._values, **spelt})

    def without(self, *names: str) -> "Record":
        """Return the record without these properties."""
        gone = {name.lower() for name in names}
        return Record({n: value for n, value in self._values.items() if n.lower() not in gone})

    def plain(self) -> dict[str, Any]:
        """Return it as JSON takes it, every name as Advoware spelt it."""
        return {name: _plain(value) for name, value in self._values.items()}


class Answer:
    """The answer to `Advoware.call`, on its way; lives inside its `async with`.

    Attributes:
        request: as it went; its headers hold the token.
        status: the HTTP status, whichever it is.
        headers: the headers; names compare without case.
    """

    def __init__(self, request: Request, response: Response) -> None:
        self.status = response.status
        self.headers = response.headers
        self.request = request
        self._rest = response.chunks()
        self._head: list[bytes] = []
        self._ended = False
        self._torn: Transient | None = None

    async def peek(self, limit: int) -> bytes:
        """Return at least `limit` bytes of the body's beginning, or all there is; it stays unread.

        One that breaks off is found to when it is read: its status has told already what it is.
        """
        while not self._ended and sum(map(len, self._head)) < limit:
            try:
                self._head.append(await anext(self._rest))
            except StopAsyncIteration:
                self._ended = True
            except Transient as torn:
                self._ended, self._torn = True, torn
        return b"".join(self._head)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces of at most 256 KiB, once.

        Raises:
            Transient: it ended before its announced length.
        """
        while self._head:
            yield self._head.pop(0)
        if self._torn is not None:
            raise self._torn
        if not self._ended:
            async for chunk in self._rest:
                yield chunk

    async def read(self, limit: int = 32 * 1024 * 1024) -> bytes:
        """Return the whole body.

        Raises:
            Transient: it ended early, or is larger than `limit` bytes.
        """
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise _unread(self, f"it is larger than {limit} bytes")
        return bytes(body)


class Advoware:
    """A client of one firm's Advoware. Keeps no connection, and no state but what `tokens` keep.

    Args:
        transport: carries the requests.
        tokens: where the API is, and what it lets us in with.
        path_prefix: goes before the path of a resource: "api/v1/advonet/".
        clock: measures a `Retry-After` that is a date.
        timeout_seconds: for one call.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        tokens: Tokens,
        path_prefix: str,
        clock: Clock,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._transport = transport
        self._tokens = tokens
        self._path_prefix = path_prefix
        self._clock = clock
        self._timeout_seconds = timeout_seconds

    # ---- any call

    def call(
        self,
        method: Method,
        path: str,
        *,
        query: Sequence[tuple[str, str]] | str = (),
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        timeout_seconds: float | None = None,
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a call as it is, for a block that has its answer, whatever the status; both are streamed.

        Only GET is repeated by itself when no answer came. A body that is longer than 256 KiB and
        comes in chunks cannot be sent again: the token is compared with the other processes' before
        it is sent, and if it is refused all the same the call ends as a `Transient` that is not
        `ambiguous`, so that the caller may send it again.

        Args:
            method: the HTTP method.
            path: of the resource as text, not percent-encoded: "Beteiligte/104860". One that
                begins with "api/" is taken as it is, else the prefix goes before it.
            query: pairs, in their order; or a text that is encoded already and goes byte for byte
                (as `Request.query`).
            headers: to send along, such as `Content-Type`. `Authorization` is ours, and what
                belongs to a single connection is left out.
            body: bytes, or chunks.
            timeout_seconds: up to the last byte of the answer; the client's own when None.

        Raises:
            Invalid: the path would leave the API; nothing was sent.
            HeldBack: the transport spares Advoware; nothing was sent.
            Unauthorized: our login is not accepted, or the answer says that licence, user or
                password are wrong.
            Transient: no answer came (`TimedOut`: in time), or it says that the firm's server is
                away. `ambiguous` when the call may have been carried out.
        """
        given = headers or {}
        call = _Call(
            operation=f"call_{method.lower()}",
            method=method,
            path=resource_path(self._path_prefix, path),
            params=() if isinstance(query, str) else tuple(query),
            query=query if isinstance(query, str) else "",
            headers=_forwarded(given),
            timeout_seconds=timeout_seconds or self._timeout_seconds,
            idempotent=method == "GET",
            length=next((v for n, v in given.items() if n.lower() == "content-length"), ""),
        )
        return self._sent(call, body)

    # ---- Beteiligte

    async def beteiligter(self, betnr: int) -> Record:
        """Return a party: its master data, with `kommunikation` in it.

        Raises:
            NotFound: it does not exist, or was deleted.
            Transient: another party came; the path or the number was not understood.
        """
        call = self._call("get_beteiligter", "GET", f"Beteiligte/{betnr}")
        return await self._one(call, "betNr", betnr)

    async def beteiligte(self, query: Mapping[str, str]) -> tuple[Record, ...]:
        """Return the parties that Advoware finds.

        Args:
            query: parameters by Advoware's names. One that it does not know is ignored, so compare
                what comes back with what was asked for.
        """
        return await self._many(self._call("find_beteiligte", "GET", "Beteiligte", query))

    async def create_beteiligter(self, values: Mapping[str, Any]) -> Record:
        """Create a party and return what Advoware answers, with `betNr` and `rowId`.

        Raises:
            OutsideError: where `ambiguous`, look for it before creating it again.
        """
        return await self._created(self._call("create_beteiligter", "POST", "Beteiligte"), values)

    async def update_beteiligter(self, betnr: int, record: Mapping[str, Any]) -> Record | None:
        """Write a party, the whole record with the `rowId` it was read with.

        Advoware ignores some of its properties without a word: read again and compare.

        Returns:
            The record as Advoware answers it; None when it answers none.

        Raises:
            Conflict: it has another `rowId` now; load and plan again.
            NotFound: it does not exist, or was deleted.
        """
        call = self._call("update_beteiligter", "PUT", f"Beteiligte/{betnr}")
        return await self._updated(call, record, lambda: self.beteiligter(betnr))

    # ---- Kommunikationen

    async def create_kommunikation(self, betnr: int, values: Mapping[str, Any]) -> Record:
        """Add a row: `tlf`, `bemerkung`, `kommKz`, `online`; return it with `id` and `rowId`.

        Raises:
            OutsideError: where `ambiguous`, look for it before adding it again.
        """
        path = f"Beteiligte/{betnr}/Kommunikationen"
        return await self._created(self._call("create_kommunikation", "POST", path), values)

    async def update_kommunikation(
        self, betnr: int, kommunikation_id: int, values: Mapping[str, Any]
    ) -> Record | None:
        """Write `tlf`, `bemerkung` and `online`; `kommKz` stays as it is. No row can be deleted.

        Returns:
            The row as Advoware answers it; None when it answers none.
        """
        path = f"Beteiligte/{betnr}/Kommunikationen/{kommunikation_id}"
        call = self._call("update_kommunikation", "PUT", path)

        async def now() -> Record:
            party = await self.beteiligter(betnr)
            return _by_id(party.get("kommunikation", ()), kommunikation_id)

        return await self._updated(call, values, now)

    # ---- Adressen

    async def adressen(self, betnr: int) -> tuple[Record, ...]:
        """Return a party's addresses."""
        return await self._many(self._call("adressen", "GET", f"Beteiligte/{betnr}/Adressen"))

    async def create_adresse(self, betnr: int, values: Mapping[str, Any]) -> Record:
        """Add an address, with every property it is ever to have, and return it.

        Raises:
            OutsideError: where `ambiguous`, look for it before adding it again.
        """
        path = f"Beteiligte/{betnr}/Adressen"
        return await self._created(self._call("create_adresse", "POST", path), values)

    async def update_adresse(
        self, betnr: int, adresse_id: int, values: Mapping[str, Any]
    ) -> Record | None:
        """Write `strasse`, `plz`, `ort` and `anschrift`; all else stays. None can be deleted.

        Args:
            betnr: the party.
            adresse_id: what names an address in a path: its `id`, as far as is known.
            values: the properties.

        Returns:
            The address as Advoware answers it; None when it answers none.
        """
        path = f"Beteiligte/{betnr}/Adressen/{adresse_id}"
        call = self._call("update_adresse", "PUT", path)

        async def now() -> Record:
            return _by_id(await self.adressen(betnr), adresse_id)

        return await self._updated(call, values, now)

    # ---- Bankverbindungen

    async def bankverbindungen(self, betnr: int) -> tuple[Record, ...]:
        """Return a party's bank accounts."""
        path = f"Beteiligte/{betnr}/Bankverbindungen"
        return await self._many(self._call("bankverbindungen", "GET", path))

    async def create_bankverbindung(self, betnr: int, values: Mapping[str, Any]) -> Record:
        """Add a bank account and return it. Only people can change or delete it.

        Raises:
            OutsideError: where `ambiguous`, look for it before adding it again.
        """
        path = f"Beteiligte/{betnr}/Bankverbindungen"
        return await self._created(self._call("create_bankverbindung", "POST", path), values)

    # ---- Termine

    async def termine(self, *, kuerzel: str, start: date, end: date) -> tuple[Record, ...]:
        """Return the Termine of an employee, or of "Allgemein", from `start` to `end`.

        Rows with a negative `frNr` are derived from others and cannot be written.
        """
        window = {"from": start.isoformat(), "to": end.isoformat(), "kuerzel": kuerzel}
        return await self._many(self._call("termine", "GET", "Termine", window))

    async def termin(self, frnr: int) -> Record:
        """Return one Termin.

        Raises:
            NotFound: it does not exist, or was deleted.
            Transient: others came, because the number was not applied.
        """
        return await self._one(self._termin("get_termin", "GET", frnr), "frNr", frnr)

    async def create_termin(self, values: Mapping[str, Any]) -> int:
        """Create a Termin and return its `frNr`.

        Raises:
            OutsideError: where `ambiguous`, look for it before creating it again.
        """
        call = self._call("create_termin", "POST", "Termine")
        async with self._sent(call, _json(values)) as answer:
            value = await self._judged(answer)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            found = _first(value)
            number = found.get("frNr") if found is not None else None
            if not isinstance(number, int):
                raise _unread(answer, "it holds no frNr")
            return number

    async def update_termin(self, frnr: int, record: Mapping[str, Any]) -> Record | None:
        """Write a Termin, the whole record as it was read with the new values in it.

        `uhrzeitBisTicks` is left out, because it would take precedence over `uhrzeitBis`.

        Returns:
            The record as Advoware answers it; None when it answers none.

        Raises:
            Conflict: it has another `rowId` now; load and plan again.
            NotFound: it does not exist, or was deleted.
        """
        whole = Record(record).without("uhrzeitBisTicks")
        call = self._termin("update_termin", "PUT", frnr)
        return await self._updated(call, whole, lambda: self.termin(frnr))

    async def delete_termin(self, frnr: int) -> bool:
        """Delete a Termin; may be repeated.

        Returns:
            True when Advoware says that it did, False when it was not there.
        """
        call = self._termin("delete_termin", "DELETE", frnr)
        try:
            async with self._sent(call, None) as answer:
                await self._judged(answer)
        except NotFound:
            return False
        return True

    # ---- the firm

    async def employees(self) -> tuple[Record, ...]:
        """Return the firm's employees, each with its `kuerzel`."""
        return await self._many(self._call("employees", "GET", "employees"))

    async def check(self) -> None:
        """Return when Advoware lets us in and the firm's server answers: the cheap check.

        One read of one employee, always the same; what circuits probe with.
        """
        await self._many(self._call("check", "GET", "employees", {"limit": "1"}))

    # ---- one call

    def _call(
        self, operation: str, method: Method, path: str, query: Mapping[str, str] | None = None
    ) -> "_Call":
        return _Call(
            operation=operation,
            method=method,
            path=resource_path(self._path_prefix, path),
            params=tuple((query or {}).items()),
            headers={},
            timeout_seconds=self._timeout_seconds,
            idempotent=method in ("GET", "DELETE"),
        )

    def _termin(self, operation: str, method: Method, frnr: int) -> "_Call":
        # in small letters: "frNr" is ignored, and the call would be about every Termin
        return self._call(operation, method, "Termine", {"frnr": str(frnr)})

    async def _one(self, call: "_Call", key: str, number: int) -> Record:
        async with self._sent(call, None) as answer:
            rows = _rows(answer, await self._judged(answer))
            if not rows:
                raise NotFound(SYSTEM, call.operation, status=answer.status, detail="nothing came")
            for row in rows:
                if str(row.get(key, number if len(rows) == 1 else "")) == str(number):
                    return row
            raise _unread(answer, f"it is about another {key} than the one asked")

    async def _many(self, call: "_Call") -> tuple[Record, ...]:
        async with self._sent(call, None) as answer:
            return _rows(answer, await self._judged(answer))

    async def _created(self, call: "_Call", values: Mapping[str, Any]) -> Record:
        async with self._sent(call, _json(values)) as answer:
            found = _first(await self._judged(answer))
            if found is None:
                raise _unread(answer, "it holds no record")
            return found

    async def _updated(
        self, call: "_Call", values: Mapping[str, Any], now: Callable[[], Awaitable[Record]]
    ) -> Record | None:
        """Write `values`; `now` reads the record as it is.

        An old version may be refused with a status that says nothing of it, so that the record
        itself is asked then.
        """
        version = Record(values).row_id
        # a second write with the same version is refused, so it covers nobody's change
        call = replace(call, idempotent=bool(version))
        try:
            async with self._sent(call, _json(values)) as answer:
                return _first(await self._judged(answer))
        except (Invalid, Transient) as refused:
            if not version or refused.status not in (400, 500):
                raise
            try:
                current = await now()
            except OutsideError:
                raise refused from None
            if current.row_id == version:
                raise
            raise _modified(call.operation, refused.status) from None

    def _sent(self, call: "_Call", body: Body) -> "_Sending":
        """Return a block that has the answer.

        Raises:
            OutsideError: no answer came, or it is about the login or the firm's server.
        """
        return _Sending(self._transport, self._tokens, call, body)

    async def _judged(self, answer: Answer) -> Any:
        """Return the JSON of an answer that says that it was done; None where it is empty.

        Raises:
            OutsideError: any other answer, as the module says.
        """
        if answer.status >= 300:
            patience = retry_after(answer.headers, self._clock.now())
            raise _error(answer, await answer.peek(_WORDS_BYTES), patience)
        body = (await answer.read()).strip()
        value = parsed(body)
        if value is None and body not in (b"", b"null"):
            raise _unread(answer, "it is no JSON")
        return value


class _TokenRefused(OutsideError):  # noqa: N818 - it names a fact, not a mistake
    """The token is not accepted any more; another is got, so no circuit need know."""


class _Sending:
    """One call on its way, as a context; a refused token is replaced once.

    Plain methods where generators would be shorter: people wait for what passes here.
    """

    __slots__ = ("_body", "_call", "_sending", "_tokens", "_transport")

    def __init__(self, transport: Transport, tokens: Tokens, call: "_Call", body: Body) -> None:
        self._transport = transport
        self._tokens = tokens
        self._call = call
        self._body = body

    async def __aenter__(self) -> Answer:
        call, body = self._call, await _held(self._body)
        token = await self._tokens.current(compared=isinstance(body, _Stream))
        try:
            return await self._tried(body, token, last=False)
        except _TokenRefused:
            token = await self._tokens.instead_of(token)
        if isinstance(body, _Stream) and body.begun:
            raise Transient(
                SYSTEM,
                call.operation,
                status=401,
                detail="the token had ended, and the body cannot be sent again; nothing was done",
            )
        return await self._tried(body, token, last=True)

    async def _tried(self, body: "bytes | _Stream | None", token: Token, *, last: bool) -> Answer:
        request = self._call.request(await self._tokens.api(), token, body)
        try:
            sending = self._transport.send(request)
            response = await sending.__aenter__()
        except Transient:
            self._tokens.doubt()
            raise
        answer = Answer(request, response)
        try:
            await _admit(answer, last=last)
        except BaseException as refused:
            await sending.__aexit__(type(refused), refused, refused.__traceback__)
            raise
        self._sending = sending
        return answer

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._sending.__aexit__(kind, error, trace)


async def _admit(answer: Answer, *, last: bool) -> None:
    """Return when the answer is one to the call itself, not one about the way there.

    Raises:
        _TokenRefused: the token is not accepted, and another may be.
        Unauthorized: nor was the second, or licence, user or password are refused.
        Transient: the firm's server is away.
    """
    status = answer.status
    known = await _way_there(answer)
    if known is not None:
        kind = Unauthorized if known.lasting else Transient
        raise kind(SYSTEM, answer.request.operation, status=status, detail=known.words)
    if status == HTTPStatus.UNAUTHORIZED:
        if not last:
            raise _TokenRefused(SYSTEM, answer.request.operation, status=status)
        raise Unauthorized(
            SYSTEM, answer.request.operation, status=status, detail="a new token is not accepted"
        )


class _Stream:
    """A body in chunks that can be taken once; knows whether it was begun."""

    def __init__(self, head: Sequence[bytes], rest: AsyncIterator[bytes]) -> None:
        self._head = head
        self._rest = rest
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        for chunk in self._head:
            yield chunk
        async for chunk in self._rest:
            yield chunk


@dataclass(frozen=True, slots=True)
class _Call:
    """A request without its token, body and address; `length` is the caller's word on a body."""

    operation: str
    method: Method
    path: str
    params: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    timeout_seconds: float
    idempotent: bool
    query: str = ""
    length: str = ""

    def request(self, api: str, token: Token, body: bytes | _Stream | None) -> Request:
        headers = dict(self.headers)
        given = {name.lower() for name in headers}
        for name in ("Accept", "Content-Type") if body is not None else ("Accept",):
            if name.lower() not in given:
                headers[name] = "application/json"
        if isinstance(body, _Stream) and self.length.isdecimal():
            headers["Content-Length"] = self.length
        headers["Authorization"] = f"Bearer {token.value}"
        return Request(
            system=SYSTEM,
            operation=self.operation,
            method=self.method,
            url=f"{api}/{self.path}",
            params=self.params,
            query=self.query,
            headers=headers,
            body=body,
            timeout_seconds=self.timeout_seconds,
            idempotent=self.idempotent,
        )


async def _held(body: Body) -> bytes | _Stream | None:
    """Return a short body whole, so that it can be sent again; a long one as it comes."""
    if body is None or isinstance(body, bytes):
        return body
    chunks = aiter(body)
    head: list[bytes] = []
    size = 0
    async for chunk in chunks:
        head.append(chunk)
        size += len(chunk)
        if size > REPEATABLE_BYTES:
            return _Stream(head, chunks)
    return b"".join(head)


# -- paths and headers ----------------------------------------------------------------------------


def resource_path(prefix: str, path: str) -> str:
    """Return the path below the API's address, percent-encoded and without a slash before it.

    Args:
        prefix: goes before a path that does not begin with "api/".
        path: text as a person would write it, "Beteiligte/104860"; not percent-encoded.

    Raises:
        Invalid: it is empty, or names a host, another folder or a query.
    """
    segments = path.removeprefix("/").split("/")
    if not all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments):
        raise Invalid(SYSTEM, "resource_path", detail="this is no path of a resource")
    encoded = "/".join(quote(segment, safe=_SAFE) for segment in segments)
    return encoded if segments[0].lower() == "api" and len(segments) > 1 else prefix + encoded


_SEGMENT = re.compile(r"[^\x00-\x1f\x7f/\\?#]+")
_SAFE = "!$&'()*+,;=:@-._~"
_OURS = frozenset(
    [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)


def _forwarded(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers that may go along; names in a connection's own are left out, too."""
    listed = ",".join(value for name, value in headers.items() if name.lower() == "connection")
    left_out = _OURS | {name.strip().lower() for name in listed.split(",")}
    return {name: value for name, value in headers.items() if name.lower() not in left_out}


# -- answers --------------------------------------------------------------------------------------

_SHORT_BYTES = 512
_WORDS_BYTES = 16 * 1024
_MESSAGE = frozenset({"message", "messagedetail", "error", "detail", "title", "exceptionmessage"})
_FIELD = re.compile(r"[A-Za-z$][A-Za-z0-9_.$\[\]]{0,63}")


async def _way_there(answer: Answer) -> Trouble | None:
    """Return what an answer tells of the login or the firm's server; None when it is about the call.

    That may come with a status that means success, but not at length.
    """
    if answer.status >= 400:
        known = trouble((await answer.peek(_WORDS_BYTES))[:_WORDS_BYTES])
        # other refusals may repeat what a record says
        about_us = answer.status in (401, 403) or answer.status >= 500
        return known if known is None or about_us or not known.lasting else None
    body = await answer.peek(_SHORT_BYTES)
    if len(body) >= _SHORT_BYTES:
        return None
    value = parsed(body)
    is_message = value is None or isinstance(value, str) or _is_message(value)
    return trouble(body) if is_message else None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and {str(name).lower() for name in value} <= _MESSAGE


def _error(answer: Answer, body: bytes, patience: timedelta | None) -> OutsideError:
    """Return the error that an answer without success means; never with Advoware's own sentence."""
    request, status = answer.request, answer.status
    names = (SYSTEM, request.operation)
    if status in (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED):
        return _modified(request.operation, status)
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(*names, status=status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited(*names, retry_after=patience)
    if status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT:
        return Transient(*names, status=status, ambiguous=is_ambiguous(request))
    if status < 400:
        return _unread(answer, "another server seems to answer at this address")
    return Invalid(*names, status=status, detail=_fields(parsed(body)))


def _modified(operation: str, status: int | None) -> Conflict:
    return Conflict(SYSTEM, operation, status=status, reason="modified", detail="modified")


def _fields(body: Any) -> str:
    """Return which properties were refused, as far as the body says; names only, no value."""
    errors = body.get("errors") if isinstance(body, dict) else None
    names = sorted(n for n in errors if _FIELD.fullmatch(n)) if isinstance(errors, dict) else []
    return f"refused: {', '.join(names[:5])}" if names else ""


def _rows(answer: Answer, value: Any) -> tuple[Record, ...]:
    """Return the records of a list, in whichever form it comes.

    Raises:
        Transient: it is none.
    """
    if isinstance(value, dict):
        data = Record(value).get("data", value)
        value = value if data is value else _plain(data)
    rows = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise _unread(answer, "it is no list of records")
    return tuple(Record(row) for row in rows)


def _first(value: Any) -> Record | None:
    row = value[0] if isinstance(value, list) and value else value
    return Record(row) if isinstance(row, dict) and row else None


def _by_id(rows: Iterable[Record], number: int) -> Record:
    """Return the row with this `id`; an empty one, which has no version, where there is none."""
    return next((row for row in rows if row.get("id") == number), Record({}))


def _unread(answer: Answer, why: str) -> Transient:
    return Transient(
        SYSTEM,
        answer.request.operation,
        status=answer.status,
        detail=f"the answer is of no use: {why}",
        ambiguous=is_ambiguous(answer.request),
    )


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(_plain(values), ensure_ascii=False).encode()


def _wrapped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Record(value)
    return tuple(map(_wrapped, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# -- opening --------------------------------------------------------------------------------------


@asynccontextmanager
async def open_advoware(
    settings: AdvowareSettings, redis: RedisSettings, transport: Transport, clock: Clock
) -> AsyncIterator[Advoware]:
    """Open the client of the settings' firm; Redis may be away.

    Args:
        settings: where Advoware is and whose login it is.
        redis: where all processes share the token.
        transport: carries the requests, logins included; where it is guarded, declare the circuit
            with `circuits.declare(advoware.SYSTEM, client.check)`. Calls of people want a
            `GuardedTransport` with priority "interactive" of their own.
        clock: tells how old a token is.
    """
    async with shared_tokens(settings, redis, transport, clock) as tokens:
        yield Advoware(
            transport,
            tokens=tokens,
            path_prefix=settings.path_prefix,
            clock=clock,
            timeout_seconds=settings.timeout_seconds,
        )
