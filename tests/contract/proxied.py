"""The proxy behind a real HTTP server, before the simulated Advoware; Kafka is a shelf."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from bitbylaw_advoware_proxy.app import app, deps_over
from bitbylaw_advoware_proxy.deps import Deps
from bitbylaw_advoware_proxy.settings import ProxySettings
from bitbylaw_common import logs, metrics, topics
from bitbylaw_common.clock import Clock, SystemClock
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.events import ProxyAnswered
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.http.transport import Transport
from bitbylaw_common.kafka import codec
from bitbylaw_common.limits import Limits
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.hosts.http_host import HttpHost, Route
from bitbylaw_common.runtime.http_run import http_run
from bitbylaw_common.runtime.ports import Outgoing, Position, Record
from bitbylaw_common.settings import secret_values
from bitbylaw_simulators.advoware import Advoware
from bitbylaw_simulators.advoware.samples import sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.http import SimServer

ROUTE = "/advoware/proxy"


class Shelf:
    """A log that keeps what it acknowledged; it can be away."""

    def __init__(self) -> None:
        self.kept: list[Outgoing] = []
        self.away = False
        self._grown = asyncio.Event()

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        if self.away:
            raise LogUnavailableError("the broker is away")
        first = len(self.kept)
        self.kept.extend(records)
        self._grown.set()
        return [Position(record.topic, 0, first + n) for n, record in enumerate(records)]

    async def until(self, count: int) -> list[ProxyAnswered]:
        """Return the events once there are `count`."""
        async with asyncio.timeout(25):
            while len(found := self.events()) < count:
                self._grown.clear()
                await self._grown.wait()
        return found

    def events(self) -> list[ProxyAnswered]:
        """Return what was published about answered calls."""
        return [
            codec.decode(
                topics.PROXY_RESPONSE,
                Record(one.topic, 0, place, one.key, one.value, one.headers),
            )[0]
            for place, one in enumerate(self.kept)
            if one.topic == topics.PROXY_RESPONSE.name
        ]


class Quiet:
    """A control port with nothing to tell."""

    def healthy(self) -> Sequence[str]:
        return ()

    def ready(self) -> Sequence[str]:
        return ()

    def functions(self) -> Sequence[FunctionInfo]:
        return ()

    async def trigger(self, function_id: str) -> str:
        raise AssertionError(function_id)


@dataclass
class Answer:
    """What a caller got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Office:
    """A proxy that runs, what is behind it, and what it said."""

    sim: Advoware
    log: Shelf
    deps: Deps
    session: aiohttp.ClientSession
    url: str
    said: io.StringIO = field(default_factory=io.StringIO)

    async def ask(self, method: str, query: str, *, route: str = ROUTE, **how: Any) -> Answer:
        """Send a call whose query is `query` byte for byte."""
        if isinstance(how.get("data"), bytes):
            how["data"] = io.BytesIO(how["data"])
        url = URL(f"{self.url}{route}" + (f"?{query}" if query else ""), encoded=True)
        async with self.session.request(method, url, allow_redirects=False, **how) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    def arrived(self) -> list[dict[str, Any]]:
        """Return the calls of Advoware's API in order, each with what exactly was sent."""
        return [
            {**call.sent, "status": call.status, "operation": call.operation}
            for call in self.sim.requests
            if call.sent is not None and "/api/v1/" in call.path and "/Token" not in call.path
        ]

    async def events(self) -> list[ProxyAnswered]:
        """Return the events, after those on their way have arrived."""
        await self.deps.trail.close()
        return self.log.events()

    def lines(self) -> list[dict[str, Any]]:
        """Return the log."""
        return [json.loads(line) for line in self.said.getvalue().splitlines()]


def settings_of(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for the simulated firm, with changes."""
    return {
        "ADVOWARE_CONFIGURATOR_URL": "off",
        "ADVOWARE_APP_ID": "bitbylaw-simulated-app",
        "ADVOWARE_API_KEY": "c2ltdWxhdGVkLWFkdm93YXJlLWFwaS1rZXk=",
        "ADVOWARE_KANZLEI": "sim+4711",
        "ADVOWARE_DATABASE": "musterkanzlei",
        "ADVOWARE_USER": "SB",
        "ADVOWARE_PASSWORD": "simuliertes-kennwort",
        "ADVOWARE_CONCURRENCY": "50",
        "REDIS_PORT": "1",
        **env,
    }


@asynccontextmanager
async def office(
    env: Mapping[str, str] | None = None,
    *,
    clock: Clock | None = None,
    limits: Limits | None = None,
    transport: Transport | None = None,
) -> AsyncIterator[Office]:
    """Run the proxy with this environment before a simulator of its own."""
    clock = clock or SystemClock()
    sim = Advoware(SimClock.real())
    sample_firm(sim)
    log, said = Shelf(), io.StringIO()
    async with SimServer(sim) as server:
        given = settings_of(
            {
                "ADVOWARE_API_BASE_URL": f"{server.url}/relay",
                "ADVOWARE_SECURITY_GATEWAY_URL": f"{server.url}/security",
                **(env or {}),
            }
        )
        logs.configure("json", "debug", said, secrets=secret_values(given))
        try:
            async with (
                aiohttp_transport(clock=clock, on_exchange=metrics.outside_request) as real,
                deps_over(transport or real, ProxySettings.from_env(given), clock, limits) as deps,
                HttpHost(routes(deps, log, clock), Quiet(), port=0) as host,
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=25), auto_decompress=False
                ) as session,
            ):
                yield Office(sim, log, deps, session, host.url, said)
        finally:
            logs.configure("json", "warning", sys.stderr)
            logging.captureWarnings(False)


def routes(deps: Deps, log: Shelf, clock: Clock) -> list[Route]:
    """Return the proxy's routes over these deps."""
    return [
        Route(step.name, trigger, http_run(app, step, deps, log, clock))
        for step in app.steps
        for trigger in step.http_triggers
    ]
