"""What the broker itself noted about a group: acknowledged commits and generations."""

import asyncio
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

OFFSETS_TOPIC = "__consumer_offsets"
READ_SECONDS = 30.0
COMPACT_SINCE = 4
"""The version of these records since which a text's length is one more, in as few bytes as go."""

_GROUP_KEY = 2


@dataclass(frozen=True, slots=True)
class Commit:
    """One acknowledged commit: the next offset to read, what goes with it, unix seconds."""

    topic: str
    partition: int
    offset: int
    metadata: str
    at: float


@dataclass(frozen=True, slots=True)
class GroupNotes:
    """Everything the broker kept about one group since it exists.

    Attributes:
        commits: in the order in which the broker took them.
        generations: the numbers of its generations, each once.
    """

    commits: tuple[Commit, ...]
    generations: tuple[int, ...]

    def last_before(self, topic: str, partition: int, instant: float) -> Commit | None:
        """Return the last commit of a partition that was acknowledged before `instant`."""
        found = [
            commit
            for commit in self.commits
            if (commit.topic, commit.partition) == (topic, partition) and commit.at < instant
        ]
        return found[-1] if found else None


class _Fields:
    """Reads Kafka's big-endian fields one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int:
        value: int = struct.unpack_from(f">{form}", self._data, self._at)[0]
        self._at += struct.calcsize(f">{form}")
        return value

    def text(self, *, compact: bool = False) -> str:
        size = self._varint() - 1 if compact else self.number("h")
        if size < 0:
            return ""
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.number("B")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7


async def notes_of(connect: Mapping[str, Any], group: str) -> GroupNotes:
    """Read the broker's offsets topic to its end.

    Raises:
        TimeoutError: it could not be read within 30 s.
    """
    commits: list[Commit] = []
    generations: dict[int, None] = {}
    for key, value in await _everything(connect):
        match read_note(group, key, value):
            case Commit() as commit:
                commits.append(commit)
            case int(generation):
                generations.setdefault(generation)
            case None:
                pass
    commits.sort(key=lambda commit: commit.at)
    return GroupNotes(tuple(commits), tuple(generations))


def read_note(group: str, key: bytes, value: bytes | None) -> Commit | int | None:
    """Return what a record of the offsets topic says: a commit, a generation, nothing of `group`."""
    fields = _Fields(key)
    kind = fields.number("h")
    if value is None or fields.text() != group:
        return None
    if kind < _GROUP_KEY:
        return _commit(fields, _Fields(value))
    return _generation(_Fields(value)) if kind == _GROUP_KEY else None


def _commit(key: _Fields, value: _Fields) -> Commit:
    topic, partition = key.text(), key.number("i")
    version, offset = value.number("h"), value.number("q")
    if version >= 3:  # from then on the leader's epoch is kept, too
        value.number("i")
    metadata = value.text(compact=version >= COMPACT_SINCE)
    return Commit(topic, partition, offset, metadata, value.number("q") / 1000)


def _generation(value: _Fields) -> int:
    version = value.number("h")
    value.text(compact=version >= COMPACT_SINCE)
    return value.number("i")


async def _everything(connect: Mapping[str, Any]) -> list[tuple[bytes, bytes | None]]:
    consumer = AIOKafkaConsumer(**connect, enable_auto_commit=False, auto_offset_reset="earliest")
    places = [TopicPartition(OFFSETS_TOPIC, number) for number in await _partitions(connect)]
    await consumer.start()
    try:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        found: list[tuple[bytes, bytes | None]] = []
        async with asyncio.timeout(READ_SECONDS):
            while any([await consumer.position(place) < ends[place] for place in places]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [(record.key, record.value) for record in records]
        return found
    finally:
        await consumer.stop()


async def _partitions(connect: Mapping[str, Any]) -> list[int]:
    client = AIOKafkaAdminClient(**connect)
    await client.start()
    try:
        (described,) = await client.describe_topics([OFFSETS_TOPIC])
        return [partition["partition"] for partition in described["partitions"]]
    finally:
        await client.close()
