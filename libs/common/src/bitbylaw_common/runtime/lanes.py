"""Lanes: at most one run per key at once, keys in fair order of arrival (pure)."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from bitbylaw_common.events import Event
from bitbylaw_common.kafka.codec import Envelope
from bitbylaw_common.runtime.ports import Position

Cause = Literal["record", "due", "request"]


class LaneKey(NamedTuple):
    """What is worked on by one run at a time: one record of one kind in one step."""

    step: str
    entity: str
    entity_id: str

    def to_bytes(self) -> bytes:
        """Return the key of its entry in the schedule topic."""
        return "|".join(self).encode()


@dataclass(frozen=True, slots=True)
class Item:
    """One reason to run.

    Attributes:
        given: what the handler takes: an event or, for a cron, its tick.
        source: the record's topic and raw form, to schedule it again; see `schedule.Carried`.
        position: where the record lies; None when it came from the schedule.
        size: bytes held in memory for it.
    """

    given: object
    event: Event | None
    envelope: Envelope
    partition: int
    cause: Cause = "record"
    position: Position | None = None
    topic: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """One run to make.

    Attributes:
        item: the last item; with coalescing it speaks for all.
        positions: the records this run answers.
        answers: how many items it answers.
        causes: why it runs.
    """

    key: LaneKey
    item: Item
    positions: tuple[Position, ...]
    answers: int
    causes: frozenset[Cause]
    size: int


@dataclass(slots=True)
class _Lane:
    coalesce: bool
    waiting: deque[Item] = field(default_factory=deque)
    positions: list[Position] = field(default_factory=list)
    causes: set[Cause] = field(default_factory=set)
    answers: int = 0
    size: int = 0
    running: bool = False
    queued: bool = False


class Lanes:
    """Who waits, who runs. Not thread-safe, never blocks, knows no clock."""

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, _Lane] = {}
        self._ready: deque[LaneKey] = deque()
        self.waiting = 0
        self.running = 0

    @property
    def ready(self) -> int:
        """How many keys could start now."""
        return len(self._ready)

    def add(self, key: LaneKey, item: Item, *, coalesce: bool) -> None:
        """Let `item` wait for its key; it always gets a run that starts after this call.

        Args:
            coalesce: what waits for the key is answered by one run; only its offsets and the last
                item are kept.
        """
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(coalesce)
        if coalesce:
            lane.waiting.clear()
            if item.position is not None:
                lane.positions.append(item.position)
            lane.causes.add(item.cause)
            lane.answers += 1
            lane.size += item.size
        lane.waiting.append(item)
        self.waiting += 1
        self._queue(key, lane)

    def take(self) -> Work | None:
        """Return the next run and count it as running; None when no key could start."""
        if not self._ready:
            return None
        key = self._ready.popleft()
        lane = self._lanes[key]
        lane.queued, lane.running = False, True
        item = lane.waiting.popleft()
        if lane.coalesce:
            work = Work(
                key, item, tuple(lane.positions), lane.answers, frozenset(lane.causes), lane.size
            )
            lane.positions, lane.causes, lane.answers, lane.size = [], set(), 0, 0
        else:
            positions = () if item.position is None else (item.position,)
            work = Work(key, item, positions, 1, frozenset({item.cause}), item.size)
        self.waiting -= work.answers
        self.running += 1
        return work

    def finish(self, key: LaneKey) -> None:
        """Note that the key's run ended; if more waits, it queues again behind the others."""
        lane = self._lanes[key]
        lane.running = False
        self.running -= 1
        if lane.waiting:
            self._queue(key, lane)
        else:
            del self._lanes[key]

    def drop(self, partitions: Iterable[int]) -> int:
        """Forget what waits for these partitions; return how many items that were.

        What runs is left to end: `finish` it as usual.
        """
        gone = frozenset(partitions)
        dropped = 0
        for key, lane in list(self._lanes.items()):
            if not lane.waiting or lane.waiting[-1].partition not in gone:
                continue
            dropped += lane.answers if lane.coalesce else len(lane.waiting)
            lane.waiting.clear()
            lane.positions, lane.causes, lane.answers, lane.size = [], set(), 0, 0
            if lane.queued:
                lane.queued = False
                self._ready.remove(key)
            if not lane.running:
                del self._lanes[key]
        self.waiting -= dropped
        return dropped

    def _queue(self, key: LaneKey, lane: _Lane) -> None:
        if not lane.running and not lane.queued:
            lane.queued = True
            self._ready.append(key)
