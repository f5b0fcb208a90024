"""Where the sides run: a real Kafka, a process for each, topics filled beforehand."""

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError
from aiokafka.structs import OffsetAndMetadata

from benchmarks import ours, things
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import Event
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.topics import PARTITIONS, Topic
from bitbylaw_devstack import GuardedProcess, Stack, last_lines

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 500
"""Records published in one go."""
LOOK_SECONDS = 0.01
READY_SECONDS = 60.0
STOP_SECONDS = 20.0

Commits = Mapping[TopicPartition, OffsetAndMetadata]


class BenchError(Exception):
    """A side did not do its work, so there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side's process while it runs."""

    name: str
    process: GuardedProcess
    log: Path
    pid: int

    def must_run(self) -> None:
        """Return if it runs.

        Raises:
            BenchError: it ended by itself.
        """
        if not self.process.running:
            raise BenchError(f"{self.name} ended by itself:\n{last_lines(self.log)}")

    def late(self, what: str, seconds: float) -> BenchError:
        """Return what to raise when the side did not do `what` in time."""
        return BenchError(
            f"{self.name} did not {what} within {seconds:g} s:\n{last_lines(self.log)}"
        )

    async def wrote(self, path: Path, limit_seconds: float) -> None:
        """Return once the side has written a file.

        Raises:
            BenchError: it did not within the limit, or ended.
        """
        deadline = time.monotonic() + limit_seconds
        while not path.exists():
            self.must_run()
            if time.monotonic() > deadline:
                raise self.late(f"write {path.name}", limit_seconds)
            await asyncio.sleep(LOOK_SECONDS)

    async def url(self) -> str:
        """Return where it serves, once it says so in its log.

        Raises:
            BenchError: it did not in time, or ended.
        """
        deadline = time.monotonic() + READY_SECONDS
        while True:
            for line in self.log.read_text("utf-8").splitlines():
                if '"serving"' in line and line.endswith("}"):
                    return str(json.loads(line)["url"])
            self.must_run()
            if time.monotonic() > deadline:
                raise self.late("serve", READY_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    async def ready(self) -> str:
        """Return where it serves, once our `/readyz` says that it works.

        Raises:
            BenchError: it did not in time, or ended.
        """
        url = await self.url()
        deadline = time.monotonic() + READY_SECONDS
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return url
                self.must_run()
                if time.monotonic() > deadline:
                    raise self.late("get ready", READY_SECONDS)
                await asyncio.sleep(LOOK_SECONDS)

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time it took so far as a metric; nothing where /proc is missing."""
        path = Path(f"/proc/{self.pid}/stat")
        if not path.exists():
            return {}
        fields = path.read_text("utf-8").rpartition(")")[2].split()
        return {"cpu_seconds": (int(fields[11]) + int(fields[12])) / 100}


@dataclass(slots=True)
class Rig:
    """A real Kafka and Redis, and a folder for what the sides write.

    Attributes:
        kafka: the broker's address as clients take it.
        redis: Redis' address.
        folder: logs and ledgers; gone afterwards.
    """

    kafka: str
    redis: str
    folder: Path
    log: KafkaLog
    client: AIOKafkaAdminClient
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def name(self, word: str) -> str:
        """Return a name that was not given before, for a topic, a group or a file."""
        return f"bench-{word}-{next(self._numbers)}-{self.folder.name[-6:].replace('_', '-')}"

    def path(self, word: str) -> Path:
        """Return a path where nothing is yet."""
        return self.folder / self.name(word)

    async def make(self, wanted: Sequence[Topic[Any]]) -> None:
        """Create the topics, and those that our app touches."""
        async with admin({"bootstrap_servers": self.kafka}) as kafka:
            await kafka.apply([*wanted, *ours.touched()])

    async def filled(self, word: str, events: Sequence[Event]) -> str:
        """Return the name of a fresh topic that holds `events` in their order."""
        topic = things.topic(self.name(word))
        await self.make([topic])
        now = SystemClock().now()
        for start in range(0, len(events), AT_ONCE):
            await self.log.append(
                [
                    codec.encode(topic, event, event_id=new_event_id(), source="bench", now=now)
                    for event in events[start : start + AT_ONCE]
                ]
            )
        return topic.name

    @asynccontextmanager
    async def process(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        folder: Path = ROOT,
    ) -> AsyncIterator[Side]:
        """Run a side as a process of its own; at the end of the block it is stopped, or killed."""
        log = self.path("log")
        words = [f"{key}={value}" for key, value in (env or {}).items()]
        process = GuardedProcess(["/usr/bin/env", *words, *command], log=log, folder=folder)
        try:
            yield Side(name, process, log, await process.named())
        finally:
            await process.stop(STOP_SECONDS)

    def env(self, *, concurrency: int = 64, log_level: str = "info") -> dict[str, str]:
        """Return the environment of our services; what is not named is the product's default."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "REDIS_URL": self.redis,
            "HTTP_PORT": "0",
            "CONCURRENCY": str(concurrency),
            "LOG_LEVEL": log_level,
        }

    async def commits(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        """Return the group's commits as the broker has them: offset and metadata by partition."""
        try:
            found: Commits = await self.client.list_consumer_group_offsets(group)
        except (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError):
            return {}  # the first group of a new broker: it is still making its own topic
        return {
            place.partition: (commit.offset, commit.metadata)
            for place, commit in found.items()
            if place.topic == topic and commit.offset >= 0
        }

    async def ends(self, topic: str) -> dict[int, int]:
        """Return the offsets at which the topic's partitions end."""
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka)
        await consumer.start()
        try:
            found = await consumer.end_offsets(places)
        finally:
            await consumer.stop()
        return {place.partition: end for place, end in found.items()}

    async def all_committed(
        self, side: Side, group: str, topic: str, *, limit_seconds: float
    ) -> int:
        """Return when the group's commits covered all of a topic: nanoseconds since the epoch.

        Raises:
            BenchError: they did not within the limit, or the side ended.
        """
        ends = {number: end for number, end in (await self.ends(topic)).items() if end}
        deadline = time.monotonic() + limit_seconds
        while True:
            commits = await self.commits(group, topic)
            if all(commits.get(number, (0, ""))[0] >= end for number, end in ends.items()):
                return time.time_ns()
            side.must_run()
            if time.monotonic() > deadline:
                raise side.late("commit everything", limit_seconds)
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def rig(kafka: str | None = None, redis: str | None = None) -> AsyncIterator[Rig]:
    """Open a rig; it starts a Kafka and a Redis of its own unless both addresses are given."""
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="bitbylaw-bench-")))
        if kafka is None or redis is None:
            stack = await opened.enter_async_context(Stack(folder / "stack"))
            kafka, redis = stack.kafka.bootstrap_servers, stack.redis.url
        log = await opened.enter_async_context(
            KafkaLog({"bootstrap_servers": kafka}, service="bench", acknowledge_seconds=60)
        )
        client = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await client.start()
        opened.push_async_callback(client.close)
        yield Rig(kafka, redis, folder, log, client)


def module(name: str, *words: object) -> list[str]:
    """Return the command line of a module of ours."""
    return [sys.executable, "-m", name, *map(str, words)]


def program(name: str) -> str:
    """Return the path of a program that was installed with us."""
    return str(Path(sys.executable).with_name(name))
