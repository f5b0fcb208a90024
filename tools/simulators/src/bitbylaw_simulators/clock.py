"""The simulators' own time: the machine's, another's, or a number that a test moves."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

START = datetime(2026, 3, 9, 8, 0, tzinfo=UTC)
"""Where a virtual clock begins when nobody says otherwise: a Monday morning."""


class SimClock:
    """Tells the time; `advance` moves it forward, whatever its source.

    Without a source it is virtual: it stands still until it is advanced.
    """

    def __init__(
        self,
        source: Callable[[], datetime] | None = None,
        *,
        start: datetime = START,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self._source = source
        self._start = start
        self._sleep = sleep
        self._offset = timedelta()
        self._moved = asyncio.Event()

    @classmethod
    def real(cls) -> "SimClock":
        """Return a clock that follows the machine's."""
        return cls(lambda: datetime.fromtimestamp(time.time(), UTC))  # noqa: TID251 - the one place that asks the machine

    def now(self) -> datetime:
        """Return the time in UTC, zone-aware."""
        return (self._source() if self._source else self._start) + self._offset

    def advance(self, seconds: float) -> datetime:
        """Move forward by `seconds`, wake who sleeps, return the new time.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time moves forward only, not by {seconds} seconds")
        self._offset += timedelta(seconds=seconds)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        return self.now()

    def reset(self) -> None:
        """Forget every `advance`."""
        self._offset = timedelta()

    @property
    def offset(self) -> timedelta:
        """How far the clock was advanced in all."""
        return self._offset

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` of this clock have passed, by themselves or by `advance`."""
        if self._sleep is not None:
            await self._sleep(seconds)
            return
        due = self.now() + timedelta(seconds=seconds)
        while (rest := (due - self.now()).total_seconds()) > 0:
            moved = self._moved
            try:
                await asyncio.wait_for(moved.wait(), rest if self._source else None)
            except TimeoutError:
                continue
