"""The load: posts webhooks, or asks for one path, over connections that stay open; a process of its own.

Without a rate every connection posts again as soon as it is answered; with one, posts leave at
even distances whatever the answers do.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import webhooks
from benchmarks.results import quantile

POOL = 20_000
"""Posts made beforehand; a longer run begins with the first again."""


class Connection(asyncio.Protocol):
    """One connection; it carries one post at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.number = 0
        self.began = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what carries the posts."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def post(self, number: int, request: bytes) -> None:
        """Send a post; `Load.answered` hears of its answer."""
        if self._transport is None:
            raise ConnectionError("the connection is not open")
        self.number, self.began = number, time.perf_counter_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; tell the load when it is whole."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = bytes(self._buffer[:head]).lower()
        place = lower.find(b"content-length:")
        length = int(lower[place + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < head + 4 + length:
            return
        status = int(lower[9:12])
        self._buffer.clear()
        self._load.answered(self, status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the load; before its end that is a fault of the server."""
        self._load.lost(exc)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


@dataclass(slots=True)
class Load:
    """Posts sent and answers counted.

    Attributes:
        requests: whole HTTP requests.
        counted_from, counted_to: answers in between count; `perf_counter_ns`.
        rate: posts a second; None: as many as are answered.
        answers: with a rate: number, when sent and when answered; nanoseconds since the epoch.
    """

    requests: list[bytes]
    rate: int | None
    counted_from: int = 0
    counted_to: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[int] = field(default_factory=list)
    answers: list[tuple[int, int, int]] = field(default_factory=list)
    _next: int = 0
    _open: int = 0
    _idle: deque[Connection] = field(default_factory=deque)
    _late: int = 0
    _done: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: str = ""

    def answered(self, connection: Connection, status: int) -> None:
        """Count an answer, and let the connection go on."""
        now = time.perf_counter_ns()
        self.statuses[status] += 1
        if self.counted_from <= now < self.counted_to:
            self.latencies.append(now - connection.began)
        self._open -= 1
        if self.rate is not None:
            at = time.time_ns()
            self.answers.append((connection.number, at - (now - connection.began), at))
            self._idle.append(connection)
            if self._late:
                self._late -= 1
                self._post(self._idle.popleft())
        elif now < self.counted_to:
            self._post(connection)
        if not self._open and now >= self.counted_to:
            self._done.set()

    def lost(self, error: Exception | None) -> None:
        """Note that a connection broke while posts were open."""
        if not self._done.is_set():
            self._failure = f"the server closed a connection: {error}"
            self._done.set()

    def _post(self, connection: Connection) -> None:
        number = self._next
        self._next += 1
        self._open += 1
        connection.post(number, self.requests[number % len(self.requests)])

    async def run(
        self, host: str, port: int, *, connections: int, warm_seconds: float, seconds: float
    ) -> None:
        """Post until the time is over and every post is answered.

        Raises:
            ConnectionError: the server closed a connection, or answers no more.
        """
        loop = asyncio.get_running_loop()
        opened = [
            (await loop.create_connection(lambda: Connection(self), host, port))[1]
            for _ in range(connections)
        ]
        start = time.perf_counter_ns()
        self.counted_from = start + int(warm_seconds * 1e9)
        self.counted_to = self.counted_from + int(seconds * 1e9)
        if self.rate is None:
            for connection in opened:
                self._post(connection)
        else:
            self._idle.extend(opened)
            await self._evenly(start, self.rate)
        try:
            async with asyncio.timeout(warm_seconds + seconds + 30):
                await self._done.wait()
        except TimeoutError:
            self._failure = f"{self._open} posts were never answered"
        self._done.set()
        for connection in opened:
            connection.close()
        if self._failure:
            raise ConnectionError(self._failure)

    async def _evenly(self, start: int, rate: int) -> None:
        """Send posts at even distances; one that finds no connection goes with the next free one."""
        total = int((self.counted_to - start) / 1e9 * rate)
        for number in range(total):
            due = start + number * 1_000_000_000 // rate
            if (wait := due - time.perf_counter_ns()) > 0:
                await asyncio.sleep(wait / 1e9)
            if self._idle:
                self._post(self._idle.popleft())
            else:
                self._late += 1
        self.counted_to = min(self.counted_to, time.perf_counter_ns())
        if not self._open and not self._late:
            self._done.set()


def main() -> int:
    """Post, and print what came back as JSON; 1 when the server failed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("url", help="http://host:port")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-seconds", type=float, default=1.0)
    parser.add_argument("--rate", type=int, help="posts a second; else as many as are answered")
    parser.add_argument("--get", help="ask for this path instead of posting webhooks")
    parser.add_argument("--key", default="", help="what --get shows as `apikey`")
    parser.add_argument("--first", type=int, default=0, help="number of the first record")
    parser.add_argument("--answered", type=Path, help="write `number sent answered` of each post")
    given = parser.parse_args()
    address = urlsplit(given.url)
    host, port = address.hostname or "", address.port or 80
    pool = POOL
    if given.rate is not None:
        pool = int((given.seconds + given.warm_seconds) * given.rate) + 1
    if given.get is None:
        requests = [webhooks.request(given.first + n, f"{host}:{port}") for n in range(pool)]
    else:
        head = f"GET {given.get} HTTP/1.1\r\nHost: {host}:{port}\r\napikey: {given.key}\r\n\r\n"
        requests = [head.encode("ascii")]
    load = Load(requests, given.rate)
    busy = time.process_time()
    try:
        asyncio.run(
            load.run(
                host,
                port,
                connections=given.connections,
                warm_seconds=given.warm_seconds,
                seconds=given.seconds,
            )
        )
    except OSError as failed:
        print(failed, file=sys.stderr)
        return 1
    busy = time.process_time() - busy
    if given.answered is not None:
        lines = (f"{given.first + n} {sent} {answered}\n" for n, sent, answered in load.answers)
        given.answered.write_text("".join(lines), "utf-8")
    found = [latency / 1e6 for latency in load.latencies]
    print(
        json.dumps(
            {
                "posts_per_second": len(found) / given.seconds,
                "p50_ms": quantile(found, 0.5),
                "p99_ms": quantile(found, 0.99),
                "answers": sum(load.statuses.values()),
                "stored": load.statuses[200],
                "busy": busy / (given.seconds + given.warm_seconds),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
