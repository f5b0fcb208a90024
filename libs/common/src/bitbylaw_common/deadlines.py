"""A time limit for very many short waits, with one timer for all of them."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Self


class Deadlines:
    """Limits of one length: `with deadlines.limit(): await ...`.

    As `asyncio.timeout`, for what happens thousands of times a second and hardly ever takes so
    long: the first to begin is the first to be late, so one timer serves all.

    Lives on the event loop of its first limit; Python's own way to it is a system call, each time.

    Args:
        seconds: after which what is awaited in the block is cancelled.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: deque[Limit] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def limit(self) -> "Limit":
        """Return the limit of one block, counted from now.

        The block raises `TimeoutError` when it takes longer.
        """
        loop = self._lives_on()
        return self._begun(Limit(asyncio.current_task(loop), loop.time() + self.seconds), loop)

    def renewed(self, limit: "Limit") -> "Limit":
        """Return a limit of the same block, counted from now, in place of the one before.

        May be called from another task. The block ends with the one returned.
        """
        loop = self._lives_on()
        limit.over = True
        return self._begun(limit.until(loop.time() + self.seconds), loop)

    def _lives_on(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _begun(self, limit: "Limit", loop: asyncio.AbstractEventLoop) -> "Limit":
        self._forget()
        self._open.append(limit)
        if self._timer is None:
            self._timer = loop.call_at(limit.due, self._ring, loop)
        return limit

    def _forget(self) -> None:
        while self._open and self._open[0].over:
            self._open.popleft()

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._forget()
        while self._open and self._open[0].due <= loop.time():
            self._open.popleft().expire()
            self._forget()
        self._timer = loop.call_at(self._open[0].due, self._ring, loop) if self._open else None


class Limit:
    """One block's limit; see `Deadlines`.

    Attributes:
        due: when it is late, by the loop's clock.
        over: the block has ended, or it may take as long as it likes for now.
        expired: it was late, and is being cancelled.
    """

    __slots__ = ("_asked", "_task", "due", "expired", "over")

    def __init__(self, task: asyncio.Task[Any] | None, due: float) -> None:
        if task is None:
            raise RuntimeError("a limit holds within a task only")
        self._task = task
        self._asked = task.cancelling()
        self.expired = False
        self.due = due
        self.over = False

    def __enter__(self) -> Self:
        """Begin the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the block.

        Raises:
            TimeoutError: it was cancelled because it took too long, and by nobody else.
        """
        self.over = True
        if self.expired and self._task.uncancel() <= self._asked and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def until(self, due: float) -> "Limit":
        """Return another limit of the same block."""
        other = Limit(self._task, due)
        other._asked = self._asked
        return other

    def expire(self) -> None:
        """Cancel what the block awaits."""
        self.expired = True
        self._task.cancel()
