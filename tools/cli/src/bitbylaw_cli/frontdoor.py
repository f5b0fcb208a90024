"""One address for services that run as processes of their own: sends each route to its service."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.runtime.app import App

_PIECE_BYTES = 64 * 1024
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 170.0
"""A little more than the longest time a service takes for a request."""
_ASK_SECONDS = 3.0
_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
    }
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests of this method whose path fits belong to the service."""

    method: str
    path: re.Pattern[str]
    service: str


def rules_of(apps: Sequence[App[Any]]) -> tuple[Rule, ...]:
    """Return one rule per route that the apps declare."""
    return tuple(
        Rule(trigger.method, _pattern(trigger.path), app.name)
        for app in apps
        for step in app.steps
        for trigger in step.http_triggers
    )


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{[^}]+\}", path)
    return re.compile("[^/]+".join(re.escape(part) for part in parts))


class FrontDoor:
    """Passes requests on, streamed both ways; a service that is away answers as 503.

    Args:
        apps: whose routes it knows.
        addresses: where each service listens, by name; read at each request, so it may change.
    """

    def __init__(self, apps: Sequence[App[Any]], addresses: Mapping[str, str]) -> None:
        self._rules = rules_of(apps)
        self._addresses = addresses
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[str]:
        """Listen for the length of the block and yield the address.

        Raises:
            CommandError: the port is taken.
        """
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._answer)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            self._session = session
            runner = web.AppRunner(
                app, access_log=None, shutdown_timeout=2, handler_cancellation=True
            )
            await runner.setup()
            try:
                site = web.TCPSite(runner, host, port)
                try:
                    await site.start()
                except OSError:
                    raise CommandError(
                        Exit.REFUSED,
                        f"port {port} on {host} is taken: give another one with --port",
                    ) from None
                bound = runner.addresses[0][1]
                yield f"http://{host}:{bound}"
            finally:
                await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/healthz" | "/readyz":
                return await self._probed(request.path)
            case "/metrics":
                return await self._metrics(request)
        services = self._services_for(request)
        if not services:
            return _problem(404, "no service has this route; GET /_console/functions lists them")
        for service in services[:-1]:
            if await self._lives(service):
                return await self._passed_on(request, service)
        return await self._passed_on(request, services[-1])

    def _services_for(self, request: web.Request) -> list[str]:
        if request.path.startswith("/_console/"):
            return list(self._addresses)
        fitting = [rule for rule in self._rules if rule.path.fullmatch(request.path)]
        exact = [rule.service for rule in fitting if rule.method == request.method]
        return exact[:1] or [rule.service for rule in fitting][:1]

    async def _passed_on(self, request: web.Request, service: str) -> web.StreamResponse:
        session = self._opened()
        has_body = request.can_read_body
        try:
            async with session.request(
                request.method,
                URL(f"{self._addresses[service]}{request.raw_path}", encoded=True),
                headers=_headers(request.headers, length=has_body),
                data=request.content.iter_chunked(_PIECE_BYTES) if has_body else None,
                allow_redirects=False,
            ) as answer:
                passed = web.StreamResponse(status=answer.status, reason=answer.reason)
                for name, value in _headers(answer.headers, length=True).items():
                    passed.headers[name] = value
                await passed.prepare(request)
                async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                    await passed.write(piece)
                await passed.write_eof()
                return passed
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError, TimeoutError):
            return _problem(503, f"{service} is away; it is sent again in a moment")
        except aiohttp.ClientError as broken:
            return _problem(503, f"{service} broke off: {type(broken).__name__}")

    async def _lives(self, service: str) -> bool:
        status, _ = await self._asked(service, "/healthz")
        return status == 200

    async def _asked(self, service: str, path: str) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=_ASK_SECONDS)
        try:
            url = f"{self._addresses[service]}{path}"
            async with self._opened().get(url, timeout=timeout) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return 503, b""

    async def _probed(self, path: str) -> web.Response:
        names = list(self._addresses)
        answers = await asyncio.gather(*(self._asked(name, path) for name in names))
        reasons = [
            f"{name}: {_reasons(body)}"
            for name, (status, body) in zip(names, answers, strict=True)
            if status != 200
        ]
        if reasons:
            return web.json_response({"status": "not ready", "reasons": reasons}, status=503)
        return web.json_response({"status": "ok" if path == "/healthz" else "ready"})

    async def _metrics(self, request: web.Request) -> web.Response:
        """Answer with one service's metrics (`?service=`), or with all, each behind its name.

        Concatenated, the families of two services repeat; a scraper asks per service.
        """
        wanted = request.query.get("service")
        names = [wanted] if wanted in self._addresses else list(self._addresses)
        if wanted is not None and wanted not in self._addresses:
            return _problem(404, f"no service {wanted}; there are: {', '.join(self._addresses)}")
        answers = await asyncio.gather(*(self._asked(str(name), "/metrics") for name in names))
        pages = [
            f"# service {name} ({'answered' if status == 200 else 'away'})\n".encode() + body
            for name, (status, body) in zip(names, answers, strict=True)
        ]
        reached = any(status == 200 for status, _ in answers)
        return web.Response(
            body=b"".join(pages), status=200 if reached else 503, content_type="text/plain"
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the front door is not listening")
        return self._session


def _headers(given: Mapping[str, str], *, length: bool) -> dict[str, str]:
    kept = {name: value for name, value in given.items() if name.lower() not in _HOP}
    if length:
        kept |= {name: value for name, value in given.items() if name.lower() == "content-length"}
    return kept


def _reasons(body: bytes) -> str:
    try:
        told = json.loads(body)
    except ValueError:
        return "away"
    reasons = told.get("reasons") if isinstance(told, dict) else None
    return "; ".join(map(str, reasons)) if isinstance(reasons, list) else "away"


def _problem(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
