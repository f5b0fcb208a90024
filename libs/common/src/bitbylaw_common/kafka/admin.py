"""Kafka's administration: topics beside the catalogue, and where a group stands, from outside."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.errors import CoordinatorNotAvailableError, KafkaError

from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.kafka.log import from_kafka
from bitbylaw_common.runtime.offsets import Commit
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.topics import MIB, Topic

Place = tuple[str, int]
"""A partition of a topic."""

_LOOK_SECONDS = 0.25

COORDINATOR_SECONDS = 5.0
"""How long a cluster that never had a group may take to name a coordinator."""


@dataclass(frozen=True, slots=True)
class TopicChange:
    """What stands between a topic and its declaration.

    Attributes:
        topic: the topic's name.
        kind: "create", "configure", or "refuse" for what must not be done by itself.
        detail: in words: the settings with old and new value, or why it is refused.
    """

    topic: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a consumer group.

    Attributes:
        client: the client id it chose; ours end with the instance.
        host: where it connects from.
        topics: what it subscribes to.
        places: what it was given; empty while the group rebalances.
    """

    client: str
    host: str
    topics: frozenset[str]
    places: frozenset[Place]


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group, as its coordinator sees it.

    Attributes:
        state: Kafka's word: Stable, PreparingRebalance, CompletingRebalance, Empty, Dead (nobody
            ever joined, or all of it expired).
    """

    name: str
    state: str
    members: tuple[Member, ...] = ()

    @property
    def rebalancing(self) -> bool:
        """Whether the members are just being given their partitions."""
        return self.state in ("PreparingRebalance", "CompletingRebalance")


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a partition begins and ends.

    Attributes:
        first: the oldest offset that is still there.
        end: the offset that the next record gets.
        arrived: records appended since each of the instants that were asked for.
    """

    first: int
    end: int
    arrived: tuple[int, ...]


class Admin:
    """Kafka's administration, as far as the catalogue and a look at a group need it."""

    def __init__(self, client: AIOKafkaAdminClient) -> None:
        self._client = client

    async def plan(self, wanted: Iterable[Topic[Any]]) -> list[TopicChange]:
        """Return what stands between the broker's topics and `wanted`; empty when all agree."""
        topics = list(wanted)
        there = {
            found["topic"]: len(found["partitions"])
            for found in await self._client.describe_topics([t.name for t in topics])
            if found["error_code"] == 0
        }
        settings = await self._settings([t for t in topics if t.name in there])
        changes: list[TopicChange] = []
        for topic in topics:
            if topic.name not in there:
                changes.append(TopicChange(topic.name, "create", f"{topic.partitions} partitions"))
            elif there[topic.name] != topic.partitions:
                changes.append(
                    TopicChange(
                        topic.name,
                        "refuse",
                        f"it has {there[topic.name]} partitions instead of {topic.partitions}; "
                        "a key would change its partition: create a new topic and replay",
                    )
                )
            elif differing := _differing(topic, settings[topic.name]):
                changes.append(TopicChange(topic.name, "configure", differing))
        return changes

    async def apply(
        self, wanted: Iterable[Topic[Any]], *, replication: int | None = None
    ) -> list[TopicChange]:
        """Create and configure what `plan` names, and return it; nothing is ever deleted.

        Args:
            replication: the replication factor of new topics; by default three, or as many as
                there are brokers.

        Raises:
            LogUnavailableError: the broker refused a change; the text says which.
        """
        topics = {topic.name: topic for topic in wanted}
        changes = await self.plan(topics.values())
        if replication is None:
            brokers = (await self._client.describe_cluster())["brokers"]
            replication = min(3, len(brokers))
        created = [
            NewTopic(
                name, topics[name].partitions, replication, topic_configs=_config(topics[name])
            )
            for name in (c.topic for c in changes if c.kind == "create")
        ]
        if created:
            answer = await self._client.create_topics(created)
            for name, code, *rest in answer.topic_errors:
                if code not in (0, 36):  # 36: another process created it meanwhile
                    raise LogUnavailableError(f"Kafka refused topic {name}: {rest or code}")
            await self._led([new.name for new in created])
        changed = [
            ConfigResource(ConfigResourceType.TOPIC, c.topic, _config(topics[c.topic]))
            for c in changes
            if c.kind == "configure"
        ]
        if changed:
            await self._client.alter_configs(changed)
        return changes

    async def _led(self, names: list[str]) -> None:
        """Return once every partition has a leader: a client that asks earlier is told of none."""
        try:
            async with asyncio.timeout(10):
                while not all(  # noqa: ASYNC110 - the broker tells only who asks
                    found["error_code"] == 0 and all(p["leader"] >= 0 for p in found["partitions"])
                    for found in await self._client.describe_topics(names)
                ):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise LogUnavailableError("Kafka gave the new topics no leader in 10 s") from None

    async def delete(self, names: Iterable[str]) -> None:
        """Delete topics and return once they are gone; absent ones are none. For tests.

        Raises:
            LogUnavailableError: they were still there after 10 s.
        """
        wanted = set(names)
        there = wanted & set(await self._client.list_topics())
        if there:
            await self._client.delete_topics(sorted(there))
        try:
            async with asyncio.timeout(10):
                while wanted & set(await self._client.list_topics()):  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise LogUnavailableError(f"Kafka did not delete {sorted(wanted)} in 10 s") from None

    async def existing(self, names: Iterable[str]) -> frozenset[str]:
        """Return which of these topics there are."""
        return frozenset(names) & frozenset(await self._client.list_topics())

    async def group(self, name: str) -> Group:
        """Return the group and its members, without joining it.

        Raises:
            LogUnavailableError: the cluster names no coordinator in time.
        """
        node = await self._coordinator(name)
        answer = (await self._client.describe_consumer_groups([name], node))[0]
        _, _, state, _, _, members, *_ = answer.groups[0]
        return Group(name, state or "Dead", tuple(_member(*fields) for fields in members))

    async def committed(self, name: str) -> dict[Place, Commit]:
        """Return what the group committed last, by partition.

        Raises:
            LogUnavailableError: the cluster names no coordinator in time.
        """
        node = await self._coordinator(name)
        found = await self._client.list_consumer_group_offsets(name, node)
        return {
            (place.topic, place.partition): Commit(said.offset, said.metadata or "")
            for place, said in found.items()
            if said.offset >= 0
        }

    async def _coordinator(self, group: str) -> int:
        # The first question of all makes the brokers create the topic of the offsets.
        try:
            async with asyncio.timeout(COORDINATOR_SECONDS):
                while True:
                    try:
                        return int(await self._client.find_coordinator(group))
                    except CoordinatorNotAvailableError:
                        await asyncio.sleep(0.1)
        except TimeoutError:
            raise LogUnavailableError(
                f"Kafka named no coordinator of group {group} in {COORDINATOR_SECONDS:g} s"
            ) from None

    async def _settings(self, topics: list[Topic[Any]]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        if not topics:
            return found
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, topic.name, _config(topic)) for topic in topics
        ]
        for answer in await self._client.describe_configs(resources):
            for resource in answer.resources:
                name, entries = resource[3], resource[4]
                found[name] = {entry[0]: entry[1] for entry in entries}
        return found


def _member(_id: str, client: str, host: str, subscription: bytes, assignment: bytes) -> Member:
    """Read a member; while the group rebalances it has no assignment, and a new one no topics."""
    topics: frozenset[str] = frozenset()
    places: frozenset[Place] = frozenset()
    if subscription:
        topics = frozenset(ConsumerProtocolMemberMetadata.decode(subscription).subscription)
    if assignment:
        places = frozenset(
            (topic, number)
            for topic, numbers in ConsumerProtocolMemberAssignment.decode(assignment).assignment
            for number in numbers
        )
    return Member(client, host.removeprefix("/"), topics, places)


def _config(topic: Topic[Any]) -> dict[str, str]:
    return topic.config()


def _differing(topic: Topic[Any], settings: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {settings.get(name)} -> {value}"
        for name, value in sorted(topic.config().items())
        if settings.get(name) != value
    )


@asynccontextmanager
async def admin(options: Mapping[str, Any]) -> AsyncIterator[Admin]:
    """Connect to Kafka's administration.

    Args:
        options: how to connect: `KafkaSettings.client_options()`.

    Raises:
        LogUnavailableError: no broker answers, or it broke off.
    """
    client = AIOKafkaAdminClient(**options, request_timeout_ms=15_000)
    try:
        await client.start()
        yield Admin(client)
    except (KafkaError, OSError) as down:
        raise LogUnavailableError(f"Kafka's administration: {type(down).__name__}") from down
    finally:
        await client.close()


class Extents:
    """Looks at partitions by assignment alone: no group, no offset moves."""

    def __init__(self, reader: AIOKafkaConsumer) -> None:
        self._reader = reader

    async def of(self, places: Iterable[Place], since: Sequence[datetime]) -> dict[Place, Extent]:
        """Return where each partition begins and ends, and how much came since some instants.

        Args:
            since: compared with the broker's own stamps (LogAppendTime).
        """
        wanted = [TopicPartition(*place) for place in places]
        if not wanted:
            return {}
        firsts, ends, *then = await asyncio.gather(
            self._reader.beginning_offsets(wanted),
            self._reader.end_offsets(wanted),
            *(
                self._reader.offsets_for_times(
                    dict.fromkeys(wanted, int(moment.timestamp() * 1000))
                )
                for moment in since
            ),
        )
        return {
            (place.topic, place.partition): Extent(
                firsts[place],
                ends[place],
                tuple(_arrived(ends[place], starts.get(place)) for starts in then),
            )
            for place in wanted
        }

    async def records(
        self, starts: Mapping[Place, int], *, seconds: float
    ) -> dict[Place, Record | None]:
        """Return the first record from each offset on; None where only transaction marks are left.

        Args:
            starts: partition to offset.
            seconds: how long the broker may take altogether; what it did not say by then is left
                out.
        """
        wanted = {TopicPartition(*place): offset for place, offset in starts.items()}
        found: dict[Place, Record | None] = {}
        if not wanted:
            return found
        ends = await self._reader.end_offsets(list(wanted))
        self._reader.assign(list(wanted))
        for place, offset in wanted.items():
            self._reader.seek(place, offset)
        deadline = asyncio.get_running_loop().time() + seconds
        missing = set(wanted)
        while missing and (left := deadline - asyncio.get_running_loop().time()) > 0:
            batches = await self._reader.getmany(
                *missing, timeout_ms=int(min(left, _LOOK_SECONDS) * 1000)
            )
            for place, batch in batches.items():
                found[place.topic, place.partition] = from_kafka(batch[0])
            for place in tuple(missing):
                if place in batches:
                    missing.discard(place)
                elif await self._reader.position(place) >= ends[place]:
                    found[place.topic, place.partition] = None
                    missing.discard(place)
        self._reader.pause(*wanted)  # else it would go on fetching what nobody takes
        return found


def _arrived(end: int, start: Any) -> int:
    """Return how many offsets there are from `start` on; None is an instant with nothing after it."""
    return 0 if start is None else max(0, end - start.offset)


@asynccontextmanager
async def extents(options: Mapping[str, Any]) -> AsyncIterator[Extents]:
    """Connect to look at partitions.

    Args:
        options: how to connect: `KafkaSettings.client_options()`.

    Raises:
        LogUnavailableError: no broker answers, or it broke off.
    """
    reader = AIOKafkaConsumer(
        **options,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=MIB,
        request_timeout_ms=15_000,
    )
    try:
        await reader.start()
        yield Extents(reader)
    except (KafkaError, OSError) as down:
        raise LogUnavailableError(f"Kafka's partitions: {type(down).__name__}") from down
    finally:
        await reader.stop()
