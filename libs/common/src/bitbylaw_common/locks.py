"""Redis locks against actors outside the consumer group; without Redis work goes on."""

import asyncio
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bitbylaw_common import metrics
from bitbylaw_common.errors import Transient
from bitbylaw_common.logs import step_logger
from bitbylaw_common.settings import RedisSettings

TTL_SECONDS: float = 30
"""A lock whose holder died is free after this; a living holder renews every third of it."""

ASK_AGAIN_SECONDS = 2.0
"""While Redis is down it is asked this seldom, so that a silent one does not slow every run."""

_TAKE = """
local holder = redis.call('get', KEYS[1])
if holder then
    local of_group = string.sub(holder, 1, #ARGV[2]) == ARGV[2]
    local of_process = string.sub(holder, 1, #ARGV[3]) == ARGV[3]
    if of_process or not of_group then return 0 end
end
local time = redis.call('time')
local token = ARGV[1] .. '/' .. time[1]
redis.call('set', KEYS[1], token, 'px', ARGV[4])
return token
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""
_RENEW = """
local holder = redis.call('get', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
return 1
"""
"""A lock that is gone, such as after a restart of Redis, is taken again; another's is left."""


class RedisLocks:
    """Locks under `sync_lock:{entity}:{id}`, each with a token only its holder knows.

    The consumer group alone keeps one record to one worker. These locks guard against actors
    outside it, such as a script run by hand, and keep two steps of one process apart; so when
    Redis is down a run goes on without one, and a lock that another process of the same service
    left behind, killed perhaps, is taken over at once: whoever owns the partition now is the only
    one of the service who may work on the record.

    Args:
        redis: a client with a socket time-out.
        service: whose workers share their locks; named in the one warning per outage.
    """

    def __init__(self, redis: Redis, *, service: str) -> None:
        self._redis = redis
        self._group = f"{service}/"
        self._process = f"{service}/{_this_process()}/"
        self._down = False
        self._ask_again = 0.0
        self._logger = step_logger(service=service)

    @asynccontextmanager
    async def hold(
        self, entity: str, entity_id: str, lost: Callable[[], None] | None = None
    ) -> AsyncIterator[bool]:
        """Hold the lock for the length of the block; see `Locks.hold`.

        Args:
            entity: the lock's word, such as "document".
            entity_id: the record.
            lost: called, at most once, when another has taken the lock during the block, because
                its time ran out while this process stood still or Redis was away: the run should
                write nothing more.
        """
        name = f"sync_lock:{entity}:{entity_id}"
        if self._down and asyncio.get_running_loop().time() < self._ask_again:
            metrics.LOCK_STORE_DOWN.labels(entity).inc()
            yield True
            return
        try:
            token = await self._redis.eval(
                _TAKE,
                1,
                name,
                f"{self._process}{secrets.token_hex(16)}",
                self._group,
                self._process,
                _milliseconds(TTL_SECONDS),
            )
            self._answered()
        except (RedisError, OSError, TimeoutError) as down:
            metrics.LOCK_STORE_DOWN.labels(entity).inc()
            self._silent(down)
            yield True
            return
        if not token:
            yield False
            return
        renewing = asyncio.create_task(self._renew(name, token, entity, lost))
        try:
            yield True
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing
            await self._release(name, token)

    async def _renew(
        self, name: str, token: bytes | str, entity: str, lost: Callable[[], None] | None
    ) -> None:
        ours = True
        while ours:
            await asyncio.sleep(TTL_SECONDS / 3)
            try:
                renewed = await self._redis.eval(_RENEW, 1, name, token, _milliseconds(TTL_SECONDS))
                ours = bool(renewed)
                self._answered()
            except (RedisError, OSError, TimeoutError) as down:
                self._silent(down)
        metrics.LOCKS_LOST.labels(entity).inc()
        self._logger.warning("another took the lock of a record that is worked on", entity=entity)
        if lost is not None:
            lost()

    async def _release(self, name: str, token: bytes | str) -> None:
        try:
            await self._redis.eval(_RELEASE, 1, name, token)
            self._answered()
        except (RedisError, OSError, TimeoutError) as down:
            # It frees itself after its time to live.
            self._silent(down)

    def _answered(self) -> None:
        metrics.REDIS_UP.set(1)
        if self._down:
            self._down = False
            self._logger.info("Redis answers again; locks are held")

    def _silent(self, down: Exception) -> None:
        metrics.REDIS_UP.set(0)
        self._ask_again = asyncio.get_running_loop().time() + ASK_AGAIN_SECONDS
        if not self._down:
            self._down = True
            self._logger.warning(
                "Redis does not answer; work goes on without its locks", error=type(down).__name__
            )


def _this_process() -> str:
    """Return what names this process, and nothing that ever ran before it."""
    host = re.sub(r"[^\w.-]", "-", socket.gethostname())
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _client(settings: RedisSettings) -> Redis:
    return Redis.from_url(
        settings.connection_url(settings.db_advoware_cache).get_secret_value(),
        socket_timeout=settings.timeout_seconds,
        socket_connect_timeout=settings.timeout_seconds,
    )


@asynccontextmanager
async def redis_locks(settings: RedisSettings, *, service: str) -> AsyncIterator[RedisLocks]:
    """Open a client and return its locks; Redis itself may be away."""
    redis = _client(settings)
    try:
        yield RedisLocks(redis, service=service)
    finally:
        await redis.aclose()


class NoLocks:
    """Every lock is free: for apps that need none, and for tests of the log's own order."""

    @asynccontextmanager
    async def hold(
        self, entity: str, entity_id: str, lost: Callable[[], None] | None = None
    ) -> AsyncIterator[bool]:
        """Yield True."""
        yield True


# -- for operators --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock as it lies in Redis.

    Attributes:
        entity, entity_id: the record it guards.
        service, process: who holds it; empty when it is none of ours.
        taken: when, UTC; None when it is none of ours.
        seconds_left: until it frees itself; None when it never does.
        token: what lies in Redis.
    """

    entity: str
    entity_id: str
    service: str
    process: str
    taken: datetime | None
    seconds_left: float | None
    token: str

    @property
    def renewed_seconds_ago(self) -> float | None:
        """How long ago its holder renewed it; None when it is none of ours."""
        if not self.service or self.seconds_left is None:
            return None
        return max(0.0, TTL_SECONDS - self.seconds_left)

    @property
    def renewed(self) -> bool:
        """Whether its holder renewed it when it last should have, and so is at work, or was."""
        ago = self.renewed_seconds_ago
        return ago is not None and ago <= TTL_SECONDS / 3 + RENEWAL_SLACK_SECONDS


RENEWAL_SLACK_SECONDS = 2.0
"""How much later than planned a busy process may renew a lock."""

_OURS = re.compile(r"([^/]+)/([^/]+)/[0-9a-f]{32}/([0-9]{1,12})")


class LockBook:
    """The locks of every service, to look at and to free; see `lock_book`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def all(self) -> list[HeldLock]:
        """Return every lock that is held, by record.

        Raises:
            Transient: Redis does not answer.
        """
        found = []
        with _redis_asked("list_locks"):
            async for name in self._redis.scan_iter(match="sync_lock:*", count=500):
                lock = await self._read(name.decode("utf-8", "replace"))
                if lock is not None:
                    found.append(lock)
        return sorted(found, key=lambda lock: (lock.entity, lock.entity_id))

    async def get(self, entity: str, entity_id: str) -> HeldLock | None:
        """Return the record's lock; None when nobody holds it.

        Raises:
            Transient: Redis does not answer.
        """
        with _redis_asked("get_lock"):
            return await self._read(f"sync_lock:{entity}:{entity_id}")

    async def free(self, lock: HeldLock) -> bool:
        """Free the lock, whoever holds it; False when it has changed hands since it was read.

        A holder that lives takes it again at its next renewal, unless somebody else has it then.

        Raises:
            Transient: Redis does not answer; it may be free.
        """
        with _redis_asked("free_lock"):
            name = f"sync_lock:{lock.entity}:{lock.entity_id}"
            token = lock.token.encode("utf-8", "surrogateescape")
            return bool(await self._redis.eval(_RELEASE, 1, name, token))

    async def _read(self, name: str) -> HeldLock | None:
        async with self._redis.pipeline(transaction=True) as both:
            both.get(name)
            both.pttl(name)
            value, left = await both.execute(raise_on_error=False)
        if not isinstance(value, bytes) or not isinstance(left, int):
            return None  # gone since it was listed, or no lock at all
        entity, _, entity_id = name.removeprefix("sync_lock:").partition(":")
        token = value.decode("utf-8", "surrogateescape")
        ours = _OURS.fullmatch(token)
        service, process, taken = ours.groups() if ours else ("", "", None)
        return HeldLock(
            entity,
            entity_id,
            service,
            process,
            None
            if taken is None
            else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(taken)),
            left / 1000 if left >= 0 else None,
            token,
        )


@contextmanager
def _redis_asked(operation: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as down:
        raise Transient("redis", operation, detail=type(down).__name__) from None


@asynccontextmanager
async def lock_book(settings: RedisSettings) -> AsyncIterator[LockBook]:
    """Open the locks for an operator."""
    redis = _client(settings)
    try:
        yield LockBook(redis)
    finally:
        await redis.aclose()
