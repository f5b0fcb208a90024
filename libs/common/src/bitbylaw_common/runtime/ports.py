"""What the runtime needs of the outside, as protocols: a log of records, and locks."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the log holds it.

    Attributes:
        topic: its topic's name.
        partition: from 0.
        offset: its place there.
        key: None only for foreign records; ours always carry one.
        value: None is a tombstone.
        headers: decoded to text; a value that is no UTF-8 reads as its repr.
        time: when the broker appended it, UTC.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)
    time: datetime | None = None

    @property
    def size(self) -> int:
        """Bytes that it keeps in memory."""
        return len(self.key or b"") + len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to append. `partition` None lets the one partitioner decide by the key."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record was appended."""

    topic: str
    partition: int
    offset: int


class Log(Protocol):
    """Kafka, as the runtime needs it."""

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        """Append all and return once every one is acknowledged by all in-sync replicas.

        Raises:
            LogUnavailableError: not acknowledged in time; each may or may not be stored.
        """
        ...

    def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """Yield the records of several partitions to the ends as they are when called.

        Args:
            starts: (topic, partition) to the first offset wanted; below the log's start counts
                as its start. Within a partition the order is kept, between them it is not.

        Raises:
            LogUnavailableError: the ends were not reached in time.
        """
        ...


class Locks(Protocol):
    """Locks against actors outside the consumer group."""

    def hold(self, entity: str, entity_id: str) -> AbstractAsyncContextManager[bool]:
        """Try to hold `sync_lock:{entity}:{id}` for the length of the block.

        Yields:
            True when held, or when the store is down (the log alone keeps order then); False
            when somebody else holds it: do no work.
        """
        ...
