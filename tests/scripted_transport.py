"""A `Transport` that behaves: a function of the test plays the server, faults included."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict

from bitbylaw_common.errors import Transient
from bitbylaw_common.http.transport import Request


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, as it came in: `path` begins after the host, `body` is complete."""

    request: Request
    path: str
    body: bytes

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def operation(self) -> str:
        return self.request.operation

    @property
    def params(self) -> dict[str, str]:
        return dict(self.request.params)

    @property
    def headers(self) -> Mapping[str, str]:
        return CIMultiDict(self.request.headers)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says. `torn` breaks off in the middle of the body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    torn: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer comes; `carried_out` says whether the request had arrived."""

    arrived: bool


def of(value: Any, status: int = 200, **headers: str) -> Answer:
    """Return a JSON answer; header names are given with underscores."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


class _Response:
    def __init__(self, request: Request, answer: Answer) -> None:
        self._request = request
        self._answer = answer
        self.status = answer.status
        self.headers: Mapping[str, str] = CIMultiDict(answer.headers)

    async def read(self, limit: int = 32 * 1024 * 1024) -> bytes:
        body = b"".join([chunk async for chunk in self.chunks()])
        assert len(body) <= limit
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        body = self._answer.body
        half = max(1, len(body) // 2)
        if body:
            yield body[:half]
        if self._answer.torn:
            raise Transient(
                self._request.system,
                self._request.operation,
                status=self.status,
                detail="the answer broke off",
                ambiguous=not self._request.idempotent,
            )
        if body[half:]:
            yield body[half:]


class ScriptedTransport:
    """Answers by `server`, keeps what was seen, and holds clients to the seam's rules."""

    def __init__(self, server: Callable[[Seen], Answer | Lost]) -> None:
        self._server = server
        self.seen: list[Seen] = []
        self.open = 0

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[_Response]:
        body = request.body
        if body is not None and not isinstance(body, bytes):
            body = b"".join([chunk async for chunk in body])
        announced = CIMultiDict(request.headers).get("Content-Length")
        assert announced is None or int(announced) == len(body or b"")
        path = "/" + request.url.partition("://")[2].partition("/")[2]
        seen = Seen(request, path, body or b"")
        self.seen.append(seen)
        answer = self._server(seen)
        if isinstance(answer, Lost):
            raise Transient(
                request.system,
                request.operation,
                ambiguous=answer.arrived and not request.idempotent,
            )
        self.open += 1
        try:
            yield _Response(request, answer)
        finally:
            self.open -= 1


def always(answer: Answer | Lost) -> ScriptedTransport:
    """Return a transport whose server answers everything alike."""
    return ScriptedTransport(lambda _: answer)


def in_turn(answers: Sequence[Answer | Lost]) -> ScriptedTransport:
    """Return a transport whose server gives these answers, one for each request."""
    left = iter(answers)
    return ScriptedTransport(lambda _: next(left))
