"""The brake: how much a sync may change before it stops by itself and an operator must say "go on".

A mistake of ours, or a side that lost its content, shows as very many changes. Each kind of effect
has a budget, per run and per hour; what would go beyond trips the brake of its kind. That is written
to `control.commands`, so it holds for every member and after every restart, until it is released.
What is held back waits without end and without attempts; everything else goes on.

The counting is pure: values in, an answer out. `Brake` keeps the counts of one process and follows
what stands in the topic. What a process counted is lost with it; a trip is not, once Kafka has
acknowledged it, and until then it holds in this process.
"""

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bitbylaw_common import metrics
from bitbylaw_common.clock import Clock
from bitbylaw_common.events import BrakeReleased, BrakeTripped, Command
from bitbylaw_common.logs import step_logger
from bitbylaw_common.outcomes import Wait

UPLOAD, DELETE, DETACH, OVERWRITE, RECORD = "upload", "delete", "detach", "overwrite", "record"
"""The kinds: things made, deleted, taken out, fields overwritten, and records touched at all."""

HOUR_SECONDS = 3600.0
LOOK_AGAIN = timedelta(minutes=15)
LONGEST_PAUSE = timedelta(hours=6)
_SLOTS = 60
"""Into how many parts the hour is cut; it slides by one of them."""


_WRITTEN = re.compile(r"([1-9]\d{0,6})/([1-9]\d{0,6})(?:/(\d{1,2}|100)%)?")


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of one kind may happen.

    Attributes:
        per_run: at most so much in one run.
        per_hour: at most so much within an hour, by all members together.
        share: of the records that are known, from 0 to 1; where it allows more than `per_hour`, it
            counts. A service that knows ten thousand records may touch more than one with fifty.
    """

    per_run: int
    per_hour: int
    share: float = 0.0

    @classmethod
    def of(cls, text: str) -> "Budget":
        """Read what an operator wrote: "4/1000" per run and hour, "1/500/25%" with a share as well.

        Raises:
            ValueError: it is neither.
        """
        found = _WRITTEN.fullmatch(text.replace(" ", ""))
        if found is None:
            raise ValueError('must be "per run/per hour", or "per run/per hour/share%"')
        run, hour, share = found.groups()
        return cls(int(run), int(hour), int(share or 0) / 100)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a service one member answers for.

    Attributes:
        known: how many records it keeps a base of.
        share: its part of the partitions, from 0 to 1: its part of every budget.
    """

    known: int = 0
    share: float = 1.0


def limit(budget: Budget, extent: Extent) -> int:
    """Return how much one member may do within an hour; at least 1."""
    return max(1, math.ceil(budget.per_hour * extent.share), int(budget.share * extent.known))


def excess(
    kind: str, budget: Budget, extent: Extent, *, asked: int, before: int, spent: int, extra: int
) -> str:
    """Return in words why so much more may not happen now; empty where it may.

    Args:
        asked: how much more is to happen.
        before: how much of it the same run did already.
        spent: how much happened within the hour, by this member.
        extra: how much an operator allowed beyond the budget.
    """
    in_one_run, in_an_hour = max(budget.per_run, extra), limit(budget, extent)
    if asked + before > in_one_run:
        return f"one run wants {kind} {asked + before} times; {in_one_run} are allowed"
    if spent + max(0, asked - extra) > in_an_hour:
        share = (
            "" if extent.share >= 1 else f" for this worker, which has {extent.share:.0%} of all"
        )
        return f"{kind} {spent + asked} times within an hour; {in_an_hour} are allowed{share}"
    return ""


def emptied(*, known: int, seen: int, at_least: int = 10) -> str:
    """Return in words why a complete list must not be believed; empty where it may be.

    A side that showed many records and shows nearly none has lost them, or hides them from us;
    mirrored, that would empty the other side as well.

    Args:
        known: how many were there when both sides agreed last.
        seen: how many of those are in the list now.
        at_least: fewer known ones prove nothing.
    """
    if known >= at_least and seen * 10 < known:
        return f"of {known} known only {seen} are left; a side that empties is not mirrored"
    return ""


# -- what is held back ----------------------------------------------------------------------------

_HELD = re.compile(r"brake on ((?:[a-z_]+ \d+(?:, )?)+)")


@dataclass(frozen=True, slots=True)
class Held:
    """What may not happen now.

    Attributes:
        kinds: what is held back and how much of it, by kind.
        pause: when it is worth asking again; a release asks sooner.
    """

    kinds: Mapping[str, int]
    pause: timedelta

    def wait(self) -> Wait:
        """Return the answer of the run: it waits without end."""
        said = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        # Imposed: no end that an earlier wait of the record had may make it dead.
        return Wait(f"brake on {said}: see `bbl brake show`", self.pause, imposed=True)


def held_back(reason: str) -> dict[str, int]:
    """Return what a wait's reason says is held back, by kind; empty for another reason."""
    found = _HELD.match(reason)
    if found is None:
        return {}
    pairs = (part.split() for part in found[1].split(", "))
    return {kind: int(count) for kind, count in pairs}


# -- counting -------------------------------------------------------------------------------------


class Window:
    """How much happened within the last hour, to the minute."""

    def __init__(self) -> None:
        self._slots: deque[list[int]] = deque()  # of [slot number, count]

    def add(self, count: int, now: float) -> None:
        """Count; `now` in monotonic seconds."""
        number = self._number(now)
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append([number, 0])
        self._slots[-1][1] += count

    def total(self, now: float) -> int:
        """Return how much the hour until now holds."""
        number = self._number(now)
        while self._slots and self._slots[0][0] <= number - _SLOTS:
            self._slots.popleft()
        return sum(slot[1] for slot in self._slots)

    def clear(self) -> None:
        """Begin anew."""
        self._slots.clear()

    def _number(self, now: float) -> int:
        return int(now * _SLOTS / HOUR_SECONDS)


class Touched:
    """Which records were changed within the last hour; one that is changed twice counts once."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def add(self, record: str, now: float) -> None:
        """Note a record; `now` in monotonic seconds."""
        self._last.pop(record, None)
        self._last[record] = now

    def __contains__(self, record: str) -> bool:
        """Say whether it was changed within the hour, as far as was looked last."""
        return record in self._last

    def total(self, now: float) -> int:
        """Return how many."""
        while self._last and now - next(iter(self._last.values())) >= HOUR_SECONDS:
            del self._last[next(iter(self._last))]
        return len(self._last)

    def clear(self) -> None:
        """Begin anew."""
        self._last.clear()


# -- the brake of one process ---------------------------------------------------------------------


@dataclass(slots=True)
class _Kind:
    """One kind's counts here, and what stands about it.

    Attributes:
        used: how much of a release's extra was spent here.
    """

    budget: Budget
    window: Window = field(default_factory=Window)
    stands: BrakeTripped | BrakeReleased | None = None
    used: int = 0

    def beyond(self, extent: Extent, now: datetime) -> int:
        """Return what a release still allows here beyond the budget."""
        if not isinstance(self.stands, BrakeReleased) or now >= self.stands.until:
            return 0
        return max(0, math.ceil(self.stands.extra * extent.share) - self.used)


class Brake:
    """The brake of one service in one process. Lives on one event loop.

    Args:
        budgets: by kind; what has none is never held back.
    """

    def __init__(self, service: str, budgets: Mapping[str, Budget], clock: Clock) -> None:
        self.service = service
        self._clock = clock
        self._kinds = {kind: _Kind(budget) for kind, budget in budgets.items()}
        self._touched = Touched()
        self._waiting: set[str] = set()
        self._unpublished: dict[str, BrakeTripped] = {}
        self._listeners: list[Callable[[], None]] = []
        self._logger = step_logger(service=service)
        for kind in self._kinds:
            metrics.BRAKE_ENGAGED.labels(service, kind).set(0)

    # What a run asks ----------------------------------------------------------------------------

    def errand(self, record: str, extent: Extent) -> "Errand":
        """Return what asks leave for one run about this record."""
        return Errand(self, record, extent)

    def braked(self) -> frozenset[str]:
        """Return the kinds that are held back now."""
        return frozenset(kind for kind in self._kinds if self._tripped(kind) is not None)

    def ask(
        self, record: str, extent: Extent, wanted: Mapping[str, int], before: Mapping[str, int]
    ) -> Held | None:
        """Count what is about to happen, or say that it may not; see `Errand.ask`."""
        now, instant = self._clock.monotonic(), self._clock.now()
        again = record in self._touched or RECORD in before
        counted = {
            kind: count
            for kind, count in wanted.items()
            if count > 0 and kind in self._kinds and not (kind == RECORD and again)
        }
        braked = {kind: count for kind, count in counted.items() if self._tripped(kind) is not None}
        if not braked:
            for kind, count in counted.items():
                why = excess(
                    kind,
                    self._kinds[kind].budget,
                    extent,
                    asked=count,
                    before=before.get(kind, 0),
                    spent=self._spent(kind, now),
                    extra=self._kinds[kind].beyond(extent, instant),
                )
                if why:
                    self._trip(kind, why, instant)
                    braked[kind] = count
        if braked:
            self._waiting.add(record)
            for kind in braked:
                metrics.BRAKE_HELD.labels(self.service, kind).inc()
            # Each look costs calls, so the more wait, the rarer: about one look in a second.
            pause = max(LOOK_AGAIN, timedelta(seconds=len(self._waiting)))
            return Held(braked, min(pause, LONGEST_PAUSE))
        self._waiting.discard(record)
        for kind, count in counted.items():
            state = self._kinds[kind]
            extra = min(count, state.beyond(extent, instant))
            state.used += extra
            if kind != RECORD:
                state.window.add(count - extra, now)
            elif count > extra:
                self._touched.add(record, now)
        return None

    def waits(self, record: str) -> None:
        """Note that a part of what the record needs is held back, though the rest may happen."""
        self._waiting.add(record)

    def _spent(self, kind: str, now: float) -> int:
        return self._touched.total(now) if kind == RECORD else self._kinds[kind].window.total(now)

    def _tripped(self, kind: str) -> BrakeTripped | None:
        stands = self._kinds[kind].stands
        return stands if isinstance(stands, BrakeTripped) else None

    def _trip(self, kind: str, why: str, instant: datetime) -> None:
        trip = BrakeTripped(
            service=self.service, effect=kind, since=instant, by=self.service, reason=why
        )
        self._unpublished[trip.key] = trip
        self._stand(kind, trip)
        metrics.BRAKE_TRIPS.labels(self.service, kind).inc()
        for changed in self._listeners:
            changed()

    def _stand(self, kind: str, command: BrakeTripped | BrakeReleased | None) -> None:
        state = self._kinds[kind]
        before, state.stands = state.stands, command
        metrics.BRAKE_ENGAGED.labels(self.service, kind).set(isinstance(command, BrakeTripped))
        if isinstance(command, BrakeTripped):
            if not isinstance(before, BrakeTripped):
                self._logger.error(
                    "the brake is on; what it holds back waits",
                    effect=kind,
                    reason=command.reason,
                    by=command.by,
                    press=release_command(self.service, kind),
                )
            return
        if command == before:
            return
        state.used = 0
        state.window.clear()
        if kind == RECORD:
            self._touched.clear()
        if isinstance(before, BrakeTripped):
            self._waiting.clear()
            self._logger.warning("the brake is released", effect=kind)

    # What the follower of the topic tells -------------------------------------------------------

    def learn(self, key: str, command: Command | None) -> None:
        """Take over what stands under a key of `control.commands` now; None for nothing."""
        kind = next((kind for kind in self._kinds if key == brake_key(self.service, kind)), None)
        if kind is None:
            return
        if command is None:
            self._stand(kind, None)
        elif isinstance(command, BrakeTripped | BrakeReleased):
            self._unpublished.pop(key, None)  # it stands, whoever wrote it
            self._stand(kind, command)

    def loaded(self) -> None:
        """Note that everything that stood was learnt; nothing more is to be done."""

    def unpublished(self) -> tuple[BrakeTripped, ...]:
        """Return the trips that must still be written."""
        return tuple(self._unpublished.values())

    def published(self, command: Command) -> None:
        """Note that Kafka acknowledged a trip."""
        self._unpublished.pop(command.key, None)

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever there is something to write."""
        self._listeners.append(changed)


class Errand:
    """One run's leave: what it did already counts against what one run may do."""

    def __init__(self, brake: Brake, record: str, extent: Extent) -> None:
        self._brake = brake
        self._record = record
        self._extent = extent
        self._held = False
        self._granted: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def ask(self, effects: Mapping[str, int]) -> Held | None:
        """Count what is about to happen, by kind; return what is held back, or None for leave.

        Whatever changes the record counts it once as RECORD. What was granted and not done yet is
        not counted twice. Either all of it may happen or nothing.
        """
        total = {kind: self._done.get(kind, 0) + count for kind, count in effects.items()}
        more = {kind: count - self._granted.get(kind, 0) for kind, count in total.items()}
        held = self._brake.ask(self._record, self._extent, more, self._granted)
        if held is not None:
            self._held = True
        elif self._held:
            self._brake.waits(self._record)
        if held is None:
            for kind, count in total.items():
                self._granted[kind] = max(count, self._granted.get(kind, 0))
        return held

    def did(self, effects: Mapping[str, int]) -> None:
        """Note what happened of what was granted."""
        for kind, count in effects.items():
            self._done[kind] = self._done.get(kind, 0) + count


def brake_key(service: str, kind: str) -> str:
    """Return the key under which a kind's brake stands in `control.commands`."""
    return f"brake|{service}|{kind}"


def release_command(service: str, kind: str = "") -> str:
    """Return what an operator types to let what is held back go on."""
    return " ".join(["bbl", "brake", "release", service, *([kind] if kind else []), "--yes"])


def counted(kinds: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the sums by kind."""
    sums: dict[str, int] = {}
    for kind, count in kinds:
        sums[kind] = sums.get(kind, 0) + count
    return sums
