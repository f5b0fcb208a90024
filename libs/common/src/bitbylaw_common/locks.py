"""Redis locks against actors outside the consumer group; without Redis work goes on."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bitbylaw_common import metrics
from bitbylaw_common.logs import step_logger
from bitbylaw_common.settings import RedisSettings

TTL_SECONDS = 30
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
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[4])
return 1
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""
_RENEW = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end
return 0
"""


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
        self._process = f"{service}/{secrets.token_hex(8)}/"
        self._down = False
        self._ask_again = 0.0
        self._logger = step_logger(service=service)

    @asynccontextmanager
    async def hold(self, entity: str, entity_id: str) -> AsyncIterator[bool]:
        """Hold the lock for the length of the block; see `Locks.hold`."""
        name = f"sync_lock:{entity}:{entity_id}"
        token = f"{self._process}{secrets.token_hex(16)}"
        if self._down and asyncio.get_running_loop().time() < self._ask_again:
            metrics.LOCK_STORE_DOWN.labels(entity).inc()
            yield True
            return
        try:
            held = bool(
                await self._redis.eval(
                    _TAKE, 1, name, token, self._group, self._process, TTL_SECONDS * 1000
                )
            )
            self._answered()
        except (RedisError, OSError, TimeoutError) as down:
            metrics.LOCK_STORE_DOWN.labels(entity).inc()
            self._silent(down)
            yield True
            return
        if not held:
            yield False
            return
        renewing = asyncio.create_task(self._renew(name, token))
        try:
            yield True
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing
            await self._release(name, token)

    async def _renew(self, name: str, token: str) -> None:
        while True:
            await asyncio.sleep(TTL_SECONDS / 3)
            try:
                await self._redis.eval(_RENEW, 1, name, token, TTL_SECONDS * 1000)
                self._answered()
            except (RedisError, OSError, TimeoutError) as down:
                self._silent(down)

    async def _release(self, name: str, token: str) -> None:
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


@asynccontextmanager
async def redis_locks(settings: RedisSettings, *, service: str) -> AsyncIterator[RedisLocks]:
    """Open a client and return its locks; Redis itself may be away."""
    redis = Redis.from_url(
        settings.connection_url(settings.db_advoware_cache).get_secret_value(),
        socket_timeout=settings.timeout_seconds,
        socket_connect_timeout=settings.timeout_seconds,
    )
    try:
        yield RedisLocks(redis, service=service)
    finally:
        await redis.aclose()


class NoLocks:
    """Every lock is free: for apps that need none, and for tests of the log's own order."""

    @asynccontextmanager
    async def hold(self, entity: str, entity_id: str) -> AsyncIterator[bool]:
        """Yield True."""
        yield True
