"""Hosts one consuming app on Kafka: fetch, deliver, commit after the work, rebalance, stop."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from bitbylaw_common import metrics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.kafka.consumer import GroupConsumer
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.ports import Locks, Log
from bitbylaw_common.runtime.worker import Worker

D = TypeVar("D")

COMMIT_SECONDS = 0.5
POLL_SECONDS = 0.2
LOAD_TRIES = 10


class KafkaHost(Generic[D]):
    """One app as a member of its consumer group.

    The times form a chain that is checked at the start: the longest deadline of a handler, the
    drain (10 s more), the rebalance time-out (20 s more), so that a handler that began in time can
    always end and be committed before its partition goes to another.

    Args:
        connect: `KafkaSettings.client_options()`.
        log: open.
        instance: static membership under this id; None for dynamic.
        drain_seconds: overrides the longest deadline plus 10 s; for tests.
    """

    def __init__(
        self,
        app: App[D],
        deps: D,
        *,
        connect: Mapping[str, Any],
        log: Log,
        clock: Clock,
        locks: Locks,
        options: WorkerOptions,
        instance: str | None,
        drain_seconds: float | None = None,
    ) -> None:
        longest = max((step.deadline.total_seconds() for step in app.steps), default=0.0)
        self.drain_seconds = longest + 10 if drain_seconds is None else drain_seconds
        self.worker = Worker(app, deps, log=log, clock=clock, locks=locks, options=options)
        self._app = app
        self._clock = clock
        self._logger = step_logger(service=app.name)
        self._consumer = GroupConsumer(
            connect,
            group=app.name,
            topics=self.worker.subscribed,
            instance=instance,
            rebalance_seconds=self.drain_seconds + 20,
            assigned=self._assigned,
            revoked=self._revoked,
            broken=self.worker.fail,
        )
        self._moved = clock.monotonic()
        self._joined = asyncio.Event()

    @property
    def joined(self) -> bool:
        """Whether the group gave it its partitions since it began; with many members that is none."""
        return self._joined.is_set()

    @property
    def lag(self) -> int:
        """Records between what was fetched and the ends last heard of."""
        return self._consumer.lag()

    def still_for(self) -> float:
        """Return the seconds since the fetch loop last went round."""
        return self._clock.monotonic() - self._moved

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then drain, commit and leave.

        Raises:
            LogUnavailableError: no broker answers at the start.
            Exception: the worker itself broke; the process must end and start anew.
        """
        try:
            await self._consumer.start()
            committed = self._clock.monotonic()
            while not stopping.is_set():
                await self._round()
                if self._clock.monotonic() - committed >= COMMIT_SECONDS:
                    await self._commit()
                    committed = self._clock.monotonic()
            await self.worker.stop(drain_seconds=self.drain_seconds)
            await self._commit()
        finally:
            await self._consumer.stop()
            self.worker.forget(tuple(self.worker.partitions))

    async def close(self) -> None:
        """Let go of what it holds, also when it never ran; after `run` nothing is left to do."""
        await self._consumer.stop()

    async def _round(self) -> None:
        self._moved = self._clock.monotonic()
        self._consumer.pause(on=self.worker.full)
        try:
            records, missing = await self._consumer.fetch(seconds=POLL_SECONDS)
        except LogUnavailableError as down:
            self._logger.warning("Kafka does not answer; fetching again", error=str(down))
            await self._clock.sleep(1)
            return
        for place in missing:
            self._logger.error(
                "records were deleted before they were read; only a full comparison finds what "
                "they said",
                missing=place,
            )
        for record in records:
            self.worker.deliver(record)
        for topic, count in Counter(record.topic for record in records).items():
            metrics.RECORDS_CONSUMED.labels(self._app.name, topic).inc(count)
        self.worker.fire_due()
        self.worker.measure()
        if self.worker.failure.done():
            self.worker.failure.result()
        metrics.PROGRESS_AT.labels(self._app.name).set(self._clock.now().timestamp())

    async def _commit(self) -> None:
        offsets = self.worker.commits()
        try:
            accepted = await self._consumer.commit(offsets)
        except LogUnavailableError as down:
            metrics.COMMITS.labels(self._app.name, "failed").inc()
            self._logger.warning("a commit was not acknowledged; it comes again", error=str(down))
            return
        if not accepted:
            metrics.COMMITS.labels(self._app.name, "refused").inc()
            self._logger.warning("the group refused a commit; the partitions moved on")
            return
        self.worker.committed(offsets)
        if offsets:
            metrics.COMMITS.labels(self._app.name, "done").inc()

    async def _assigned(self, numbers: frozenset[int]) -> None:
        for attempt in range(1, LOAD_TRIES + 1):
            try:
                await self.worker.assign(numbers)
            except LogUnavailableError as down:
                if attempt == LOAD_TRIES:
                    raise
                self._logger.warning(
                    "schedule and base could not be loaded; trying again", error=str(down)
                )
                await self._clock.sleep(1)
            else:
                self._joined.set()
                self._logger.info("partitions taken over", partitions=sorted(numbers))
                return

    async def _revoked(self, numbers: frozenset[int]) -> None:
        await self.worker.revoke(numbers, drain_seconds=self.drain_seconds)
        await self._commit()
        self.worker.forget(numbers)
        self._logger.info("partitions given up", partitions=sorted(numbers))
