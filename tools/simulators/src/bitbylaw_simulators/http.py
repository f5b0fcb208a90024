"""Serves a simulator over HTTP; large bodies lie on disk, both ways."""

import asyncio
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

from aiohttp import web

from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.simulator import Simulator
from bitbylaw_simulators.wire import ConnectionReset, SimRequest, SimResponse, TornAnswer

IN_MEMORY = 1024 * 1024
"""Bodies above this many bytes are spooled to disk."""


class SimServer:
    """One simulator behind one port, as an async context manager.

    Args:
        simulator: who answers.
        host: loopback; the simulators trust whoever reaches them.
        port: 0 takes a free one.
        spool: folder for large bodies while they are worked on; the system's when absent.

    Attributes:
        url: where it listens, without a trailing slash; set once entered.
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        spool: Path | None = None,
    ) -> None:
        self.simulator = simulator
        self.url = ""
        self.port = port
        self._host = host
        self._spool = spool
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        self.url = f"http://{self._host}:{self.port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening; calls under way get a second."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        clock = self.simulator.clock
        body, spool = await self._body(request)
        asked = SimRequest(
            method=request.method,
            path=request.path,
            query=parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True),
            headers=request.headers,
            body=body,
            spool=spool,
            remote=request.remote or "unknown",
            target=request.raw_path,
        )
        try:
            answer = await self.simulator.handle(asked)
            return await _send(request, answer, clock)
        except ConnectionReset:
            return _abort(request)
        except TornAnswer as torn:
            await _send(request, torn.answer, clock, torn.sent)
            return _abort(request)
        finally:
            if spool is not None:
                _remove(spool)

    async def _body(self, request: web.Request) -> tuple[bytes, Path | None]:
        held = bytearray()
        async for chunk in request.content.iter_chunked(256 * 1024):
            held += chunk
            if len(held) > IN_MEMORY:
                return b"", await self._spooled(request, bytes(held))
        return bytes(held), None

    async def _spooled(self, request: web.Request, begun: bytes) -> Path:
        handle, name = tempfile.mkstemp(dir=self._spool, prefix="sim-body-")
        path = Path(name)
        with os.fdopen(handle, "wb") as file:
            try:
                await asyncio.to_thread(file.write, begun)
                async for chunk in request.content.iter_chunked(256 * 1024):
                    await asyncio.to_thread(file.write, chunk)
            except BaseException:
                _remove(path)
                raise
        return path


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _send(
    request: web.Request,
    answer: SimResponse,
    clock: SimClock,
    sent: int | None = None,
) -> web.StreamResponse:
    """Send the answer, or its first `sent` bytes under its full length."""
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    if answer.announced:
        response.content_length = answer.size
    await response.prepare(request)
    left = answer.size if sent is None else sent
    if request.method == "HEAD":
        left = 0
    stop, seconds = answer.stall or (left, 0.0)
    for chunk in answer.chunks():
        if left <= 0:
            break
        piece = chunk[:left]
        if stop < len(piece):
            await response.write(piece[:stop])
            await clock.sleep(seconds)
            piece, left, stop = piece[stop:], left - stop, left
        await response.write(piece)
        left -= len(piece)
        stop -= len(piece)
    if sent is None:
        await response.write_eof()
    return response


def _abort(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.StreamResponse(status=499)
