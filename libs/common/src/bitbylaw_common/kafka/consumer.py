"""The group consumer of one service: fetch, commit, rebalance; what to do is the worker's."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from aiokafka.structs import OffsetAndMetadata

from bitbylaw_common.deadlines import Deadlines
from bitbylaw_common.errors import LogUnavailableError, OwnershipLost
from bitbylaw_common.kafka.assignor import NumberAssignor
from bitbylaw_common.kafka.closing import closed
from bitbylaw_common.kafka.log import from_kafka
from bitbylaw_common.kafka.lookup import asks_again
from bitbylaw_common.kafka.silence import Silence
from bitbylaw_common.runtime.offsets import Commit
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.topics import LARGE_RECORD_BYTES

HEARTBEATS_PER_SESSION = 10
PATIENCE_HEARTBEATS = 2
"""The broker is silent when a heartbeat stays without an answer for the time of so many."""
COMMIT_SECONDS = 5.0
COMMIT_PAUSE_SECONDS = 0.1
POLL_SECONDS = 0.2
"""So long a fetch waits for a record."""

Place = tuple[str, int]
Assigned = Callable[[frozenset[int], Mapping[Place, Commit]], Awaitable[None]]
Revoked = Callable[[frozenset[int]], Awaitable[None]]
Refused = Callable[[], bool]
Broken = Callable[[Exception], None]


class GroupConsumer:
    """A member of the service's consumer group.

    Args:
        options: how to connect: `KafkaSettings.client_options()`.
        group: the service's name.
        topics: what to subscribe to; each has the same partitions.
        instance: static membership under this id; None for dynamic.
        session_seconds: without a heartbeat for so long the group gives the partitions to others.
        rebalance_seconds: how long the group waits for a member that drains.
        assigned: called with the numbers that are owned in every topic, perhaps none, and their
            commits, before any record of them is fetched.
        revoked: called before the numbers are given up; commits inside it still count.
        refused: called when the group answers a heartbeat or a commit as it does to a stranger:
            the partitions belong to others already. Returns whether the member gives up; then it
            does not join again.
        broken: told what `assigned` or `revoked` raised; the member must not go on then.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        group: str,
        topics: Sequence[str],
        instance: str | None,
        session_seconds: float,
        rebalance_seconds: float,
        assigned: Assigned,
        revoked: Revoked,
        refused: Refused,
        broken: Broken,
    ) -> None:
        self._topics = tuple(topics)
        self._session_seconds = session_seconds
        self._consumer = AIOKafkaConsumer(
            **options,
            group_id=group,
            client_id=f"{group}-{instance or 'worker'}",
            group_instance_id=instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(NumberAssignor,),
            session_timeout_ms=int(session_seconds * 1000),
            heartbeat_interval_ms=int(session_seconds * 1000 / HEARTBEATS_PER_SESSION),
            max_poll_interval_ms=int(rebalance_seconds * 1000) + 60_000,
            rebalance_timeout_ms=int(rebalance_seconds * 1000),
            isolation_level="read_committed",
            metadata_max_age_ms=30_000,
            max_partition_fetch_bytes=LARGE_RECORD_BYTES // 12,
        )
        self._listener = _Listener(self._topics, assigned, revoked, broken)
        self._refused = refused
        self._beat_at = 0.0
        self._silence = Silence(PATIENCE_HEARTBEATS * session_seconds / HEARTBEATS_PER_SESSION)
        self._paused: frozenset[TopicPartition] = frozenset()
        self._paused_under = -1
        self._fetching = Deadlines(2 * POLL_SECONDS)
        self._sought: set[TopicPartition] = set()

    async def start(self) -> None:
        """Connect and join.

        Raises:
            LogUnavailableError: no broker answers.
        """
        asks_again(self._consumer._client)  # noqa: SLF001 - there is no public way
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as down:
            await closed(self._consumer.stop())
            raise LogUnavailableError(
                f"no Kafka broker answers at KAFKA_BOOTSTRAP_SERVERS: {type(down).__name__}"
            ) from down
        self._watch_heartbeats()
        self._listener.consumer = self._consumer
        self._consumer.subscribe(list(self._topics), listener=self._listener)

    def _watch_heartbeats(self) -> None:
        """Learn of each heartbeat's answer: aiokafka only logs it.

        An accepted one renews the lease from the moment it was sent; one after which the generation
        is reset was refused.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - there is no public way
        beat = coordinator._do_heartbeat  # noqa: SLF001

        async def watched() -> bool:
            sent, generation = time.monotonic(), coordinator.generation
            with self._silence.waiting():
                accepted: bool = await beat()
            if accepted:
                self._beat_at = sent
                self._silence.answered()
            elif coordinator.generation != generation:
                self._silence.answered()
                self._told_off()
            else:
                self._silence.failed()
            return accepted

        coordinator._do_heartbeat = watched  # noqa: SLF001

    def _told_off(self) -> None:
        if self._refused():
            # aiokafka would join again at once, under the same name, and throw the other out.
            self._consumer._coordinator._coordination_task.cancel()  # noqa: SLF001

    def broker_was_silent(self, seconds: float) -> bool:
        """Return whether the broker left a heartbeat without an answer within so many seconds."""
        return self._silence.within(seconds)

    def holds_lease(self) -> bool:
        """Whether the group still counts on this member, as far as it can know.

        So after a freeze the first question is answered rightly, before any heartbeat is. One
        heartbeat's time is kept as a margin: the broker may have begun to count a little earlier.
        """
        silent = time.monotonic() - max(self._beat_at, self._listener.joined_at)
        return silent < self._session_seconds * (1 - 1 / HEARTBEATS_PER_SESSION)

    async def stop(self) -> None:
        """Leave, within seconds: a dynamic member tells the group, a static one keeps its place."""
        await closed(self._consumer.stop())

    async def fetch(self, *, records: int = 500) -> tuple[list[Record], list[str]]:
        """Return the next records, and the places of records that were deleted before we read them.

        No commit means from the beginning; where the log begins later than the commit, or a fetch
        jumps, records are missing, and only a full comparison finds what they said.

        Raises:
            LogUnavailableError: the broker cannot be asked; try again.
            OwnershipLost: aiokafka's own task for the membership broke; begin anew.
        """
        self._sought.clear()
        batches: Mapping[TopicPartition, list[Any]] = {}
        try:
            # While the group rebalances, getmany waits without end; the loop must see a stop. What
            # it has taken it returns at once, so nothing is lost where it is cancelled.
            with suppress(TimeoutError), self._fetching.limit():
                batches = await self._consumer.getmany(
                    timeout_ms=int(POLL_SECONDS * 1000), max_records=records
                )
        except KafkaError as down:
            if self._consumer._coordinator._coordination_task.done():  # noqa: SLF001
                # What keeps the membership ended; no fetch would ever bring anything again.
                raise OwnershipLost(f"the membership of the group broke: {down}") from down
            raise LogUnavailableError(f"fetch failed: {type(down).__name__}") from down
        expected = self._listener.expected
        missing: list[str] = []
        fetched: list[Record] = []
        for place, found in batches.items():
            if place in self._sought:
                continue
            first = found[0].offset
            if first > expected.get(place, first):
                missing.append(f"{place.topic}:{place.partition}:{expected[place]}-{first - 1}")
            expected[place] = found[-1].offset + 1
            fetched.extend(map(from_kafka, found))
        return fetched, missing

    def hold_back(self, places: AbstractSet[Place]) -> None:
        """Fetch nothing of these, go on with all others; membership and polling go on either way."""
        if not self._listener.settled:
            return
        generation = self._listener.generation
        if generation != self._paused_under:
            self._paused, self._paused_under = frozenset(), generation
        if self._paused == places:
            return
        wanted = frozenset(TopicPartition(*place) for place in places)
        assigned = frozenset(self._consumer.assignment())
        if stopping := (wanted - self._paused) & assigned:
            self._consumer.pause(*stopping)
        if going := (self._paused - wanted) & assigned:
            self._consumer.resume(*going)
        self._paused = wanted

    def read_on(self, starts: Mapping[Place, int | None]) -> None:
        """Fetch these again from their starts; None is the beginning.

        What was fetched of them and not taken yet is dropped: it would be taken before what lies
        ahead of it. Nothing is awaited here, so nothing can be fetched in between.
        """
        assigned = self._consumer.assignment()
        for place, start in starts.items():
            where = TopicPartition(*place)
            if where not in assigned:
                continue
            self._sought.add(where)
            self._listener.expected.pop(where, None)
            # Before the log's beginning the broker's own reset leads to it.
            self._consumer.seek(where, start or 0)
            if start is not None:
                self._listener.expected[where] = start

    async def commit(self, commits: Mapping[Place, Commit]) -> bool:
        """Commit; False when the group refused because the partitions are no longer ours.

        Raises:
            LogUnavailableError: the broker cannot be asked, or the group is just rebalancing; the
                commit may have happened.
        """
        if not commits:
            return True
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                return await self._commit_until_answered(
                    {
                        TopicPartition(*place): OffsetAndMetadata(commit.offset, commit.metadata)
                        for place, commit in commits.items()
                    }
                )
        except RebalanceInProgressError as moving:
            raise LogUnavailableError("commit put off: the group is rebalancing") from moving
        except (UnknownMemberIdError, IllegalGenerationError):
            self._told_off()
            return False
        except (KafkaError, TimeoutError) as down:
            raise LogUnavailableError(f"commit failed: {type(down).__name__}") from down

    async def _commit_until_answered(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> bool:
        """Ask until there is an answer; False between two assignments, when nothing is assigned.

        aiokafka's own `commit` goes on where it is cancelled: what it asked of a silent broker is
        answered when the member has long joined anew, and throws it out of the group once more.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - there is no public way
        while True:
            await coordinator.ensure_coordinator_known()
            assigned = self._consumer.assignment()
            if not offsets.keys() <= assigned:
                return False  # the next owner goes on from the commit before this one
            try:
                await coordinator._do_commit_offsets(assigned, offsets)  # noqa: SLF001
            except KafkaError as failed:
                if not failed.retriable:
                    raise
                await asyncio.sleep(COMMIT_PAUSE_SECONDS)
            else:
                return True

    @property
    def rebalancing(self) -> bool:
        """Whether the group gives out its partitions anew, so that nothing can be fetched."""
        return not self._listener.settled or not self._consumer.assignment()

    async def behind(self, seconds: float) -> dict[Place, int]:
        """Return the places that hold more than was fetched, held back or not, and where they are.

        Raises:
            LogUnavailableError: the broker does not say within `seconds`.
        """
        places = frozenset(self._consumer.assignment())
        if not places:
            return {}
        try:
            async with asyncio.timeout(seconds):
                ends = await self._consumer.end_offsets(list(places))
                at = {place: await self._consumer.position(place) for place in places}
        except (KafkaError, OSError, TimeoutError) as down:
            raise LogUnavailableError(f"ends unknown: {type(down).__name__}") from down
        return {
            (place.topic, place.partition): at[place] for place in places if at[place] < ends[place]
        }

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

    Attributes:
        expected: the offset that comes next in each partition.
        generation: tells one assignment from the next.
        settled: no callback is at work.
        joined_at: when the group last gave out its partitions, by the monotonic clock.
    """

    def __init__(
        self, topics: Sequence[str], assigned: Assigned, revoked: Revoked, broken: Broken
    ) -> None:
        self._topics = topics
        self._assigned = assigned
        self._revoked = revoked
        self._broken = broken
        self._numbers: frozenset[int] = frozenset()
        self.expected: dict[TopicPartition, int] = {}
        self.generation = 0
        self.settled = False
        self.joined_at = float("-inf")
        self.consumer: AIOKafkaConsumer | None = None

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Give up all that is owned: aiokafka rebalances eagerly, so all is revoked at once."""
        self.generation += 1
        self.settled = False
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
        self.joined_at = time.monotonic()
        try:
            # aiokafka calls back beside the fetch loop: a record fetched before the state is
            # loaded would be delivered to nobody.
            commits: dict[Place, Commit] = {}
            if self.consumer is not None:
                self.consumer.pause(*assigned)
                commits = await self._committed(self.consumer, tuple(assigned))
            await self._assigned(self._numbers, commits)
            if self.consumer is not None:
                self.consumer.resume(*assigned)
        except Exception as error:  # noqa: BLE001 - aiokafka would swallow whatever it is
            self._broken(error)
        self.settled = True

    async def _committed(
        self, consumer: AIOKafkaConsumer, places: tuple[TopicPartition, ...]
    ) -> dict[Place, Commit]:
        """Return the commits, and learn from them which record comes next in each partition."""
        # The public `committed` drops the metadata and asks partition by partition.
        fetch = consumer._coordinator.fetch_committed_offsets  # noqa: SLF001
        found: dict[TopicPartition, OffsetAndMetadata] = await fetch(list(places))
        commits = {
            place: Commit(commit.offset, commit.metadata or "")
            for place, commit in found.items()
            if commit.offset >= 0
        }
        self.expected = {place: commit.offset for place, commit in commits.items()}
        return {(place.topic, place.partition): commit for place, commit in commits.items()}
