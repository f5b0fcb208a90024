"""Lanes: at most one run per key at once, keys in fair order of arrival (pure)."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from bitbylaw_common.events import Event
from bitbylaw_common.runtime.ports import Position

if TYPE_CHECKING:  # the codec knows the runtime's records, and the runtime what it decodes
    from bitbylaw_common.kafka.codec import Envelope

Cause = Literal["record", "due", "request"]


class LaneKey(NamedTuple):
    """What is worked on by one run at a time: one record of one kind in one step."""

    step: str
    entity: str
    entity_id: str

    def to_bytes(self) -> bytes:
        """Return the key of its entry in the schedule topic."""
        return "|".join(self).encode()


class Item(NamedTuple):
    """One reason to run.

    Attributes:
        given: what the handler takes: an event or, for a cron, its tick.
        source: the record's topic and raw form, to schedule it again; see `schedule.Carried`.
        position: where the record lies; None when it came from the schedule.
        size: bytes held in memory for it.
        due: of the entry that fired; None for what came otherwise.
        replay: the replay that asked for it; empty when none did.
        origin: of what was asked for again: `topic:partition:offset` of the record that was run
            first; empty for all else.
    """

    given: object
    event: Event | None
    envelope: "Envelope"
    partition: int
    cause: Cause = "record"
    position: Position | None = None
    topic: str = ""
    size: int = 0
    due: datetime | None = None
    replay: str = ""
    origin: str = ""


class Work(NamedTuple):
    """One run to make.

    Attributes:
        item: the last item; with coalescing it speaks for all.
        positions: the records this run answers.
        answers: how many items it answers.
        causes: why it runs.
        links: the traces of what it answers besides the last, the newest few.
    """

    key: LaneKey
    item: Item
    positions: tuple[Position, ...]
    answers: int
    causes: frozenset[Cause]
    size: int
    links: tuple[str, ...] = ()


LINKS_KEPT = 32


@dataclass(slots=True)
class _Lane:
    """One key's; most live for one record, so it holds no more than it must.

    Attributes:
        waiting: with when each came, as a number that rises.
    """

    coalesce: bool
    waiting: deque[tuple[int, Item]] = field(default_factory=deque)
    positions: list[Position] = field(default_factory=list)
    causes: set[Cause] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    answers: int = 0
    size: int = 0
    running: bool = False
    queued: bool = False
    held: bool = False

    def clear(self) -> int:
        """Forget what waits; return how many items that were."""
        dropped = self.answers if self.coalesce else len(self.waiting)
        self.waiting.clear()
        self.links.clear()
        self.positions, self.causes, self.answers, self.size = [], set(), 0, 0
        return dropped


class Lanes:
    """Who waits, who runs. Not thread-safe, never blocks, knows no clock."""

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, _Lane] = {}
        # Heaps by the arrival of what waits longest for a key: a key with many items waits no longer
        # between two of them than others do. One for each step, because a step that may not start
        # must not hold up another.
        self._ready: dict[str, list[tuple[int, LaneKey]]] = {}
        self._runs: dict[str, int] = {}
        self._serial = 0
        self.waiting = 0
        self.running = 0

    @property
    def ready(self) -> int:
        """How many keys wait for nothing but a free place."""
        return sum(map(len, self._ready.values()))

    def ready_by_step(self) -> Mapping[str, int]:
        """Return how many keys of each step wait for nothing but a free place."""
        return {step: len(keys) for step, keys in self._ready.items() if keys}

    def running_of(self, step: str) -> int:
        """Return how many runs of a step are under way."""
        return self._runs.get(step, 0)

    def waiting_behind(self, key: LaneKey) -> int:
        """Return how many items wait for a key."""
        lane = self._lanes.get(key)
        if lane is None:
            return 0
        return lane.answers if lane.coalesce else len(lane.waiting)

    def add(self, key: LaneKey, item: Item, *, coalesce: bool, held: bool = False) -> int:
        """Let `item` wait for its key; it always gets a run that starts after this call.

        Args:
            coalesce: what waits for the key is answered by one run; only its offsets and the last
                item are kept.
            held: nothing of the key may start, because an earlier item of it waits to be tried
                again and every item counts; that one, when it is due, comes first and ends the hold.

        Returns:
            How many bytes of items that were waiting need not be held any more.
        """
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(coalesce)
        spared, serial = 0, self._serial
        if coalesce:
            if lane.waiting:
                spared = lane.size
                serial, before = lane.waiting.pop()
                if trace := before.envelope.traceparent:
                    lane.links.append(trace)
                    del lane.links[:-LINKS_KEPT]
            if item.position is not None:
                lane.positions.append(item.position)
            lane.causes.add(item.cause)
            lane.answers += 1
            lane.size = item.size
            lane.waiting.append((serial, item))
        elif item.due is not None:
            lane.waiting.appendleft((lane.waiting[0][0] if lane.waiting else serial, item))
        else:
            lane.waiting.append((serial, item))
        self._serial += 1
        lane.held = held
        self.waiting += 1
        self._queue(key, lane)
        return spared

    def take(self, room: Callable[[str], int | None] | None = None) -> Work | None:
        """Return the next run and count it as running; None when no key could start.

        Args:
            room: how many runs of a step may be under way at once; None for no limit.
        """
        first: list[tuple[int, LaneKey]] | None = None
        for step, keys in self._ready.items():
            if not keys or (first is not None and first[0][0] < keys[0][0]):
                continue
            limit = None if room is None else room(step)
            if limit is None or self._runs.get(step, 0) < limit:
                first = keys
        if first is None:
            return None
        _, key = heapq.heappop(first)
        lane = self._lanes[key]
        lane.queued, lane.running = False, True
        _, item = lane.waiting.popleft()
        if lane.coalesce:
            work = Work(
                key,
                item,
                tuple(lane.positions),
                lane.answers,
                frozenset(lane.causes),
                lane.size,
                tuple(lane.links),
            )
            lane.clear()
        else:
            positions = () if item.position is None else (item.position,)
            work = Work(key, item, positions, 1, frozenset({item.cause}), item.size)
        self.waiting -= work.answers
        self.running += 1
        self._runs[key.step] = self._runs.get(key.step, 0) + 1
        return work

    def finish(self, key: LaneKey, *, held: bool = False) -> None:
        """Note that the key's run ended; if more waits, it queues again by when that arrived.

        Args:
            held: see `add`.
        """
        lane = self._lanes[key]
        lane.running = False
        # What became due before this was told waits already, and first: it ends the hold.
        lane.held = held and not (lane.waiting and lane.waiting[0][1].due is not None)
        self.running -= 1
        self._runs[key.step] -= 1
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
            if not lane.waiting or lane.waiting[-1][1].partition not in gone:
                continue
            dropped += lane.clear()
            lane.queued = False
            if not lane.running:
                del self._lanes[key]
        for step, keys in self._ready.items():
            left = [(n, key) for n, key in keys if key in self._lanes and self._lanes[key].queued]
            heapq.heapify(left)
            self._ready[step] = left
        self.waiting -= dropped
        return dropped

    def _queue(self, key: LaneKey, lane: _Lane) -> None:
        if not lane.running and not lane.queued and not lane.held:
            lane.queued = True
            heapq.heappush(self._ready.setdefault(key.step, []), (lane.waiting[0][0], key))
