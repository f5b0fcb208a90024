"""The trail of answered calls on Kafka, laid beside the answers: none waits for it."""

import asyncio
from typing import Any

from bitbylaw_common import metrics, topics
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.events import ProxyAnswered
from bitbylaw_common.runtime.context import Context, StepLogger

MOST_WAITING = 2_000
"""Events that wait for Kafka at once; what is beyond is lost, so that memory stays bounded."""

GATHER_SECONDS = 0.05
"""So long an event waits for those of other calls: what a request to Kafka costs comes out of the
time of the calls."""

CLOSE_SECONDS = 5.0


class Trail:
    """Publishes an event for each answered call.

    While Kafka is away calls are answered all the same: nobody shall be kept from a file because a
    note about it cannot be written. What is lost is counted, and said once per outage.
    """

    def __init__(self, logger: StepLogger) -> None:
        self._logger = logger
        self._waiting: set[asyncio.Task[None]] = set()
        self._lost = 0

    def note(self, ctx: Context[Any], event: ProxyAnswered) -> None:
        """Publish `event` as a part of the run of `ctx`, in the background."""
        if len(self._waiting) >= MOST_WAITING:
            self._lose("too many events wait for Kafka")
            return
        task = asyncio.create_task(self._publish(ctx, event))
        self._waiting.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        """Wait a moment for what is on its way."""
        if not self._waiting:
            return
        _, late = await asyncio.wait({*self._waiting}, timeout=CLOSE_SECONDS)
        for task in late:
            task.cancel()
            self._lose("the process ends")
        if late:
            await asyncio.wait(late)

    async def _publish(self, ctx: Context[Any], event: ProxyAnswered) -> None:
        try:
            await ctx.enqueue(topics.PROXY_RESPONSE, event)
        except LogUnavailableError as down:
            self._lose(str(down))
            return
        if self._lost:
            self._logger.info("answered calls are on Kafka again", lost=self._lost)
            self._lost = 0

    def _lose(self, why: str) -> None:
        metrics.PROXY_EVENTS_LOST.inc()
        if not self._lost:
            self._logger.warning("calls are answered without an event about them", error=why)
        self._lost += 1

    def _done(self, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        bug = None if task.cancelled() else task.exception()
        if bug is not None:
            self._logger.error("bug while an event was published", exc_info=bug)
