"""Hosts one consuming app on Kafka: fetch, deliver, commit after the work, rebalance, stop."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any, Generic, TypeVar

from bitbylaw_common import metrics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import LogUnavailableError, OwnershipLost
from bitbylaw_common.kafka.consumer import GroupConsumer
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.offsets import Commit
from bitbylaw_common.runtime.pipeline import given_way
from bitbylaw_common.runtime.ports import Gates, Locks, Log
from bitbylaw_common.runtime.worker import Place, Worker

D = TypeVar("D")

COMMIT_SECONDS = 0.5
MEASURE_SECONDS = 0.25
"""The gauges need not be newer: a round may be as short as the time between two records."""
REQUESTS_SECONDS = 0.25
ROUNDS_OF_A_LOOK = 4
"""The fetch that is under way when a look begins does not name the requests yet, nor may the next."""
WATCH_SECONDS = 5.0
LOAD_TRIES = 10
REFUSALS_SECONDS = 60.0
"""Refused twice within this, the process ends and begins anew; unless the broker was silent within
it, which is no fault of ours."""
SESSION_SECONDS = 30.0


class RequestLooks:
    """When to fetch what operators ask for: always, but now and then where events come thick.

    A fetch names every partition, and each costs at both ends. The requests have as many partitions
    as the events, and nearly always nothing in them.
    """

    def __init__(self) -> None:
        self._rounds_left = ROUNDS_OF_A_LOOK
        self._looked = 0.0

    def due(self, now: float) -> bool:
        """Return whether the round that begins now, by the clock's seconds, fetches them."""
        if not self._rounds_left and now - self._looked >= REQUESTS_SECONDS:
            self._rounds_left = ROUNDS_OF_A_LOOK
        if self._rounds_left:
            self._looked = now
        return self._rounds_left > 0

    def fetched(self, records: int) -> None:
        """Note how many records a round brought: with none, there is time to look."""
        self._rounds_left = max(0, self._rounds_left - 1) if records else ROUNDS_OF_A_LOOK


class Refusals:
    """When a member that the group refuses must end, so that the process begins anew.

    Args:
        instance: the name of its static membership; None for dynamic.
    """

    def __init__(self, instance: str | None) -> None:
        self._instance = instance
        self._last = float("-inf")

    def told(self, now: float, *, in_time: bool) -> str:
        """Return why the member must end; empty while it may join again.

        Not to be asked about a refusal that follows from the broker's silence.

        Args:
            now: seconds of a monotonic clock.
            in_time: the group had no reason to give up on the member.
        """
        before, self._last = self._last, now
        if self._instance is not None and in_time:
            # Nothing of ours was late, so somebody joined under our name. If both came back they
            # would throw each other out for ever; the newcomer stays.
            return f"another process joined as BBL_INSTANCE={self._instance}: give each its own"
        if now - before <= REFUSALS_SECONDS:
            return (
                f"the group refused this member twice within {REFUSALS_SECONDS:g} s; its "
                "heartbeats come too late: give it more CPU, or raise BBL_SESSION_SECONDS"
            )
        return ""


class KafkaHost(Generic[D]):
    """One app as a member of its consumer group.

    The times form a chain that is checked at the start: the longest deadline of a handler, the
    drain (10 s more), the rebalance time-out (20 s more), so that a handler that began in time can
    always end and be committed before its partition goes to another.

    Args:
        connect: `KafkaSettings.client_options()`.
        log: open.
        gates: which steps may start; None where nobody pauses.
        instance: static membership under this id; None for dynamic.
        session_seconds: a member silent for so long loses its partitions.
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
        gates: Gates | None = None,
        session_seconds: float = SESSION_SECONDS,
        drain_seconds: float | None = None,
    ) -> None:
        longest = max((step.deadline.total_seconds() for step in app.steps), default=0.0)
        self.drain_seconds = longest + 10 if drain_seconds is None else drain_seconds
        self.worker = Worker(
            app,
            deps,
            log=log,
            clock=clock,
            locks=locks,
            options=options,
            gates=gates,
            lease=self._holds_lease,
        )
        self._app = app
        self._clock = clock
        self._logger = step_logger(service=app.name)
        self._consumer = GroupConsumer(
            connect,
            group=app.name,
            topics=self.worker.subscribed,
            instance=instance,
            session_seconds=session_seconds,
            rebalance_seconds=self.drain_seconds + 20,
            assigned=self._assigned,
            revoked=self._revoked,
            refused=self._refused,
            broken=self.worker.fail,
        )
        self._refusals = Refusals(instance)
        self._retaking: asyncio.Task[None] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._moved = clock.monotonic()
        self._measured = float("-inf")
        self._behind: dict[Place, tuple[int, float]] = {}
        self._looks = RequestLooks()
        self._joined = asyncio.Event()

    @property
    def joined(self) -> bool:
        """Whether the group gave it its partitions since it began; with many members that is none."""
        return self._joined.is_set()

    @property
    def lag(self) -> int:
        """Records between what was fetched and the ends last heard of."""
        return self._consumer.lag()

    def stuck_for(self) -> float:
        """Return for how many seconds it should have moved and did not.

        The loop must go round; and a partition that holds more, and is not held back, must be read
        on. A rebalance may take as long as the slowest member drains. Kafka being away is no fault
        of this process.
        """
        now = self._clock.monotonic()
        return max(now - self._moved, max((now - at for _, at in self._behind.values()), default=0))

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then drain, commit and leave.

        Raises:
            LogUnavailableError: no broker answers at the start.
            Exception: the worker itself broke; the process must end and start anew.
        """
        watching: asyncio.Task[None] | None = None
        try:
            await self._consumer.start()
            committed = self._clock.monotonic()
            watching = self._beside(self._watch())
            while not stopping.is_set():
                await self._round()
                if self._clock.monotonic() - committed >= COMMIT_SECONDS:
                    committed = self._clock.monotonic()
                    if self._committing is None or self._committing.done():
                        # Beside the loop: what arrives meanwhile need not wait for the broker.
                        self._committing = self._beside(self._commit())
            await self._stop_retaking()
            await self.worker.stop(drain_seconds=self.drain_seconds)
            await self._last_commit()
        finally:
            if watching is not None:
                watching.cancel()
            await self._stop_retaking()
            await self._consumer.stop()
            self.worker.forget(tuple(self.worker.partitions))
            await self.worker.released()

    async def close(self) -> None:
        """Let go of what it holds, also when it never ran; after `run` nothing is left to do."""
        await self._consumer.stop()

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the loop; what it raises ends the process, as in the loop itself."""
        task = asyncio.create_task(work)
        task.add_done_callback(self.worker.rely_on)
        return task

    async def _round(self) -> None:
        self._moved = self._clock.monotonic()
        held = self.worker.held_back()
        if not self._looks.due(self._moved):
            held |= self.worker.requests
        self._consumer.hold_back(held)
        try:
            records, missing = await self._consumer.fetch()
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
        self._looks.fetched(len(records))
        self.worker.deliver(*records)
        if records:
            await asyncio.sleep(0)  # the handlers go first, then the next fetch
            await given_way()
        for topic, count in Counter(record.topic for record in records).items():
            metrics.RECORDS_CONSUMED.labels(self._app.name, topic).inc(count)
        self.worker.fire_due()
        if self._moved - self._measured >= MEASURE_SECONDS:
            self._measured = self._moved
            self.worker.measure()
        if self.worker.voided and (self._retaking is None or self._retaking.done()):
            self._retaking = self._beside(self._retake())
        if self.worker.failure.done():
            self.worker.failure.result()
        metrics.PROGRESS_AT.labels(self._app.name).set(self._clock.now().timestamp())

    async def _watch(self) -> None:
        """Look again and again whether every partition that holds more is read on.

        aiokafka was seen to leave partitions without a fetch after a rebalance, while everything
        else went on.
        """
        while True:
            await self._clock.sleep(WATCH_SECONDS)
            now = self._clock.monotonic()
            try:
                found = {} if self._consumer.rebalancing else await self._consumer.behind(5)
            except LogUnavailableError:
                found = {}
            held = self.worker.held_back()
            self._behind = {
                place: self._behind[place]
                if place in self._behind and self._behind[place][0] == position
                else (position, now)
                for place, position in found.items()
                if place not in held
            }
            metrics.FETCH_STUCK_SECONDS.labels(self._app.name).set(
                max((now - at for _, at in self._behind.values()), default=0.0)
            )

    async def _commit(self) -> None:
        commits = self.worker.commits()
        try:
            accepted = await self._consumer.commit(commits)
        except LogUnavailableError as down:
            metrics.COMMITS.labels(self._app.name, "failed").inc()
            self._logger.warning("a commit was not acknowledged; it comes again", error=str(down))
            return
        if not accepted:
            metrics.COMMITS.labels(self._app.name, "refused").inc()
            self._logger.warning("the group refused a commit; the partitions moved on")
            return
        self.worker.committed(commits)
        if commits:
            metrics.COMMITS.labels(self._app.name, "done").inc()

    async def _last_commit(self) -> None:
        """Commit after the commit that may be under way, so that the older one cannot come last."""
        if self._committing is not None:
            await asyncio.wait({self._committing}, timeout=10)
        await self._commit()

    # Ownership --------------------------------------------------------------------------------

    def _holds_lease(self) -> bool:
        return self._consumer.holds_lease()

    def _refused(self) -> bool:
        """The group knows us no more: others own the partitions, and every run must end now.

        Returns:
            Whether the process ends by it.
        """
        if not self.worker.partitions and not self.worker.voided:
            return self.worker.failure.done()
        self._logger.error(
            "the group refused this member; its runs are cancelled and it joins again",
            partitions=sorted(self.worker.partitions),
        )
        in_time = self._consumer.holds_lease()
        self.worker.lose("refused")
        ours = not self._consumer.broker_was_silent(REFUSALS_SECONDS)
        if ours and (reason := self._refusals.told(self._clock.monotonic(), in_time=in_time)):
            self.worker.fail(OwnershipLost(reason))
        return self.worker.failure.done()

    async def _retake(self) -> None:
        """Take voided partitions over anew, once the group is known to still count on us."""
        pause = 0.2
        while self.worker.voided and not self.worker.failure.done():
            if self._consumer.holds_lease():
                try:
                    numbers = sorted(self.worker.voided)
                    self._consumer.read_on(await self.worker.retake())
                except LogUnavailableError as down:
                    self._logger.warning(
                        "partitions could not be taken over anew; trying again", error=str(down)
                    )
                else:
                    self._logger.info("partitions taken over anew", partitions=numbers)
                    continue
            await self._clock.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _stop_retaking(self) -> None:
        if self._retaking is not None:
            self._retaking.cancel()
            await asyncio.wait({self._retaking}, timeout=20)
            self._retaking = None

    async def _assigned(self, numbers: frozenset[int], commits: Mapping[Place, Commit]) -> None:
        for attempt in range(1, LOAD_TRIES + 1):
            try:
                await self.worker.assign(numbers, commits)
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
        await self._stop_retaking()
        if not self.worker.partitions and not self.worker.voided:
            # Refused before: the runs are cancelled already, and others own what we had.
            self.worker.forget(numbers)
            return
        await self.worker.revoke(numbers, drain_seconds=self.drain_seconds)
        await self._last_commit()
        self.worker.forget(numbers)
        await self.worker.released()
        self._logger.info("partitions given up", partitions=sorted(numbers))
