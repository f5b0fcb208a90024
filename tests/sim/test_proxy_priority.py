"""People's calls through the proxy while syncs take all that Advoware's rate limit leaves."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bitbylaw_advoware_proxy.app import app, deps_over
from bitbylaw_advoware_proxy.settings import ProxySettings
from bitbylaw_common.circuits import Circuits
from bitbylaw_common.clients.advoware_auth import SYSTEM
from bitbylaw_common.http.guarded import GuardedTransport
from bitbylaw_common.http.transport import Request, Response, Transport
from bitbylaw_common.limits import LocalLimits, Rate
from bitbylaw_common.runtime import ApiRequest
from bitbylaw_common.runtime.hosts.memory_host import ManualClock
from bitbylaw_common.runtime.http_run import http_run
from contract.proxied import Shelf, settings_of
from scripted_transport import ScriptedTransport, Seen, of

RATE = Rate(20)
ANSWER_SECONDS = 0.1
CALLS = 60


class Relay:
    """An Advoware that takes its time, in virtual seconds."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._inner = ScriptedTransport(self._answer)
        self.asked: list[float] = []

    def _answer(self, seen: Seen) -> Any:
        if seen.path.endswith("/api/v1/Token"):
            return of({"access_token": "a-token-of-the-test", "expires_in": 86400})
        return of([{"kuerzel": "SB"}])

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        self.asked.append(self._clock.monotonic())
        await self._clock.sleep(ANSWER_SECONDS)
        async with self._inner.send(request) as answer:
            yield answer


class Day:
    """A proxy and a sync that share one rate limit, in virtual time."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.relay = Relay(self.clock)
        self.limits = LocalLimits(self.clock, {SYSTEM: RATE})
        self.synced = 0

    async def passes(self, work: Awaitable[Any]) -> Any:
        """Do the work while time passes; return what comes of it."""
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(60):
                await asyncio.sleep(0)
            sleeper = self.clock.next_sleeper()
            if sleeper is None:
                await asyncio.sleep(0.001)  # something real, such as a socket that is refused
            elif not task.done():
                self.clock.move(sleeper)
        return task.result()

    async def people(self, *, flood: int) -> list[float]:
        """Return how long each call of a person took, in virtual seconds.

        Args:
            flood: how many runs of syncs ask without a pause meanwhile.
        """
        settings = ProxySettings.from_env(settings_of({"ADVOWARE_API_BASE_URL": "http://relay"}))
        get = next(step for step in app.steps if step.name == "Advoware Proxy GET")
        async with deps_over(self.relay, settings, self.clock, self.limits) as deps:
            run = http_run(app, get, deps, Shelf(), self.clock)
            call: ApiRequest[Any] = ApiRequest(
                "GET", "/advoware/proxy", None, raw_query="endpoint=employees"
            )
            assert (await self.passes(run(call))).status == 200  # and the token is there
            circuits = Circuits(self.clock)
            circuits.declare(SYSTEM, _well)
            guarded = GuardedTransport(
                self.relay, circuits=circuits, clock=self.clock, limits=self.limits
            )
            syncs = [asyncio.create_task(self._sync(guarded)) for _ in range(flood)]
            took: list[float] = []
            chance = random.Random(7)

            async def person() -> None:
                for _ in range(CALLS):
                    await self.clock.sleep(chance.uniform(0.5, 1.5))
                    began = self.clock.monotonic()
                    assert (await run(call)).status == 200
                    took.append(self.clock.monotonic() - began)

            await self.passes(person())
            for sync in syncs:
                sync.cancel()
            await asyncio.gather(*syncs, return_exceptions=True)
            return sorted(took)

    async def _sync(self, guarded: Transport) -> None:
        request = Request(SYSTEM, "read", "GET", "http://relay/x", timeout_seconds=3600)
        while True:
            async with guarded.send(request) as answer:
                await answer.read()
            self.synced += 1


async def _well() -> None:
    """Say that all is well."""


def p99(sorted_seconds: list[float]) -> float:
    return sorted_seconds[int(len(sorted_seconds) * 0.99)]


@pytest.mark.parametrize("flood", [1, 50])
async def test_a_flood_of_syncs_does_not_slow_people_down(flood: int) -> None:
    alone, busy = Day(), Day()
    calm = p99(await alone.people(flood=0))
    pressed = p99(await busy.people(flood=flood))

    assert calm == pytest.approx(ANSWER_SECONDS)
    assert pressed <= 1.5 * calm
    # and it was a flood: the limit was kept, and used up but for what is people's own
    seconds = busy.relay.asked[-1] - busy.relay.asked[0]
    sent = len(busy.relay.asked)
    assert sent <= RATE.per_second * (seconds + 1)
    if flood > 1:
        assert busy.synced > 0.8 * RATE.per_second * seconds


async def test_the_same_flood_among_equals_would_slow_them_down() -> None:
    day = Day()
    limits = day.limits
    take = limits.take

    async def equal(system: str, operation: str, **how: Any) -> None:
        await take(system, operation, **{**how, "priority": "sync"})

    limits.take = equal  # type: ignore[method-assign]  # what if nobody came first
    assert p99(await day.people(flood=50)) > 1.5 * ANSWER_SECONDS
