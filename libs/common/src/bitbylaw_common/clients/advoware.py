"""Advoware's REST API: any call streamed through, and the resources that we know, in its own words.

Property names are read without regard to case, because resources differ in it. What is wrong comes
as one `OutsideError`:

    Unauthorized  401 twice, and the texts that speak of licence, user or password
    Invalid       400, 403, 405, 413, 415, 422: this request will never be accepted
    NotFound      404: no such record. So answers a wrong ADVOWARE_PATH_PREFIX, too
    Conflict      409, 412, or another refusal that names the rowId: the record changed meanwhile
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
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote

from bitbylaw_common.clients.advoware_auth import SYSTEM, Token, Tokens, shared_tokens
from bitbylaw_common.clients.advoware_words import trouble
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
        status: the HTTP status, whichever it is.
        headers: the headers; names compare without case.
    """

    def __init__(self, response: Response) -> None:
        self.status = response.status
        self.headers = response.headers
        self._rest = response.chunks()
        self._head = b""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces of at most 256 KiB, once.

        Raises:
            Transient: it ended before its announced length.
        """
        return self._chunks()

    async def read(self, limit: int = 32 * 1024 * 1024) -> bytes:
        """Return the whole body.

        Raises:
            Transient: it ended early, or is larger than `limit` bytes.
        """
        raise NotImplementedError


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

    @asynccontextmanager
    async def call(
        self,
        method: Method,
        path: str,
        *,
        query: Sequence[tuple[str, str]] | str = (),
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[Answer]:
        """Send a call as it is and yield its answer, whatever the status; both are streamed.

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
        raise NotImplementedError
        yield Answer()

    # ---- Beteiligte

    async def beteiligter(self, betnr: int) -> Record:
        """Return a party: its master data, with `kommunikation` in it.

        Raises:
            NotFound: it does not exist, or was deleted.
            Transient: another party came; the path or the number was not understood.
        """
        raise NotImplementedError

    async def beteiligte(self, query: Mapping[str, str]) -> tuple[Record, ...]:
        """Return the parties that Advoware finds.

        Args:
            query: parameters by Advoware's names. One that it does not know is ignored, so compare
                what comes back with what was asked for.
        """
        raise NotImplementedError

    async def create_beteiligter(self, values: Mapping[str, Any]) -> Record:
        """Create a party and return what Advoware answers, with `betNr` and `rowId`.

        Raises:
            OutsideError: where `ambiguous`, look for it before creating it again.
        """
        raise NotImplementedError

    async def update_beteiligter(self, betnr: int, record: Mapping[str, Any]) -> Record | None:
        """Write a party, the whole record with the `rowId` it was read with.

        Advoware ignores some of its properties without a word: read again and compare.

        Returns:
            The record as Advoware answers it; None when it answers none.

        Raises:
            Conflict: it has another `rowId` now; load and plan again.
            NotFound: it does not exist, or was deleted.
        """
        raise NotImplementedError

    # ---- Kommunikationen

    async def create_kommunikation(self, betnr: int, values: Mapping[str, Any]) -> Record:
        """Add a row: `tlf`, `bemerkung`, `kommKz`, `online`; return it with `id` and `rowId`.

        Raises:
            OutsideError: where `ambiguous`, look for it before adding it again.
        """
        raise NotImplementedError

    async def update_kommunikation(
        self, betnr: int, kommunikation_id: int, values: Mapping[str, Any]
    ) -> Record | None:
        """Write `tlf`, `bemerkung` and `online`; `kommKz` stays as it is. No row can be deleted.

        Returns:
            The row as Advoware answers it; None when it answers none.
        """
        raise NotImplementedError

    # ---- Adressen

    async def adressen(self, betnr: int) -> tuple[Record, ...]:
        """Return a party's addresses."""
        raise NotImplementedError

    async def create_adresse(self, betnr: int, values: Mapping[str, Any]) -> Record:
        """Add an address, with every property it is ever to have, and return it.

        Raises:
            OutsideError: where `ambiguous`, look for it before adding it again.
        """
        raise NotImplementedError

    async def update_adresse(
        self, betnr: int, adresse_id: int, values: Mapping[str, Any]
    ) -> Record | None:
        """Write `strasse`, `plz`, `ort` and `anschrift`; all else stays. None can be deleted.

        Returns:
            The address as Advoware answers it; None when it answers none.
        """
        raise NotImplementedError

    # ---- Bankverbindungen

    async def bankverbindungen(self, betnr: int) -> tuple[Record, ...]:
        """Return a party's bank accounts."""
        raise NotImplementedError

    async def create_bankverbindung(self, betnr: int, values: Mapping[str, Any]) -> Record:
        """Add a bank account and return it. It can be changed and deleted by people only.

        Raises:
            OutsideError: where `ambiguous`, look for it before adding it again.
        """
        raise NotImplementedError

    # ---- Termine

    async def termine(self, *, kuerzel: str, start: date, end: date) -> tuple[Record, ...]:
        """Return the Termine of an employee, or of "Allgemein", from `start` to `end`.

        Rows with a negative `frNr` are derived from others and cannot be written.
        """
        raise NotImplementedError

    async def termin(self, frnr: int) -> Record:
        """Return one Termin.

        Raises:
            NotFound: it does not exist, or was deleted.
            Transient: others came, because the number was not applied.
        """
        raise NotImplementedError

    async def create_termin(self, values: Mapping[str, Any]) -> int:
        """Create a Termin and return its `frNr`.

        Raises:
            OutsideError: where `ambiguous`, look for it before creating it again.
        """
        raise NotImplementedError

    async def update_termin(self, frnr: int, record: Mapping[str, Any]) -> Record | None:
        """Write a Termin, the whole record as it was read with the new values in it.

        `uhrzeitBisTicks` is left out, because it would take precedence over `uhrzeitBis`.

        Returns:
            The record as Advoware answers it; None when it answers none.

        Raises:
            Conflict: it has another `rowId` now; load and plan again.
            NotFound: it does not exist, or was deleted.
        """
        raise NotImplementedError

    async def delete_termin(self, frnr: int) -> bool:
        """Delete a Termin; may be repeated.

        Returns:
            True when Advoware says that it did, False when it was not there.
        """
        raise NotImplementedError

    # ---- the firm

    async def employees(self) -> tuple[Record, ...]:
        """Return the firm's employees, each with its `kuerzel`."""
        raise NotImplementedError

    async def check(self) -> None:
        """Return when Advoware lets us in and the firm's server answers: the cheap check.

        One read of one employee, always the same; what circuits probe with.
        """
        raise NotImplementedError


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
    raise NotImplementedError
    yield
