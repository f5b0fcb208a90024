"""What a whole service keeps about its records, over all partitions: for steps that compare."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bitbylaw_common import topics
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.runtime.dead_letters import DeadLetter, read
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.topics import PARTITIONS


class Reads(Protocol):
    """The half of a `Log` that looking takes."""

    def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """See `Log.read`."""
        ...


@dataclass(frozen=True, slots=True)
class Overview:
    """What lay in a service's topics about one kind of record when it was asked for.

    A run reads and never writes what is another partition's; what it finds may be older than what
    that partition's owner knows by now, so nothing may be done on its word alone but to look.

    Attributes:
        bases: what both sides agreed on last, as it was written, by id.
        waiting: the retry or the wait of each id that has one.
        letters: the last dead letter of each id, resolved since or not.
        unreadable: records that this version cannot read; each counts as not there.
    """

    bases: Mapping[str, bytes] = field(default_factory=dict)
    waiting: Mapping[str, ScheduleEntry] = field(default_factory=dict)
    letters: Mapping[str, DeadLetter] = field(default_factory=dict)
    unreadable: int = 0


async def overview(log: Reads, service: str, entity: str) -> Overview:
    """Return what `service` keeps about records of one kind, in all partitions.

    Reads three topics to their ends: for crons, not for every record.

    Args:
        entity: the firm's word for the kind, such as "document".

    Raises:
        LogUnavailableError: the ends were not reached in time.
    """
    base, schedule, dlq = topics.base(service), topics.schedule(service), topics.dlq(service)
    starts = {(topic.name, n): 0 for topic in (base, schedule, dlq) for n in range(PARTITIONS)}
    mark = f"{entity}:".encode()
    last: dict[str, dict[bytes, bytes]] = {base.name: {}, schedule.name: {}}
    dead: list[Record] = []
    async for record in log.read(starts):
        if record.topic == dlq.name:
            dead.append(record)
        elif record.value is None:
            last[record.topic].pop(record.key or b"", None)
        else:
            last[record.topic][record.key or b""] = record.value
    bases = {
        key.removeprefix(mark).decode(errors="replace"): value
        for key, value in last[base.name].items()
        if key.startswith(mark)
    }
    # Most of what these topics hold was overtaken, so only what still counts is parsed.
    waiting, unread = _waiting(last[schedule.name].values(), entity)
    letters, unreadable = _letters(dead, entity)
    return Overview(bases, waiting, letters, unread + unreadable)


def _waiting(values: Iterable[bytes], entity: str) -> tuple[dict[str, ScheduleEntry], int]:
    found: dict[str, ScheduleEntry] = {}
    unreadable = 0
    for value in values:
        try:
            entry = ScheduleEntry.from_bytes(value)
        except DecodeError:
            unreadable += 1
            continue
        if entry.entity == entity and entry.kind in ("retry", "wait"):
            found[entry.entity_id] = entry
    return found, unreadable


def _letters(records: Iterable[Record], entity: str) -> tuple[dict[str, DeadLetter], int]:
    found: dict[str, DeadLetter] = {}
    unreadable = 0
    for record in records:
        if record.value is None:
            continue
        try:
            letter = read(record)
        except DecodeError:
            unreadable += 1
            continue
        if isinstance(letter, DeadLetter) and letter.entity == entity:
            found[letter.entity_id] = letter
    return found, unreadable
