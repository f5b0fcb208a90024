"""What the runtime needs of the outside, as protocols: a log of records, locks, leave to start."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from bitbylaw_common.errors import RecordRefused
from bitbylaw_common.topics import longest_value


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


def check_sizes(records: Sequence[Outgoing]) -> None:
    """Return if Kafka can take every record.

    Raises:
        RecordRefused: one is too large for its topic.
    """
    for record in records:
        size, limit = len(record.value or b""), longest_value(record.topic)
        if size > limit:
            raise RecordRefused(f"{record.topic}: {size} bytes, and a value may have {limit}")


class State(Protocol):
    """What only the owner of a partition may write: base and schedule, with what belongs to them.

    Taking a partition over makes every earlier `State` of it useless, also one whose holder was
    frozen in the middle of a write.
    """

    async def write(self, records: Sequence[Outgoing]) -> None:
        """Append all or nothing, and return once that is acknowledged.

        Raises:
            RecordRefused: one is too large; nothing was written, and this `State` goes on.
            OwnershipLost: another worker took the partition over; nothing was written.
            LogUnavailableError: nobody knows whether it was written; this `State` is of no use any
                more, and the partition must be taken over and loaded anew.
        """
        ...

    async def close(self) -> None:
        """Let go; returns within seconds, also when Kafka is away."""
        ...


class Appends(Protocol):
    """What takes records; all that an HTTP request needs of Kafka."""

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        """Append all and return once every one is acknowledged by all in-sync replicas.

        Raises:
            RecordRefused: one is too large; none was sent.
            LogUnavailableError: not acknowledged in time; each may or may not be stored.
        """
        ...


class Log(Appends, Protocol):
    """Kafka, as the runtime needs it."""

    async def take_over(self, service: str, partition: int) -> State:
        """Become the only writer of the partition's state; earlier ones are refused from now on.

        Raises:
            LogUnavailableError: Kafka did not agree in time.
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

    def hold(
        self, entity: str, entity_id: str, lost: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[bool]:
        """Try to hold `sync_lock:{entity}:{id}` for the length of the block.

        Args:
            lost: called once when somebody else turns out to hold it meanwhile.

        Yields:
            True when held, or when the store is down (the log alone keeps order then); False
            when somebody else holds it: do no work.
        """
        ...


class Gates(Protocol):
    """Which steps may start: paused, halted and ramping ones may not, or not many at once."""

    def room(self, step: str) -> int | None:
        """Return how many runs of the step may be under way at once; None for no limit."""
        ...

    def ended(self, step: str, key: str, outcome: str) -> None:
        """Note how a run ended: done, skipped, wait, retry, rejected, bug."""
        ...

    def readable(self, step: str) -> None:
        """Note a record on one of the step's topics that could be read."""
        ...

    def unreadable(self, step: str, key: str) -> None:
        """Note a record on one of the step's topics that could not be read."""
        ...

    def cancelled(self, replay: str) -> bool:
        """Whether a replay was called off: what it asked for is passed over."""
        ...

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever `room` may answer more than before."""
        ...


class OpenGates:
    """Every step may start; for tests and for apps nobody pauses."""

    def room(self, step: str) -> int | None:
        """Set no limit."""
        return None

    def ended(self, step: str, key: str, outcome: str) -> None:
        """Take no note."""

    def readable(self, step: str) -> None:
        """Take no note."""

    def unreadable(self, step: str, key: str) -> None:
        """Take no note."""

    def cancelled(self, replay: str) -> bool:
        """Call nothing off."""
        return False

    def listen(self, changed: Callable[[], None]) -> None:
        """Never change."""
