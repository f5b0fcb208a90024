"""What waits for its time: the schedules of the consuming services, folded to what holds now."""

from collections.abc import AsyncIterable, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from bitbylaw_cli.records import Reads, places
from bitbylaw_common import topics
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.runtime.schedule import Kind, ScheduleEntry


class Waiting(BaseModel):
    """One key that is looked at again later.

    Attributes:
        kind: "retry" after a failure, "wait" for something that is no failure, "tick" of a cron.
        attempt: failures so far.
        since: when this chain of attempts, or this wait, began.
        until: past it the record is given up; None waits without end.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    due: datetime
    kind: Kind
    step: str
    entity: str
    entity_id: str
    attempt: int
    reason: str
    error: str
    since: datetime
    until: datetime | None


class WaitingList(BaseModel):
    """Everything that waits in these services, the next due first.

    Attributes:
        unreadable: entries that this version cannot read; the service says more in its log.
    """

    model_config = ConfigDict(frozen=True)

    services: tuple[str, ...]
    entries: tuple[Waiting, ...]
    unreadable: int = 0


async def waiting(log: Reads, services: Sequence[str]) -> WaitingList:
    """Return what waits in these services.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    owners = {topics.schedule(service).name: service for service in services}
    entries, unreadable = await folded(log.read(places(owners)))
    found = [
        shown(owners[topic], entry)
        for (topic, _), entry in sorted(entries.items(), key=lambda held: held[1].due)
        if entry.kind != "dead"  # given up: it waits for nothing
    ]
    return WaitingList(services=tuple(services), entries=tuple(found), unreadable=unreadable)


async def folded(
    records: AsyncIterable[Record],
) -> tuple[dict[tuple[str, bytes], ScheduleEntry], int]:
    """Return the last entry of each topic and key, without tombstones, and how many are unreadable."""
    last: dict[tuple[str, bytes], Record] = {}
    async for record in records:
        last[record.topic, record.key or b""] = record
    entries: dict[tuple[str, bytes], ScheduleEntry] = {}
    unreadable = 0
    for held, record in last.items():
        if record.value is None:
            continue
        try:
            entries[held] = ScheduleEntry.from_bytes(record.value)
        except DecodeError:
            unreadable += 1
    return entries, unreadable


def shown(service: str, entry: ScheduleEntry) -> Waiting:
    """Return the entry as it is shown."""
    return Waiting(
        service=service,
        due=entry.due,
        kind=entry.kind,
        step=entry.step,
        entity=entry.entity,
        entity_id=entry.entity_id,
        attempt=entry.attempt,
        reason=entry.reason,
        error=entry.error,
        since=entry.since,
        until=entry.until,
    )
