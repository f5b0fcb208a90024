"""Shared rate limits over a real Redis: three processes together, and Redis going away."""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from bitbylaw_common import limits as limits_module
from bitbylaw_common import metrics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import HeldBack
from bitbylaw_common.limits import Limits, Priority, Rate, RedisLimits, shared_limits
from bitbylaw_common.settings import RedisSettings
from bitbylaw_devstack import Stack
from log_lines import captured

pytestmark = pytest.mark.kafka

Line = dict[str, Any]

PROCESS = """
import asyncio, json, sys
from redis.asyncio import Redis
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.limits import Rate, RedisLimits

async def main(url, system, rate, seconds, lanes):
    redis, clock, sent, people, others = Redis.from_url(url), SystemClock(), [], [], []
    limits = RedisLimits(redis, clock, {system: Rate(rate)})
    end = clock.monotonic() + seconds

    async def microseconds():
        whole, rest = await redis.time()
        return whole * 1_000_000 + rest

    async def send(waited, priority, order):
        asked, before = clock.monotonic(), await microseconds()
        await limits.take(system, "ask", within_seconds=60, priority=priority, order=order)
        waited.append(clock.monotonic() - asked)
        sent.append((before, await microseconds()))

    async def flood(order):
        serial = order
        while clock.monotonic() < end:
            serial += lanes
            await send(others, "sync", serial)

    async def person():
        while clock.monotonic() < end:
            await asyncio.sleep(0.25)
            await send(people, "interactive", 0)

    await redis.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    end = clock.monotonic() + seconds
    await asyncio.gather(person(), *(flood(order) for order in range(lanes)))
    print(json.dumps({"sent": sent, "people": people, "others": others}), flush=True)
    await redis.aclose()

url, system, rate, seconds, lanes = sys.argv[1:]
asyncio.run(main(url, system, float(rate), float(seconds), int(lanes)))
"""
"""Floods a system with sync calls, and asks for a person now and then; tells when each was sent."""


@pytest.fixture
def system() -> str:
    """A system of the test's own: the Redis may be shared."""
    return f"system-{uuid.uuid4().hex}"


@pytest.fixture
def warnings() -> Iterator[list[Line]]:
    """What is logged from info on."""
    with captured() as lines:
        yield lines


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    redis = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        yield redis
    finally:
        await redis.aclose()


async def take(
    limits: Limits, system: str, priority: Priority = "sync", within: float = 20
) -> None:
    await limits.take(system, "get_file", within_seconds=within, priority=priority, order=0)


@dataclass(frozen=True)
class Told:
    """What the processes told: when each call was let through, at the latest and in microseconds
    of Redis' clock, and how long people and the others waited for it, in seconds."""

    sent: list[tuple[int, int]]
    people: list[float]
    others: list[float]


async def three_processes(url: str, system: str, rate: float, seconds: float) -> Told:
    async with AsyncExitStack() as undo:
        processes = []
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                PROCESS,
                *(url, system, str(rate), str(seconds), "8"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            undo.callback(_end, process)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
        answers = await asyncio.wait_for(
            asyncio.gather(*(process.communicate(b"go\n") for process in processes)), 60
        )
    told = [json.loads(out) for out, _ in answers]
    return Told(
        sorted((a, b) for one in told for a, b in one["sent"]),
        sorted(wait for one in told for wait in one["people"]),
        sorted(wait for one in told for wait in one["others"]),
    )


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def surely_in_a_window(sent: list[tuple[int, int]], seconds: float) -> int:
    """Return how many calls the fullest window held at least.

    When exactly Redis let a call through is known only as an interval; a window surely holds those
    whose whole interval it holds.
    """
    window = seconds * 1_000_000
    return max(sum(1 for a, b in sent if a >= start and b < start + window) for start, _ in sent)


async def test_three_processes_together_keep_the_limit_and_people_do_not_wait(
    redis_url: str, system: str
) -> None:
    rate, seconds = Rate(50), 3.0
    told = await three_processes(redis_url, system, rate.per_second, seconds)

    # never above the limit, and not far below it either: the flood used what there was
    for window in (rate.window_seconds, 2 * rate.window_seconds):
        allowed = rate.calls * window / rate.window_seconds
        assert surely_in_a_window(told.sent, window) <= allowed
    evenly = (rate.calls - rate.reserve) / rate.window_seconds
    spent = (told.sent[-1][1] - told.sent[0][0]) / 1_000_000
    assert len(told.sent) >= 0.5 * evenly * spent

    # a call of the flood waits for those of the 23 other lanes; a person's for none of them
    assert len(told.people) >= 6
    assert median(told.people) < median(told.others) / 5


def median(values: list[float]) -> float:
    return values[len(values) // 2]


async def test_the_shared_rate_is_the_same_arithmetic_as_the_local_one(
    redis_url: str, system: str
) -> None:
    rate = Rate(0.05)  # so slow that this test's own time does not count
    async with client(redis_url) as redis:
        limits = RedisLimits(redis, SystemClock(), {system: rate})
        assert await limits._wait(system, rate, "sync") == 0
        second = await limits._wait(system, rate, "sync")
        assert 0.9 * rate.interval < second <= rate.interval
        assert await limits._wait(system, rate, "interactive") == 0
        third = await limits._wait(system, rate, "interactive")
        assert 0.9 * rate.interval < third <= rate.interval
        assert 1.9 * rate.interval < await limits._wait(system, rate, "sync") <= 2 * rate.interval
        left = await redis.pttl(f"rate:{system}")
        assert 0 < left <= 2 * rate.interval / 1000 + 1000, "what nobody asks for is forgotten"


async def test_a_key_from_the_future_or_of_nonsense_stops_nothing(
    redis_url: str, system: str
) -> None:
    rate = Rate(50)
    async with client(redis_url) as redis:
        limits = RedisLimits(redis, SystemClock(), {system: rate})
        for value in ("9" * 17, "nonsense", "-5"):
            await redis.set(f"rate:{system}", value)
            async with asyncio.timeout(60):
                await take(limits, system)


async def test_who_cannot_be_sent_in_time_is_held_back(redis_url: str, system: str) -> None:
    async with client(redis_url) as redis, client(redis_url) as another:
        clock = SystemClock()
        ours = RedisLimits(redis, clock, {system: Rate(0.05)})
        theirs = RedisLimits(another, clock, {system: Rate(0.05)})
        await take(theirs, system)
        with pytest.raises(HeldBack, match=r"limit of 0\.05 calls a second left no room"):
            await take(ours, system, within=0.2)


async def test_the_rate_lies_where_the_locks_do(redis_url: str, system: str) -> None:
    address = redis_url.rpartition("/")[0]
    settings = RedisSettings.from_env({"REDIS_URL": address})
    async with (
        shared_limits(settings, SystemClock(), {system: 50, "other": None}) as limits,
        client(f"{address}/{settings.db_advoware_cache}") as there,
    ):
        await take(limits, system)
        assert await there.exists(f"rate:{system}")


async def test_without_redis_each_process_keeps_the_rate_alone_and_says_so_once(
    stack: Stack, system: str, warnings: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_module, "ASK_AGAIN_SECONDS", 0.2)
    rate = Rate(100)
    clock = SystemClock()
    async with client(stack.redis.url) as redis:
        limits = RedisLimits(redis, clock, {system: rate})
        await take(limits, system)
        await stack.redis.stop()
        try:
            began = clock.monotonic()
            for _ in range(30):
                await take(limits, system)
            spent = clock.monotonic() - began
        finally:
            await stack.redis.start()
        assert spent >= 28 * rate.interval / 1_000_000, "the rate holds all the same"
        assert metrics.value("bitbylaw_rate_store_down_total", system=system) >= 30
        assert metrics.value("bitbylaw_redis_up") == 0
        assert [line["level"] for line in warnings] == ["warning"]

        async with asyncio.timeout(60):
            while not await redis_has(limits, redis, system):  # noqa: ASYNC110 - a start rings no bell
                await asyncio.sleep(0.05)
    assert metrics.value("bitbylaw_redis_up") == 1
    assert [line["level"] for line in warnings] == ["warning", "info"]


async def redis_has(limits: Limits, redis: Redis, system: str) -> bool:
    await take(limits, system)
    try:
        return bool(await redis.exists(f"rate:{system}"))
    except OSError:
        return False
