"""What processes share about outside systems through Redis: how often each may be asked, and by whom.

Rate limits, in which people's calls come first; and the one turn to ask a system that refused a key.
"""

import asyncio
import heapq
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bitbylaw_common import metrics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import HeldBack
from bitbylaw_common.logs import step_logger
from bitbylaw_common.settings import RedisSettings

Priority = Literal["interactive", "sync"]
"""Who waits for the answer: a person, or nobody."""

ANSWER_SECONDS = 1.0
"""Redis is waited for no longer, because a call is better sent by the local limit than late."""

ASK_AGAIN_SECONDS = 10.0
"""While Redis is down it is asked this seldom."""

_MICROSECONDS = 1_000_000
_CALLS_AT_LEAST = 10


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a system may be asked, by all processes and both priorities together.

    In any `window_seconds` at most `calls` are sent. A tenth of them is kept for people: calls of
    "sync" are spread evenly over the rest, and a person's call need not wait behind them.

    Attributes:
        per_second: calls in a second. Below ten, `window_seconds` is as long as ten calls take.
    """

    per_second: float

    @property
    def window_seconds(self) -> float:
        """Over how long the limit is kept exactly."""
        return max(1.0, _CALLS_AT_LEAST / self.per_second)

    @property
    def calls(self) -> int:
        """The most calls in any window."""
        return int(self.per_second * self.window_seconds + 1e-9)

    @property
    def reserve(self) -> int:
        """Calls that people may make at once where "sync" must wait."""
        return max(1, self.calls // 10)

    @property
    def interval(self) -> int:
        """Microseconds that each call uses up."""
        return math.ceil(self.window_seconds * _MICROSECONDS / (self.calls - self.reserve))

    def ahead(self, priority: Priority) -> int:
        """Return how many microseconds may be used up in advance."""
        return self.reserve * self.interval if priority == "interactive" else 0


def admitted(used_until: int, now: int, rate: Rate, priority: Priority) -> tuple[int, int]:
    """Say whether a call may be sent: the generic cell rate algorithm (pure).

    Args:
        used_until: microseconds; until when the calls so far have used the rate up.
        now: microseconds of the same clock.

    Returns:
        How many microseconds to wait before asking again, zero when it may be sent now; and the
        new `used_until`.
    """
    # A clock that was set back must not stop everything until it has caught up.
    used_until = min(used_until, now + rate.ahead("interactive") + rate.interval)
    wait = used_until - rate.ahead(priority) - now
    if wait > 0:
        return wait, used_until
    return 0, max(used_until, now) + rate.interval


_ADMIT = """
local interval, ahead, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('time')
local now = time[1] * 1000000 + time[2]
local asked = tonumber(redis.call('get', KEYS[1]) or '0') or 0
local used = math.min(asked, now + most + interval)
local wait = used - ahead - now
if wait <= 0 then
    used = math.max(used, now) + interval
    wait = 0
end
if used ~= asked then
    local milliseconds = math.ceil((used - now) / 1000) + 1000
    redis.call('set', KEYS[1], string.format('%.0f', used), 'px', milliseconds)
end
return wait
"""
"""`admitted`, by Redis' own clock and for all processes at once."""

_TAKE_TURN = """
if redis.call('set', KEYS[1], '1', 'nx', 'px', ARGV[1]) then return 0 end
return math.max(1, redis.call('pttl', KEYS[1]))
"""


class Turns(Protocol):
    """Who of all processes may ask a system whether it is well again: one at a time."""

    async def take_turn(self, system: str, seconds: float) -> float:
        """Take the turn, so that nobody else has it for `seconds`.

        Returns:
            Zero when it was taken; else for how many seconds another has it still.
        """
        ...

    async def pass_turn_on(self, system: str) -> None:
        """Let the next have the turn at once."""
        ...


class Limits(Turns, Protocol):
    """How often systems may be asked."""

    async def take(
        self,
        system: str,
        operation: str,
        *,
        within_seconds: float,
        priority: Priority,
        order: int,
    ) -> None:
        """Return when a call may be sent; at once for a system without a limit.

        Args:
            system: who is to be asked.
            operation: what for, for the error.
            within_seconds: how long it may take.
            priority: whose calls it competes with, and whose it passes by.
            order: of those of one priority that wait in this process the lowest comes first. With
                the number of the run, a run that began is finished before others begin, instead of
                all of them becoming late.

        Raises:
            HeldBack: not within `within_seconds`; nothing may be sent.
        """
        ...


class NoLimits:
    """Every call may be sent at once, and everybody has a turn."""

    async def take(
        self,
        system: str,
        operation: str,
        *,
        within_seconds: float,
        priority: Priority,
        order: int,
    ) -> None:
        """Return."""

    async def take_turn(self, system: str, seconds: float) -> float:
        """Return zero."""
        return 0.0

    async def pass_turn_on(self, system: str) -> None:
        """Do nothing."""


class _Line:
    """Who waits for a system; one is at its head."""

    def __init__(self) -> None:
        self._taken = False
        self._serial = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    async def enter(self, order: int, late: Coroutine[Any, Any, None]) -> bool:
        """Return True at the head of the line, False when `late` came first."""
        if not self._taken:
            late.close()
            self._taken = True
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serial += 1
        heapq.heappush(self._waiting, (order, self._serial, turn))
        alarm = asyncio.ensure_future(late)
        try:
            await asyncio.wait({turn, alarm}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if turn.done():
                self.leave()
            raise
        finally:
            alarm.cancel()
            turn.cancel()
        return not turn.cancelled()

    def others_before(self, order: int) -> bool:
        """Say whether one waits whose turn comes before `order`."""
        while self._waiting and self._waiting[0][2].done():
            heapq.heappop(self._waiting)
        return bool(self._waiting) and self._waiting[0][0] < order

    def leave(self) -> None:
        """Give the head to the next."""
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False


class LocalLimits:
    """Limits of this process alone: for tests, and while Redis is away.

    Args:
        clock: measures, and lets the waits pass.
        rates: by system; one that is not named has no limit.
    """

    def __init__(self, clock: Clock, rates: Mapping[str, Rate]) -> None:
        self._clock = clock
        self._rates = dict(rates)
        self._used_until: dict[str, int] = {}
        self._turns_until: dict[str, float] = {}
        self._lines: dict[tuple[str, Priority], _Line] = {}

    async def take(
        self,
        system: str,
        operation: str,
        *,
        within_seconds: float,
        priority: Priority,
        order: int,
    ) -> None:
        """See `Limits.take`."""
        rate = self._rates.get(system)
        if rate is None:
            return
        began = self._clock.monotonic()
        line = self._lines.setdefault((system, priority), _Line())
        # Only the first in line asks; the others would only ask to be told to wait.
        head = False
        try:
            while True:
                left = began + within_seconds - self._clock.monotonic()
                head = head or await line.enter(order, self._clock.sleep(left))
                if not head:
                    raise _too_many(system, operation, rate, within_seconds)
                wait = await self._wait(system, rate, priority) / _MICROSECONDS
                if wait == 0:
                    break
                if wait > left:
                    raise _too_many(system, operation, rate, within_seconds)
                await self._clock.sleep(wait)
                if line.others_before(order):
                    head = False
                    line.leave()
        finally:
            if head:
                line.leave()
        waited = self._clock.monotonic() - began
        metrics.RATE_WAIT_SECONDS.labels(system, priority).observe(waited)

    async def _wait(self, system: str, rate: Rate, priority: Priority) -> int:
        """Return how many microseconds to wait; zero when the call was counted and may be sent."""
        now = int(self._clock.monotonic() * _MICROSECONDS)
        before = self._used_until.get(system, now)
        wait, self._used_until[system] = admitted(before, now, rate, priority)
        return wait

    async def take_turn(self, system: str, seconds: float) -> float:
        """See `Turns.take_turn`."""
        now = self._clock.monotonic()
        left = max(0.0, self._turns_until.get(system, now) - now)
        if not left:
            self._turns_until[system] = now + seconds
        return left

    async def pass_turn_on(self, system: str) -> None:
        """See `Turns.pass_turn_on`."""
        self._turns_until.pop(system, None)


class RedisLimits(LocalLimits):
    """Limits that all processes share through Redis; local ones while it is away.

    They lie under `rate:{system}` and `turn:{system}`. While Redis is away each process keeps the
    whole rate, and its own turns, for itself, which is said once and counted.

    Args:
        redis: a client with a socket time-out.
        clock: as for `LocalLimits`; the shared rate goes by Redis' own clock.
        rates: by system; processes that share a Redis must agree on them.
    """

    def __init__(self, redis: Redis, clock: Clock, rates: Mapping[str, Rate]) -> None:
        super().__init__(clock, rates)
        self._redis = redis
        self._down = False
        self._ask_again = 0.0
        self._logger = step_logger()

    async def _wait(self, system: str, rate: Rate, priority: Priority) -> int:
        wait = await self._asked(
            system,
            lambda: self._redis.eval(
                _ADMIT,
                1,
                f"rate:{system}",
                rate.interval,
                rate.ahead(priority),
                rate.ahead("interactive"),
            ),
        )
        return await super()._wait(system, rate, priority) if wait is None else wait

    async def take_turn(self, system: str, seconds: float) -> float:
        """See `Turns.take_turn`."""
        left = await self._asked(
            system,
            lambda: self._redis.eval(_TAKE_TURN, 1, f"turn:{system}", int(seconds * 1000)),
        )
        return await super().take_turn(system, seconds) if left is None else left / 1000

    async def pass_turn_on(self, system: str) -> None:
        """See `Turns.pass_turn_on`."""
        await super().pass_turn_on(system)
        await self._asked(system, lambda: self._redis.delete(f"turn:{system}"))

    async def _asked(self, system: str, question: Callable[[], Awaitable[Any]]) -> int | None:
        """Return Redis' answer; None, counted, while there is none."""
        if not self._down or self._clock.monotonic() >= self._ask_again:
            try:
                answer = int(await question())
            except (RedisError, OSError, TimeoutError) as down:
                self._silent(down)
            else:
                self._answered()
                return answer
        metrics.RATE_STORE_DOWN.labels(system).inc()
        return None

    def _answered(self) -> None:
        metrics.REDIS_UP.set(1)
        if self._down:
            self._down = False
            self._logger.info("Redis answers again; rate limits are shared")

    def _silent(self, down: Exception) -> None:
        metrics.REDIS_UP.set(0)
        self._ask_again = self._clock.monotonic() + ASK_AGAIN_SECONDS
        if not self._down:
            self._down = True
            self._logger.warning(
                "Redis does not answer; each process keeps its rate limits alone",
                error=type(down).__name__,
            )


def _too_many(system: str, operation: str, rate: Rate, seconds: float) -> HeldBack:
    return HeldBack(
        system,
        operation,
        reason=f"its limit of {rate.per_second:g} calls a second left no room for {seconds:g} s",
        after=timedelta(seconds=rate.window_seconds),
    )


@asynccontextmanager
async def shared_limits(
    settings: RedisSettings, clock: Clock, rates: Mapping[str, float | None]
) -> AsyncIterator[Limits]:
    """Open what keeps rates and turns together with the other processes; Redis itself may be away.

    Args:
        settings: how to reach Redis.
        clock: as for `LocalLimits`.
        rates: calls in a second by system; None for no limit. Where none is limited, Redis is
            asked for turns alone.
    """
    limited = {system: Rate(rate) for system, rate in rates.items() if rate is not None}
    seconds = min(settings.timeout_seconds, ANSWER_SECONDS)
    redis = Redis.from_url(
        settings.connection_url(settings.db_advoware_cache).get_secret_value(),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
    )
    try:
        yield RedisLimits(redis, clock, limited)
    finally:
        await redis.aclose()
