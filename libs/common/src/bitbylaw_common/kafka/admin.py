"""Topics as they are, beside the catalogue: what would change, and changing it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.topics import Topic


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


class Admin:
    """Kafka's administration, as far as the catalogue needs it."""

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
