"""Watches the event loop from outside of it: how late it is, and who holds it up."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import FrameType

from bitbylaw_common import metrics
from bitbylaw_common.logs import step_logger

BEAT_SECONDS = 0.25
NAMED_SECONDS = 2.0
"""A loop that has not gone round for so long is named in the log, with what holds it up."""


class LoopWatch:
    """A beat on the loop, and a thread that looks whether it still comes.

    What blocks the loop blocks everything on it: heartbeats, so that the group gives the partitions
    away; the health page; every other step. Nothing on the loop can tell of that while it lasts.

    Args:
        report: told once per blockage: the seconds so far, the task, and the line that it is at.
    """

    def __init__(
        self, report: Callable[[float, str, str], None], *, named_seconds: float = NAMED_SECONDS
    ) -> None:
        self._report = report
        self._named_seconds = named_seconds
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._beaten = time.monotonic()
        self._ended = threading.Event()

    async def beat(self) -> None:
        """Beat, and measure how late each beat is, until cancelled."""
        while True:
            due = self._loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            metrics.LOOP_LAG_SECONDS.observe(max(0.0, self._loop.time() - due))
            self._beaten = time.monotonic()

    def look(self) -> None:
        """Look until `end`, on a thread of its own."""
        named, looked = 0.0, time.monotonic()
        while not self._ended.wait(BEAT_SECONDS):
            now, before = time.monotonic(), looked
            beaten, looked = self._beaten, now
            still = now - beaten
            if still < self._named_seconds or named == beaten:
                continue
            if now - before >= self._named_seconds:
                # This thread stood still too: the process was frozen, and no line is to blame.
                continue
            named = beaten
            metrics.LOOP_BLOCKED.inc()
            self._report(still, self._task(), self._line())

    def end(self) -> None:
        """Let `look` return."""
        self._ended.set()

    def _task(self) -> str:
        # The loop's own thread is busy inside the task, so what is current does not change here.
        with suppress(RuntimeError):
            task = asyncio.current_task(self._loop)
            if task is not None:
                return task.get_name()
        return "no task"

    def _line(self) -> str:
        """Return the innermost line that is neither Python's own nor a library's, else the innermost."""
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - there is no other way
        innermost = frame
        while frame is not None and not _ours(frame):
            frame = frame.f_back
        found = frame or innermost
        if found is None:
            return "unknown"
        name = found.f_code.co_filename.rpartition("/")[2]
        return f"{found.f_code.co_qualname} ({name}:{found.f_lineno})"


def _ours(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return "site-packages" not in path and not path.startswith((sys.base_prefix, "<"))


@asynccontextmanager
async def watching(service: str) -> AsyncIterator[None]:
    """Watch the running loop while the block lasts.

    A blocked loop is named in the log within seconds, while it is blocked.
    """
    logger = step_logger(service=service)

    def report(seconds: float, task: str, line: str) -> None:
        logger.error(
            "the event loop is blocked: nothing else runs, and Kafka hears no heartbeat",
            seconds=round(seconds, 1),
            task=task,
            line=line,
            remedy="hand the work to asyncio.to_thread",
        )

    watch = LoopWatch(report)
    beating = asyncio.create_task(watch.beat(), name="loop beat")
    looking = threading.Thread(target=watch.look, name="loop watch", daemon=True)
    looking.start()
    try:
        yield
    finally:
        watch.end()
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        looking.join(timeout=2)
