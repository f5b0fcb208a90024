"""What is due later, one entry per key, kept in `{service}.schedule` (pure)."""

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from bitbylaw_common.errors import DecodeError
from bitbylaw_common.runtime.lanes import LaneKey

Kind = Literal["retry", "wait", "tick", "dead"]


def _in_utc(instant: datetime) -> datetime:
    # Two instants of one zone compare by the clock on the wall: in the hour that comes twice the
    # later would look like the earlier.
    return instant.astimezone(UTC)


class Carried(BaseModel):
    """The event to run with when the entry is due, as it lay on its topic.

    Attributes:
        headers: what its next run needs of them.
        origin: `topic:partition:offset` of the record that brought it: of a request, where it was
            asked for. A delivery of that record again is known by it.
    """

    model_config = ConfigDict(frozen=True)

    topic: str
    value: str
    headers: dict[str, str] = {}
    origin: str = ""


class ScheduleEntry(BaseModel):
    """One key's only entry.

    Attributes:
        due: when it runs, by the owner's clock, UTC.
        kind: a failure's next attempt, a wait that is no failure, a cron's next tick; "dead" tells
            an echo of a run that was given up from news, and is forgotten when it is due.
        attempt: failures so far in this chain.
        chain: the event id the chain began with.
        since: when the chain began.
        reason: in words, without values of the record.
        error: the class of the last failure.
        seen: digest of what the failed run saw; the same sight does not run before `due`.
        until: past it a wait is dead.
        carried: the event; None for a tick.
        instant, run_id: of a cron: the instant that this entry runs, and its run's id. The entry
            of a manual run's next attempt keeps here the instant that comes behind it.
        manual: of a cron: the attempt belongs to a run that somebody asked for.
        begun: of a cron: when the run of `instant` began; it has no end yet.
        finished: of a cron: the newest instant that is over; none up to it runs again.
        answered: of a cron: run ids of the last requests that are over.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    step: str
    entity: str
    entity_id: str
    due: Annotated[datetime, AfterValidator(_in_utc)]
    kind: Kind
    attempt: int = 0
    chain: str = ""
    since: datetime
    reason: str = ""
    error: str = ""
    seen: str = ""
    until: datetime | None = None
    carried: Carried | None = None
    instant: Annotated[datetime, AfterValidator(_in_utc)] | None = None
    run_id: str = ""
    manual: bool = False
    begun: datetime | None = None
    finished: Annotated[datetime, AfterValidator(_in_utc)] | None = None
    answered: tuple[str, ...] = ()

    @property
    def lane(self) -> LaneKey:
        """The key whose entry it is."""
        return LaneKey(self.step, self.entity, self.entity_id)

    def to_bytes(self) -> bytes:
        """Return the record value."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Read a record value.

        Raises:
            DecodeError: it is no entry.
        """
        try:
            return cls.model_validate_json(value)
        except ValidationError as unfit:
            raise DecodeError(
                f"{unfit.error_count()} fields of a schedule entry do not fit"
            ) from None


class Schedule:
    """The entries of the partitions this worker owns, by due time."""

    def __init__(self) -> None:
        self._entries: dict[LaneKey, tuple[int, ScheduleEntry]] = {}
        self._heap: list[tuple[datetime, int, LaneKey]] = []
        self._fired: set[LaneKey] = set()
        self._serial = 0
        # Counted as they come and go: they are asked for several times a second.
        self._counts: dict[Kind, int] = {"retry": 0, "wait": 0, "tick": 0, "dead": 0}

    def __len__(self) -> int:
        """Return how many keys wait."""
        return len(self._entries)

    def entries(self) -> list[ScheduleEntry]:
        """Return the entries, the next due first."""
        return sorted((entry for _, entry in self._entries.values()), key=lambda e: e.due)

    def __iter__(self) -> Iterator[ScheduleEntry]:
        """Yield the entries in no order."""
        return (entry for _, entry in self._entries.values())

    def counts(self) -> dict[Kind, int]:
        """Return how many entries of each kind wait."""
        return dict(self._counts)

    def get(self, key: LaneKey) -> ScheduleEntry | None:
        """Return the key's entry."""
        found = self._entries.get(key)
        return found[1] if found else None

    def put(self, entry: ScheduleEntry, partition: int) -> None:
        """Set the key's entry; one that was there is replaced."""
        key = entry.lane
        if (before := self._entries.get(key)) is not None:
            self._counts[before[1].kind] -= 1
        self._counts[entry.kind] += 1
        self._entries[key] = (partition, entry)
        self._fired.discard(key)
        self._serial += 1
        heapq.heappush(self._heap, (entry.due, self._serial, key))

    def amend(self, entry: ScheduleEntry) -> None:
        """Set the key's entry, which is due when it was before; it does not fire a second time."""
        partition, before = self._entries[entry.lane]
        self._counts[before.kind] -= 1
        self._counts[entry.kind] += 1
        self._entries[entry.lane] = (partition, entry)

    def remove(self, key: LaneKey) -> bool:
        """Forget the key's entry; say whether there was one."""
        self._fired.discard(key)
        gone = self._entries.pop(key, None)
        if gone is not None:
            self._counts[gone[1].kind] -= 1
        return gone is not None

    def drop(self, partition: int) -> None:
        """Forget the entries of a partition that is not ours any more."""
        for key in [key for key, (p, _) in self._entries.items() if p == partition]:
            self.remove(key)

    def due(self, now: datetime) -> list[tuple[int, ScheduleEntry]]:
        """Return each entry that became due, with its partition, once until it is put again."""
        found: list[tuple[int, ScheduleEntry]] = []
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            current = self._entries.get(key)
            if current is not None and current[1].due == due and key not in self._fired:
                self._fired.add(key)
                found.append(current)
        return found

    def next_due(self) -> datetime | None:
        """Return when the next entry is due; one that is due already counts until it is taken."""
        while self._heap:
            due, _, key = self._heap[0]
            current = self._entries.get(key)
            if current is not None and current[1].due == due and key not in self._fired:
                return due
            heapq.heappop(self._heap)
        return None
