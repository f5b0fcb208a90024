"""Redis locks over a real Redis, and over one that is stopped or frozen in the middle."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from bitbylaw_common import locks as locks_module
from bitbylaw_common import metrics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import Transient
from bitbylaw_common.locks import LockBook, NoLocks, RedisLocks, lock_book, redis_locks
from bitbylaw_common.settings import RedisSettings
from bitbylaw_devstack import Stack
from log_lines import captured

pytestmark = pytest.mark.kafka

ANSWER_SECONDS = 0.3
"""How long a client waits for a frozen Redis."""

BUSY = 10
"""So many times longer may a busy machine take for what takes none."""

ENTITY = "document"
Line = dict[str, Any]


@asynccontextmanager
async def client(url: str, seconds: float = 5) -> AsyncIterator[Redis]:
    redis = Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)
    try:
        yield redis
    finally:
        await redis.aclose()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with client(redis_url) as redis:
        yield redis


@pytest.fixture
def entity_id() -> str:
    """An id of the test's own: the Redis may be shared."""
    return uuid.uuid4().hex


@pytest.fixture
def warnings() -> Iterator[list[Line]]:
    """What is logged from info on."""
    with captured() as lines:
        yield lines


def key(entity_id: str) -> str:
    return f"sync_lock:{ENTITY}:{entity_id}"


def _text(value: bytes | str | None) -> str:
    assert isinstance(value, bytes)
    return value.decode()


def without() -> float:
    """How many runs had to do without their lock."""
    return metrics.value("bitbylaw_lock_store_down_total", entity=ENTITY)


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    """Let Redis hang for the block: it takes connections and answers nothing."""
    pid = stack.redis.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_lock_is_held_for_the_block_and_busy_for_everybody_else(
    redis: Redis, entity_id: str
) -> None:
    ours, theirs = RedisLocks(redis, service="a"), RedisLocks(redis, service="ab")
    async with ours.hold(ENTITY, entity_id) as held:
        assert held
        for busy in (theirs, ours):  # another service, and another step of this process
            async with busy.hold(ENTITY, entity_id) as second:
                assert second is False
        assert await redis.exists(key(entity_id)), "who was refused must not free it"
    assert not await redis.exists(key(entity_id))
    async with theirs.hold(ENTITY, entity_id) as held:
        assert held
        async with ours.hold(ENTITY, entity_id) as second:
            assert second is False


@pytest.mark.parametrize("token", ["", "a", "locked", "1", "aa/b", "A/b"])
async def test_a_lock_of_whoever_writes_its_token_otherwise_is_busy(
    redis: Redis, entity_id: str, token: str
) -> None:
    await redis.set(key(entity_id), token, px=5_000)
    async with RedisLocks(redis, service="a").hold(ENTITY, entity_id) as held:
        assert held is False
    assert await redis.get(key(entity_id)) == token.encode()


async def test_a_lock_that_a_dead_worker_left_goes_to_its_service_s_next_at_once(
    redis: Redis, entity_id: str
) -> None:
    dead, living = RedisLocks(redis, service="a"), RedisLocks(redis, service="a")
    async with living.hold(ENTITY, entity_id) as before:
        assert before
    async with dead.hold(ENTITY, entity_id):
        left = await redis.get(key(entity_id))
        async with living.hold(ENTITY, entity_id) as held:
            assert held
            token = await redis.get(key(entity_id))
            assert token != left
            # it was not dead but late: what it does now takes nothing from the new holder
            await dead._release(key(entity_id), _text(left))
            assert await redis.get(key(entity_id)) == token
    assert not await redis.exists(key(entity_id))


async def test_locks_of_other_records_and_kinds_are_others(redis: Redis, entity_id: str) -> None:
    locks = RedisLocks(redis, service="a")
    async with AsyncExitStack() as held:
        for entity, name in ((ENTITY, entity_id), (ENTITY, f"{entity_id}-2"), ("b", entity_id)):
            assert await held.enter_async_context(locks.hold(entity, name))


async def test_many_who_want_one_lock_at_once_get_it_once(redis: Redis, entity_id: str) -> None:
    release = asyncio.Event()
    asked: list[bool] = []

    async def want(service: str) -> None:
        async with RedisLocks(redis, service=service).hold(ENTITY, entity_id) as held:
            asked.append(held)
            await release.wait()

    tasks = [asyncio.create_task(want(f"service-{n}")) for n in range(20)]
    async with asyncio.timeout(60):
        while len(asked) < len(tasks):
            await asyncio.wait(tasks, timeout=0.01)
    release.set()
    await asyncio.gather(*tasks)
    assert asked.count(True) == 1


async def test_a_lock_that_a_killed_process_of_the_service_left_is_taken_over(
    redis: Redis, entity_id: str
) -> None:
    killed, successor = RedisLocks(redis, service="a"), RedisLocks(redis, service="a")
    async with killed.hold(ENTITY, entity_id):
        async with successor.hold(ENTITY, entity_id) as held:
            assert held
            async with killed.hold(ENTITY, entity_id) as back:
                assert back, "whoever owns the partition last has it"
        async with RedisLocks(redis, service="b").hold(ENTITY, entity_id) as foreign:
            assert foreign


async def test_a_lock_frees_itself_when_its_holder_died(redis: Redis, entity_id: str) -> None:
    async with RedisLocks(redis, service="a").hold(ENTITY, entity_id):
        left = await redis.pttl(key(entity_id))
    assert 0 < left <= locks_module.TTL_SECONDS * 1000


async def test_a_lock_that_went_to_somebody_else_is_not_taken_from_them(
    redis: Redis, entity_id: str
) -> None:
    async with RedisLocks(redis, service="a").hold(ENTITY, entity_id):
        # ours ran out while this process stood still, and another took it
        await redis.set(key(entity_id), "another's token", px=5_000)
    assert await redis.get(key(entity_id)) == b"another's token"


async def test_a_lock_is_renewed_as_long_as_it_is_held_and_only_while_it_is_ours(
    redis: Redis, entity_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_module, "TTL_SECONDS", 3)

    async def rises(times: int) -> None:
        before = await redis.pttl(key(entity_id))
        async with asyncio.timeout(60):
            while times:
                now = await redis.pttl(key(entity_id))
                assert now > 0, "it ran out while it was held"
                times -= now > before
                before = now

    async with RedisLocks(redis, service="a").hold(ENTITY, entity_id):
        token = await redis.get(key(entity_id))
        await rises(4)  # longer than it lives without being renewed
        assert await redis.get(key(entity_id)) == token

        await redis.set(key(entity_id), "another's token", px=2_000)
        async with asyncio.timeout(60):
            while await redis.exists(key(entity_id)):  # noqa: ASYNC110 - Redis rings no bell
                await asyncio.sleep(0.01)


async def test_a_run_that_is_cancelled_frees_its_lock(redis: Redis, entity_id: str) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with RedisLocks(redis, service="a").hold(ENTITY, entity_id):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.wait_for(entered.wait(), 60)
    task.cancel()
    await asyncio.wait({task}, timeout=60)
    assert task.cancelled()
    assert not await redis.exists(key(entity_id))


async def test_the_locks_of_a_service_lie_where_the_predecessor_s_did(
    redis_url: str, entity_id: str
) -> None:
    address = redis_url.rpartition("/")[0]
    settings = RedisSettings.from_env({"REDIS_URL": address})
    async with (
        redis_locks(settings, service="a") as locks,
        client(f"{address}/{settings.db_advoware_cache}") as there,
        locks.hold(ENTITY, entity_id) as held,
    ):
        assert held
        assert await there.exists(key(entity_id))


async def test_without_redis_every_run_goes_on_with_one_warning_and_is_counted(
    stack: Stack, entity_id: str, warnings: list[Line]
) -> None:
    before = without()
    async with client(stack.redis.url) as redis:
        locks = RedisLocks(redis, service="a")
        await stack.redis.stop()
        try:
            async with asyncio.timeout(60):
                for _ in range(50):
                    async with locks.hold(ENTITY, entity_id) as held:
                        assert held
        finally:
            await stack.redis.start()
        assert without() - before == 50
        assert metrics.value("bitbylaw_redis_up") == 0
        assert [line["level"] for line in warnings] == ["warning"]
        assert warnings[0]["event"] == "Redis does not answer; work goes on without its locks"
        assert entity_id not in str(warnings)

        # and once it is back they are held again, which is said once too
        async with asyncio.timeout(60):
            while not await _really_held(locks, redis, entity_id):  # noqa: ASYNC110 - nor does a start
                await asyncio.sleep(0.05)
    assert metrics.value("bitbylaw_redis_up") == 1
    assert [line["level"] for line in warnings] == ["warning", "info"]


async def _really_held(locks: RedisLocks, redis: Redis, entity_id: str) -> bool:
    async with locks.hold(ENTITY, entity_id):
        return bool(await redis.exists(key(entity_id)))


async def test_a_frozen_redis_slows_one_run_and_not_those_behind_it(
    stack: Stack, entity_id: str, warnings: list[Line]
) -> None:
    loop = asyncio.get_running_loop()
    async with client(stack.redis.url, ANSWER_SECONDS) as redis:
        locks = RedisLocks(redis, service="a")
        await redis.ping()
        with frozen(stack):
            began = loop.time()
            async with locks.hold(ENTITY, entity_id) as held:
                assert held
            first = loop.time() - began
            began = loop.time()
            for number in range(100):
                async with locks.hold(ENTITY, f"{entity_id}-{number}") as held:
                    assert held
            others = loop.time() - began
    # each of those behind it would wait as long, were it not known by then
    assert ANSWER_SECONDS * 0.9 < first < ANSWER_SECONDS * BUSY
    assert others < ANSWER_SECONDS * BUSY
    assert [line["level"] for line in warnings] == ["warning"]


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_a_run_whose_redis_goes_away_in_the_middle_ends_as_if_it_held_its_lock(
    stack: Stack, entity_id: str, warnings: list[Line], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(locks_module, "TTL_SECONDS", 0.3)
    async with client(stack.redis.url, ANSWER_SECONDS) as redis, AsyncExitStack() as undo:
        locks = RedisLocks(redis, service="a")
        async with locks.hold(ENTITY, entity_id) as held:
            assert held
            if how == "stopped":
                await stack.redis.stop()
                undo.push_async_callback(stack.redis.start)
            else:
                undo.enter_context(frozen(stack))
            # its renewal finds out
            async with asyncio.timeout(60):
                while not warnings:  # noqa: ASYNC110 - nor does a log
                    await asyncio.sleep(0.01)
        assert metrics.value("bitbylaw_redis_up") == 0
    assert [line["level"] for line in warnings] == ["warning"]


async def test_a_run_that_overlaps_an_outage_and_its_end_takes_no_lock_of_another(
    stack: Stack, entity_id: str
) -> None:
    async with client(stack.redis.url) as redis, client(stack.redis.url) as other:
        locks = RedisLocks(redis, service="a")
        async with locks.hold(ENTITY, entity_id) as held:
            assert held
            # Redis forgets everything when it ends
            await stack.redis.stop()
            await stack.redis.start()
            async with RedisLocks(other, service="b").hold(ENTITY, entity_id) as second:
                assert second
                token = await other.get(key(entity_id))
                await locks._release(key(entity_id), "a token that is not theirs")
                assert await other.get(key(entity_id)) == token


async def test_a_run_is_told_once_when_another_took_its_lock(
    redis: Redis, entity_id: str, warnings: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_module, "TTL_SECONDS", 0.3)
    before = metrics.value("bitbylaw_locks_lost_total", entity=ENTITY)
    told = asyncio.Event()
    times = 0

    def lost() -> None:
        nonlocal times
        times += 1
        told.set()

    async with RedisLocks(redis, service="a").hold(ENTITY, entity_id, lost) as held:
        assert held
        await redis.set(key(entity_id), "another's token")
        await asyncio.wait_for(told.wait(), 60)
        # what they hold is not prolonged, nor taken back when they are done
        assert await redis.pttl(key(entity_id)) == -1
        await redis.delete(key(entity_id))
        await asyncio.sleep(locks_module.TTL_SECONDS)  # two renewals long
        assert not await redis.exists(key(entity_id))
    assert times == 1
    assert metrics.value("bitbylaw_locks_lost_total", entity=ENTITY) - before == 1
    assert [line["level"] for line in warnings] == ["warning"]
    assert entity_id not in str(warnings)


async def test_a_lock_that_redis_forgot_is_taken_again_and_the_run_goes_on(
    redis: Redis, entity_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_module, "TTL_SECONDS", 1)
    told = asyncio.Event()
    async with RedisLocks(redis, service="a").hold(ENTITY, entity_id, told.set):
        token = await redis.get(key(entity_id))
        await redis.delete(key(entity_id))
        async with asyncio.timeout(60):
            while await redis.get(key(entity_id)) != token:  # noqa: ASYNC110 - Redis rings no bell
                await asyncio.sleep(0.01)
    assert not told.is_set()
    assert not await redis.exists(key(entity_id))


# -- for operators --------------------------------------------------------------------------------


async def test_an_operator_sees_who_holds_a_lock_since_when_and_for_how_long(
    redis: Redis, entity_id: str
) -> None:
    book = LockBook(redis)
    assert await book.get(ENTITY, entity_id) is None
    async with RedisLocks(redis, service="document-sync").hold(ENTITY, entity_id):
        lock = await book.get(ENTITY, entity_id)
        assert lock is not None
        assert (lock.entity, lock.entity_id, lock.service) == (ENTITY, entity_id, "document-sync")
        assert f"-{os.getpid()}-" in lock.process
        assert lock.taken is not None
        assert abs((SystemClock().now() - lock.taken).total_seconds()) < 60
        assert lock.seconds_left is not None
        assert 0 < lock.seconds_left <= locks_module.TTL_SECONDS
        assert lock.renewed
        assert entity_id in {one.entity_id for one in await book.all()}
    assert entity_id not in {one.entity_id for one in await book.all()}


@pytest.mark.parametrize("token", ["", "a script's", "a/b/c", "\udcff"])
async def test_a_lock_of_somebody_else_is_shown_and_freed_too(
    redis: Redis, entity_id: str, token: str
) -> None:
    await redis.set(key(entity_id), token.encode("utf-8", "surrogateescape"))
    book = LockBook(redis)
    lock = await book.get(ENTITY, entity_id)
    assert lock is not None
    assert (lock.service, lock.process, lock.taken, lock.seconds_left) == ("", "", None, None)
    assert not lock.renewed
    assert await book.free(lock)
    assert not await redis.exists(key(entity_id))


async def test_only_the_lock_that_was_seen_is_freed(redis: Redis, entity_id: str) -> None:
    book = LockBook(redis)
    async with RedisLocks(redis, service="a").hold(ENTITY, entity_id):
        seen = await book.get(ENTITY, entity_id)
    assert seen is not None
    async with RedisLocks(redis, service="b").hold(ENTITY, entity_id):
        assert not await book.free(seen)
        assert await redis.exists(key(entity_id))


async def test_a_lock_whose_holder_missed_a_renewal_counts_as_left_behind(
    redis: Redis, entity_id: str
) -> None:
    async with RedisLocks(redis, service="a").hold(ENTITY, entity_id):
        await redis.pexpire(key(entity_id), int(locks_module.TTL_SECONDS * 1000 * 0.55))
        lock = await LockBook(redis).get(ENTITY, entity_id)
    assert lock is not None
    assert not lock.renewed


async def test_what_lies_under_a_lock_s_name_and_is_none_hides_no_other(
    redis: Redis, entity_id: str
) -> None:
    await redis.hset(key(f"{entity_id}-odd"), "a", "b")
    await redis.set(key(entity_id), "a script's")
    found = {lock.entity_id for lock in await LockBook(redis).all()}
    assert entity_id in found
    assert f"{entity_id}-odd" not in found
    await redis.delete(key(entity_id), key(f"{entity_id}-odd"))


async def test_an_operator_hears_when_redis_is_away(entity_id: str) -> None:
    settings = RedisSettings.from_env({"REDIS_URL": "redis://127.0.0.1:1/0"})
    async with lock_book(settings) as book:
        with pytest.raises(Transient, match="redis did not answer to list_locks"):
            await book.all()
        with pytest.raises(Transient):
            await book.get(ENTITY, entity_id)


async def test_no_locks_are_always_free(entity_id: str) -> None:
    locks = NoLocks()
    async with locks.hold(ENTITY, entity_id) as one, locks.hold(ENTITY, entity_id) as two:
        assert (one, two) == (True, True)
