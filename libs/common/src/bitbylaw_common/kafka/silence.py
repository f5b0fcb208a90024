"""Whether a broker that refuses a member had been silent before."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Silence:
    """When the broker left a heartbeat unanswered, though this process was there to hear it.

    Of one heartbeat at a time.

    A process that stood still itself hears no answer either; so the time to answer is counted in
    two halves, and after a pause of its own at most one of them is over before it reads what came.

    Args:
        patience_seconds: unanswered for so long, a heartbeat counts as not answered.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._half = patience_seconds / 2
        self._timer: asyncio.TimerHandle | None = None
        self._silent = False
        self._silent_until = float("-inf")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the answer to a heartbeat in this block; say in it how it ended."""
        self._count_half(self._halfway)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _halfway(self) -> None:
        self._count_half(self.failed)

    def _count_half(self, then: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._half, then)

    def failed(self) -> None:
        """Note that no answer came, or an error of the connection."""
        self._silent = True

    def answered(self) -> None:
        """Note an answer, of whatever content."""
        if self._silent:
            self._silent, self._silent_until = False, time.monotonic()

    def within(self, seconds: float) -> bool:
        """Return whether the broker is silent, or was so within the last `seconds`."""
        return self._silent or time.monotonic() - self._silent_until <= seconds
