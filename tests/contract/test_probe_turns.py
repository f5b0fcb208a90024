"""Probes of a system that refused our key, over a real Redis: the fleet asks as one."""

import asyncio
import functools
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis

from bitbylaw_common import circuits as circuits_module
from bitbylaw_common import limits as limits_module
from bitbylaw_common.circuits import Circuits, State
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import Unauthorized
from bitbylaw_common.limits import shared_limits
from bitbylaw_common.settings import RedisSettings
from bitbylaw_devstack import Stack
from log_lines import captured

pytestmark = pytest.mark.kafka

MINUTE = 0.8
"""Stands for the minute between two probes."""

SLACK = 0.02
"""Redis counts in whole milliseconds, and the answer is on its way for a while."""

LATE = MINUTE / 2
"""How late a busy machine may note a probe; those of a fleet that does not ask as one come together."""


@pytest.fixture(autouse=True)
def _short_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits_module, "PROBE_UNAUTHORIZED_SECONDS", (MINUTE, MINUTE))
    monkeypatch.setattr(circuits_module, "TURN_AGAIN_SECONDS", 0.05)


class Side:
    """A system that refuses our key until it is told otherwise; notes when it was probed, by whom."""

    def __init__(self) -> None:
        self.name = f"system-{uuid.uuid4().hex}"
        self.refuses = True
        self.probes: list[tuple[float, int]] = []

    async def probed(self, who: int) -> None:
        """Answer a probe."""
        self.probes.append((asyncio.get_running_loop().time(), who))
        await asyncio.sleep(0.01)
        if self.refuses:
            raise Unauthorized(self.name, "probe", status=401)

    def gaps(self) -> list[float]:
        """Return the seconds between each two probes, whoever sent them."""
        return [b - a for (a, _), (b, _) in itertools.pairwise(self.probes)]


@asynccontextmanager
async def fleet(redis_url: str, side: Side, count: int = 3) -> AsyncIterator[list[Circuits]]:
    """Several processes' circuits, each with a client of its own."""
    settings = RedisSettings.from_env({"REDIS_URL": redis_url, "REDIS_TIMEOUT_SECONDS": "0.5"})
    clock, found = SystemClock(), []
    async with AsyncExitStack() as opened:
        for number in range(count):
            limits = await opened.enter_async_context(shared_limits(settings, clock, {}))
            circuits = Circuits(clock, limits)
            circuits.declare(side.name, functools.partial(side.probed, number))
            opened.push_async_callback(circuits.close)
            found.append(circuits)
        yield found


def refuse(fleet: Sequence[Circuits], side: Side) -> None:
    """Let a call of each process be refused."""
    for circuits in fleet:
        circuit = circuits.of(side.name)
        circuit.refused(circuit.begin(), "d1", "get_file", f"{side.name} answered 401 to get_file")


async def until_probed(side: Side, times: int) -> None:
    async with asyncio.timeout(60):
        while len(side.probes) < times:  # noqa: ASYNC110 - the other side rings no bell
            await asyncio.sleep(0.01)


async def test_three_processes_whose_key_is_refused_probe_once_a_minute_together(
    redis_url: str,
) -> None:
    side = Side()
    async with fleet(redis_url, side) as processes:
        refuse(processes, side)
        await until_probed(side, 6)
        assert min(side.gaps()) >= MINUTE - LATE
        assert sum(side.gaps()) >= len(side.gaps()) * MINUTE - LATE

        # and when the key is good again, all find out at once
        side.refuses = False
        async with asyncio.timeout(60):
            while {one.of(side.name).state for one in processes} != {State.RAMPING}:  # noqa: ASYNC110 - nor does a circuit
                await asyncio.sleep(0.01)
        assert max(side.gaps()[-2:]) < MINUTE
    async with Redis.from_url(redis_url) as redis:
        assert not await redis.exists(f"turn:{side.name}")


async def test_a_process_that_dies_with_the_turn_holds_nobody_up_for_longer_than_a_minute(
    redis_url: str,
) -> None:
    side = Side()
    async with fleet(redis_url, side, 1) as processes:
        refuse(processes, side)
        await until_probed(side, 1)
    async with Redis.from_url(redis_url) as redis:
        assert await redis.pttl(f"turn:{side.name}") <= MINUTE * 1000
    async with fleet(redis_url, side, 1) as processes:
        refuse(processes, side)
        await until_probed(side, 2)
    assert side.gaps()[0] >= MINUTE - LATE


async def test_without_redis_each_process_probes_once_a_minute_and_says_so(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_module, "ASK_AGAIN_SECONDS", 0.2)
    side = Side()
    await stack.redis.stop()
    try:
        with captured() as lines:
            async with fleet(stack.redis.url, side) as processes:
                refuse(processes, side)
                await until_probed(side, 9)
    finally:
        await stack.redis.start()
    for number in range(3):
        own = [at for at, who in side.probes if who == number]
        assert len(own) >= 2
        assert min(b - a for a, b in itertools.pairwise(own)) >= MINUTE - SLACK
    said = [line["event"] for line in lines if "Redis does not answer" in line["event"]]
    assert said == ["Redis does not answer; each process keeps its rate limits alone"] * 3
