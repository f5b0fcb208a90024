"""A topic's records as they lie there: the last, the first from a place, or those to come."""

import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, home_of, names
from bitbylaw_common import topics
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.topics import PARTITIONS, Topic


class Tailed(BaseModel):
    """One record as it lies in the log.

    Attributes:
        time: when the broker appended it, UTC.
        key: None for a foreign record without one.
        value: the JSON; None for a tombstone and for what is no JSON.
        raw_bytes: how long the value is; None for a tombstone.
        readable: False where the value is no JSON; it is not shown then, because nobody knows
            what it is.
    """

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    offset: int
    time: datetime | None
    key: str | None
    headers: Mapping[str, str]
    value: Any
    raw_bytes: int | None
    readable: bool = True


class TailedList(BaseModel):
    """Records of a topic, in the order of their time."""

    model_config = ConfigDict(frozen=True)

    topic: str
    records: tuple[Tailed, ...]


class Follows(Protocol):
    """What following takes of a log; `KafkaLog` has it."""

    def follow(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """See `KafkaLog.follow`."""
        ...


def named(name: str, *, personal: bool) -> Topic[Any]:
    """Return the topic of the catalogue called `name`.

    Raises:
        CommandError: there is none; or it may hold personal data and that was not asked for.
    """
    try:
        topic = topics.by_name(name)
    except KeyError as unknown:
        raise CommandError(Exit.USAGE, unknown.args[0]) from None
    if topic.personal and not personal:
        raise CommandError(
            Exit.REFUSED,
            f"{name} may hold personal data and is not printed; if you may see it, add --personal",
        )
    return topic


def tailed(record: Record) -> Tailed:
    """Return the record as it is shown."""
    value, readable = None, True
    if record.value is not None:
        try:
            value = json.loads(record.value)
        except (ValueError, RecursionError):
            readable = False
    return Tailed(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        time=record.time,
        key=None if record.key is None else record.key.decode(errors="replace"),
        headers=record.headers,
        value=value,
        raw_bytes=None if record.value is None else len(record.value),
        readable=readable,
    )


def starts_of(
    name: str, *, key: str | None, start: int, partition: int | None = None
) -> dict[tuple[str, int], int]:
    """Return where to begin: in the key's partition, in the given one, or in all.

    Args:
        start: the offset; 0 is the beginning, -1 the end.
    """
    if partition is None and key is not None:
        partition = home_of(key)
    numbers = range(PARTITIONS) if partition is None else [partition]
    return {(name, number): start for number in numbers}


async def first(
    log: Reads, starts: Mapping[tuple[str, int], int], *, key: str | None, count: int
) -> list[Tailed]:
    """Return the first `count` records from `starts` on, in the order of their time.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    kept: defaultdict[int, list[Record]] = defaultdict(list)
    full: set[int] = set()
    async for record in log.read(starts):
        if key is not None and not names(record, key):
            continue
        if len(kept[record.partition]) < count:
            kept[record.partition].append(record)
        else:
            full.add(record.partition)
            if len(full) == len(starts):
                break
    return [tailed(record) for record in _by_time(kept.values())[:count]]


async def last(
    log: Reads, starts: Mapping[tuple[str, int], int], *, key: str | None, count: int
) -> list[Tailed]:
    """Return the last `count` records, in the order of their time. Reads all from `starts` on.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    kept: defaultdict[int, deque[Record]] = defaultdict(lambda: deque(maxlen=count))
    async for record in log.read(starts):
        if key is None or names(record, key):
            kept[record.partition].append(record)
    return [tailed(record) for record in _by_time(kept.values())[-count:]]


async def following(
    log: Follows, starts: Mapping[tuple[str, int], int], *, key: str | None, count: int | None
) -> AsyncIterator[Tailed]:
    """Yield from `starts` on as records are appended; end after `count`, None goes on for ever.

    Raises:
        LogUnavailableError: Kafka cannot be read any more.
    """
    left = count
    async for record in log.follow(starts):
        if key is not None and not names(record, key):
            continue
        yield tailed(record)
        if left is not None:
            left -= 1
            if left <= 0:
                return


def _by_time(kept: Iterable[Iterable[Record]]) -> list[Record]:
    records = [record for records in kept for record in records]
    return sorted(
        records,
        key=lambda r: (0.0 if r.time is None else r.time.timestamp(), r.partition, r.offset),
    )
