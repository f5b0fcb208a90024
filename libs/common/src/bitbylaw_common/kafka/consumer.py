"""The group consumer of one service: fetch, commit, rebalance; what to do is the worker's."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError

from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.kafka.assignor import NumberAssignor
from bitbylaw_common.kafka.log import from_kafka
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.topics import LARGE_RECORD_BYTES

SESSION_MS = 30_000
Partitions = Callable[[frozenset[int]], Awaitable[None]]
Broken = Callable[[Exception], None]


class GroupConsumer:
    """A member of the service's consumer group.

    Args:
        options: how to connect: `KafkaSettings.client_options()`.
        group: the service's name.
        topics: what to subscribe to; each has the same partitions.
        instance: static membership under this id; None for dynamic.
        rebalance_seconds: how long the group waits for a member that drains.
        assigned: called with the numbers that are owned in every topic, perhaps none, before any
            record of them is fetched.
        revoked: called before the numbers are given up; commits inside it still count.
        broken: told what either of them raised; the member must not go on then.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        group: str,
        topics: Sequence[str],
        instance: str | None,
        rebalance_seconds: float,
        assigned: Partitions,
        revoked: Partitions,
        broken: Broken,
    ) -> None:
        self._topics = tuple(topics)
        self._consumer = AIOKafkaConsumer(
            **options,
            group_id=group,
            client_id=f"{group}-{instance or 'worker'}",
            group_instance_id=instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(NumberAssignor,),
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=3_000,
            max_poll_interval_ms=int(rebalance_seconds * 1000) + 60_000,
            rebalance_timeout_ms=int(rebalance_seconds * 1000),
            isolation_level="read_committed",
            metadata_max_age_ms=30_000,
            max_partition_fetch_bytes=LARGE_RECORD_BYTES // 12,
        )
        self._listener = _Listener(self._topics, assigned, revoked, broken)
        self._paused: frozenset[TopicPartition] = frozenset()
        self._polling: asyncio.Task[tuple[int, dict[TopicPartition, list[Any]]]] | None = None

    async def start(self) -> None:
        """Connect and join.

        Raises:
            LogUnavailableError: no broker answers.
        """
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as down:
            await self._consumer.stop()
            raise LogUnavailableError(
                f"no Kafka broker answers at KAFKA_BOOTSTRAP_SERVERS: {type(down).__name__}"
            ) from down
        self._listener.consumer = self._consumer
        self._consumer.subscribe(list(self._topics), listener=self._listener)

    async def stop(self) -> None:
        """Leave: a dynamic member tells the group, a static one keeps its place."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait({self._polling})
            self._polling = None
        await self._consumer.stop()

    async def fetch(self, *, seconds: float, records: int = 500) -> tuple[list[Record], list[str]]:
        """Return the next records, and the places of records that were deleted before we read them.

        No commit means from the beginning; where the log begins later than the commit, or a fetch
        jumps, records are missing, and only a full comparison finds what they said.

        Raises:
            LogUnavailableError: the broker cannot be asked; try again.
        """
        # While the group rebalances, getmany waits without end: it goes on beside the loop, which
        # must see a stop, and its answer counts only for the ownership it was drained under.
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll(seconds, records))
        done, _ = await asyncio.wait({self._polling}, timeout=seconds * 2)
        if not done:
            return [], []
        polling, self._polling = self._polling, None
        try:
            generation, batches = polling.result()
        except KafkaError as down:
            raise LogUnavailableError(f"fetch failed: {type(down).__name__}") from down
        if generation != self._listener.generation:
            return [], []
        expected = self._listener.expected
        missing: list[str] = []
        fetched: list[Record] = []
        for place, found in batches.items():
            first = found[0].offset
            if first > expected.get(place, first):
                missing.append(f"{place.topic}:{place.partition}:{expected[place]}-{first - 1}")
            expected[place] = found[-1].offset + 1
            fetched.extend(map(from_kafka, found))
        return fetched, missing

    async def _poll(
        self, seconds: float, records: int
    ) -> tuple[int, dict[TopicPartition, list[Any]]]:
        batches = await self._consumer.getmany(timeout_ms=int(seconds * 1000), max_records=records)
        return self._listener.generation, batches

    def pause(self, *, on: bool) -> None:
        """Stop or go on fetching; membership and polling go on either way."""
        assigned = frozenset(self._consumer.assignment())
        if on and self._paused != assigned:
            self._consumer.pause(*assigned)
            self._paused = assigned
        elif not on and self._paused:
            self._consumer.resume(*(self._paused & assigned))
            self._paused = frozenset()

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> bool:
        """Commit; False when the group refused because the partitions are no longer ours.

        Raises:
            LogUnavailableError: the broker cannot be asked; the commit may have happened.
        """
        if not offsets:
            return True
        try:
            await self._consumer.commit(
                {TopicPartition(*place): offset for place, offset in offsets.items()}
            )
        except CommitFailedError:
            return False
        except KafkaError as down:
            raise LogUnavailableError(f"commit failed: {type(down).__name__}") from down
        return True

    def lag(self) -> int:
        """Return how many records lie between what was fetched and the ends last heard of."""
        total = 0
        for place in self._consumer.assignment():
            end = self._consumer.highwater(place)
            position = self._listener.expected.get(place, 0)
            if end is not None:
                total += max(0, end - position)
        return total


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka carries no types
    """Turns aiokafka's callbacks over topic partitions into numbers owned everywhere.

    aiokafka logs what a callback raises and goes on, with partitions that nobody works on; here
    it is told to `broken`, so that the process ends and begins anew.
    """

    def __init__(
        self, topics: Sequence[str], assigned: Partitions, revoked: Partitions, broken: Broken
    ) -> None:
        self._topics = topics
        self._assigned = assigned
        self._revoked = revoked
        self._broken = broken
        self._numbers: frozenset[int] = frozenset()
        self.expected: dict[TopicPartition, int] = {}
        self.generation = 0
        self.consumer: AIOKafkaConsumer | None = None

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Give up all that is owned: aiokafka rebalances eagerly, so all is revoked at once."""
        self.generation += 1
        leaving, self._numbers = self._numbers, frozenset()
        try:
            if leaving:
                await self._revoked(leaving)
        except Exception as error:  # noqa: BLE001 - aiokafka would swallow whatever it is
            self._broken(error)
        self.expected = {}

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Take over the numbers that are ours in every topic; they may be none."""
        numbers = [
            {place.partition for place in assigned if place.topic == topic}
            for topic in self._topics
        ]
        self._numbers = frozenset(set.intersection(*numbers)) if numbers else frozenset()
        try:
            # aiokafka calls back beside the fetch loop: a record fetched before the state is
            # loaded would be delivered to nobody.
            if self.consumer is not None:
                self.consumer.pause(*assigned)
                await self._expect(self.consumer, tuple(assigned))
            await self._assigned(self._numbers)
            if self.consumer is not None:
                self.consumer.resume(*assigned)
        except Exception as error:  # noqa: BLE001 - aiokafka would swallow whatever it is
            self._broken(error)

    async def _expect(self, consumer: AIOKafkaConsumer, places: tuple[TopicPartition, ...]) -> None:
        """Learn from the commits which record comes next in each partition."""
        commits = await asyncio.gather(*(consumer.committed(place) for place in places))
        self.expected = {
            place: commit
            for place, commit in zip(places, commits, strict=True)
            if commit is not None
        }
