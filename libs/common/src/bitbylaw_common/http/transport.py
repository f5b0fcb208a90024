"""The one seam to outside HTTP systems: clients speak to a `Transport`, tests put their own."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

Body = bytes | AsyncIterable[bytes] | None


@dataclass(frozen=True, slots=True)
class Request:
    """One call to make.

    Attributes:
        system: who is asked, for metrics and errors: "espocrm", "xai".
        operation: what is asked, without ids: "get_entity".
        method: GET, POST, PUT, PATCH or DELETE.
        url: absolute, without query.
        params: the query, in order; a name may repeat.
        query: more of it, encoded already: goes before `params`, byte for byte.
        headers: as they go on the wire. Secrets live here only and are never logged.
        body: bytes, or chunks to stream; a stream makes the request impossible to repeat.
        timeout_seconds: for the whole exchange up to the last byte of the answer.
        idempotent: may be sent again by itself when no answer came.
    """

    system: str
    operation: str
    method: str
    url: str
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Body = field(default=None, repr=False)
    timeout_seconds: float = 30.0
    idempotent: bool = False
    query: str = field(default="", repr=False)


class Response(Protocol):
    """An answer whose body has not been read yet."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names compare without case."""
        ...

    async def read(self, limit: int = 32 * 1024 * 1024) -> bytes:
        """Return the whole body.

        Raises:
            Transient: the body ended early or is larger than `limit` bytes.
        """
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces of at most 256 KiB; each may be taken once.

        Raises:
            Transient: the body ended before its announced length.
        """
        ...


class Transport(Protocol):
    """Something that carries a request to an outside system and brings the answer."""

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Send; the answer lives inside the `async with`.

        Any HTTP status is an answer, not an error: the client judges it.

        Raises:
            Transient: no answer came (refused, reset); `TimedOut` when none came in time.
                `ambiguous` is True when the request may have been carried out: it was sent and is
                not idempotent.
        """
        ...
