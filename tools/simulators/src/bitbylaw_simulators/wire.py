"""What travels between a caller and a simulator, with or without sockets."""

import hashlib
import json
import mmap
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHUNK = 256 * 1024
_PAGE = 4096


class ConnectionReset(Exception):  # noqa: N818 - it is what happened, as the caller's side names it
    """No answer comes: the connection is gone. Whether the work was done is not told."""


class TornAnswer(Exception):  # noqa: N818 - it is what happened, as the caller's side names it
    """The answer begins, announces its full length and ends early.

    Attributes:
        answer: the whole answer as it would have been.
        sent: how many bytes of its body arrive.
    """

    def __init__(self, answer: "SimResponse", sent: int) -> None:
        super().__init__(f"answer cut after {sent} bytes")
        self.answer = answer
        self.sent = sent


@dataclass(frozen=True, slots=True)
class SimRequest:
    """One call as it reaches a simulator.

    Attributes:
        method: in capitals.
        path: decoded, without query, beginning with a slash.
        query: decoded pairs in order; a name may repeat.
        headers: as sent; names compare without case.
        body: the whole body, unless it was spooled.
        spool: the body on disk, where it was too large to keep in memory.
        remote: the caller's address, which login bans go by.
        target: path and query byte for byte as they were sent; empty without a socket.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    spool: Path | None = None
    remote: str = "127.0.0.1"
    target: str = ""

    def header(self, name: str) -> str | None:
        """Return the value of a header, None when it was not sent."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)

    def parameter(self, name: str) -> str | None:
        """Return the last value of a query parameter, None when it is absent."""
        return next((value for key, value in reversed(self.query) if key == name), None)

    @contextmanager
    def view(self) -> Iterator[bytes | mmap.mmap]:
        """Give the body to search and slice; a spooled one is mapped, not loaded."""
        if self.spool is None or self.spool.stat().st_size == 0:
            yield self.body
            return
        with (
            self.spool.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
        ):
            yield view

    def read(self) -> bytes:
        """Return the whole body."""
        return self.body if self.spool is None else self.spool.read_bytes()

    def json(self) -> Any:
        """Return the decoded body; None when it is empty.

        Raises:
            ValueError: the body is not JSON.
        """
        raw = self.read()
        return json.loads(raw) if raw else None

    @property
    def size(self) -> int:
        """The body's length in bytes."""
        return len(self.body) if self.spool is None else self.spool.stat().st_size

    def digest(self) -> str | None:
        """Return the body's SHA-256 in hex, None for an empty body."""
        if not self.size:
            return None
        if self.spool is None:
            return hashlib.sha256(self.body).hexdigest()
        with self.spool.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Made:
    """A body that is made while it is sent, so that it may be larger than the memory.

    It is pages of 4 KiB: the page's number in 8 bytes, then bytes that depend on `seed` alone; so
    a piece that is lost, doubled or out of order changes its hash.

    Attributes:
        size: in bytes.
        seed: of the bytes.
    """

    size: int
    seed: int = 0

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the body in pieces of at most `size` bytes, a multiple of 4 KiB."""
        filling = random.Random(self.seed).randbytes(_PAGE - 8)  # noqa: S311 - a body, not a secret
        for start in range(0, self.size, size):
            end = min(start + size, self.size)
            numbers = range(start // _PAGE, -(-end // _PAGE))
            piece = b"".join(number.to_bytes(8, "big") + filling for number in numbers)
            yield piece[: end - start]


@dataclass(frozen=True, slots=True)
class SimResponse:
    """One answer of a simulator.

    Attributes:
        status: the HTTP status.
        headers: without Content-Length, which follows from the body.
        body: the whole body, unless it lies in `file` or is `made`.
        file: a file whose bytes are the body; only where contents are kept on disk.
        made: makes the body.
        announced: whether its length is told before it; off, it comes in chunks.
        stall: after how many bytes it stops, and for how many seconds; None goes through.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: Path | None = None
    made: Made | None = None
    announced: bool = True
    stall: tuple[int, float] | None = None

    @property
    def size(self) -> int:
        """The body's length in bytes."""
        if self.made is not None:
            return self.made.size
        return len(self.body) if self.file is None else self.file.stat().st_size

    def header(self, name: str) -> str | None:
        """Return the value of a header, None when it is not there."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)

    def read(self) -> bytes:
        """Return the whole body, wherever it lies."""
        return self.body if self.file is None and self.made is None else b"".join(self.chunks())

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """Yield the body in pieces of at most `size` bytes."""
        if self.made is not None:
            yield from self.made.chunks(size)
            return
        if self.file is None:
            for start in range(0, len(self.body), size):
                yield self.body[start : start + size]
            return
        with self.file.open("rb") as file:
            while chunk := file.read(size):
                yield chunk

    def json(self) -> Any:
        """Return the decoded body; None when it is empty."""
        raw = self.read()
        return json.loads(raw) if raw else None


def json_answer(value: Any, status: int = 200, **headers: str) -> SimResponse:
    """Return `value` as a plain JSON answer; header names are given with underscores."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return SimResponse(status, {"Content-Type": "application/json", **named}, body)


HTML_ERROR = (
    b"<!DOCTYPE html><html><head><title>Error</title></head>"
    b"<body><h1>The service is unavailable</h1></body></html>"
)
"""What an edge proxy says instead of the service behind it."""
