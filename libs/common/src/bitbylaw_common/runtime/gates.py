"""How many runs of each step may be under way: none while it is paused or halted, few on a ramp.

No IO: what stands in `control.commands` is told to it, and a halt that must be written there waits
in `unpublished`; `commands.py` does both.
"""

import shlex
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from bitbylaw_common import metrics
from bitbylaw_common.clock import Clock
from bitbylaw_common.events import Command, ReplayCancelled, StepHalted, StepPaused
from bitbylaw_common.logs import step_logger

_WELL = frozenset({"done", "skipped"})
_SLOTS = 60
"""Into how many parts a window is cut; it slides by one of them."""


@dataclass(frozen=True, slots=True)
class HaltingRule:
    """When a step halts, and how it comes back.

    Attributes:
        bugs: a step halts when runs of so many different keys ended in a bug within the window,
            none ended well meanwhile, and more than half of what ended did so.
        unreadable: it halts as well when so many records of different keys could not be read
            within the window, and more than half of those that came meanwhile.
        rejected: so many different keys that are rejected, by the measure of `bugs`, only count as
            a surge.
        window_seconds: how long the window is.
        ramp_bugs: on the ramp, bugs of so many different keys are enough, whatever else ended.
        full: a ramp that doubled to so many runs at once is over.
    """

    bugs: int = 5
    unreadable: int = 20
    rejected: int = 20
    window_seconds: float = 60.0
    ramp_bugs: int = 3
    full: int = 64


class Distinct:
    """Tells when `size` different keys came within `seconds`; remembers no more keys than that."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def add(self, key: str, now: float) -> bool:
        """Note that a key came; say whether that makes enough of them.

        Args:
            now: monotonic seconds.
        """
        self._last.pop(key, None)
        self._last[key] = now
        if len(self._last) > self._size:
            del self._last[next(iter(self._last))]
        oldest = next(iter(self._last.values()))
        return len(self._last) == self._size and now - oldest < self._seconds

    def clear(self) -> None:
        """Forget all keys."""
        self._last.clear()


class Surge:
    """Tells when one kind of end prevails: over many keys, and more than half of all.

    The stretch that is looked at begins with the first hit, and is at most `seconds` long. What it
    remembers is bounded, however much comes.
    """

    def __init__(self, distinct: int, seconds: float) -> None:
        self._keys = Distinct(distinct, seconds)
        self._slot_seconds = seconds / _SLOTS
        self._slots: deque[list[int]] = deque()  # of [slot number, hits, misses]

    def hit(self, key: str, now: float) -> bool:
        """Count an end of this kind; say whether the kind prevails now."""
        self._count(now, hits=1)
        enough = self._keys.add(key, now)
        hits = sum(slot[1] for slot in self._slots)
        return enough and hits > sum(slot[2] for slot in self._slots)

    def miss(self, now: float, count: int = 1) -> None:
        """Count ends of other kinds; none is remembered before the first hit."""
        if self._slots:
            self._count(now, misses=count)

    def clear(self) -> None:
        """Begin anew."""
        if self._slots:
            self._slots.clear()
            self._keys.clear()

    def _count(self, now: float, *, hits: int = 0, misses: int = 0) -> None:
        number = int(now / self._slot_seconds)
        slots = self._slots
        while slots and (slots[0][0] <= number - _SLOTS or not slots[0][1]):
            slots.popleft()
        if not slots and not hits:
            return
        if not slots or slots[-1][0] != number:
            slots.append([number, 0, 0])
        slots[-1][1] += hits
        slots[-1][2] += misses


@dataclass(frozen=True, slots=True)
class GateState:
    """Why a step does not start as many runs as it could.

    Attributes:
        state: "ramping" after a halt ended, until enough runs ended well.
        room: how many runs may be under way at once.
        since: when that began, UTC.
        code_version: of the code that was halted; empty unless halted.
        by: who wants it so.
        recorded: False while a halt is not acknowledged by Kafka yet.
        command: what an operator may type to end it; empty where nothing is to be done.
    """

    step: str
    state: Literal["paused", "halted", "ramping"]
    room: int
    since: datetime
    reason: str
    code_version: str = ""
    by: str = ""
    recorded: bool = True
    command: str = ""


@dataclass(slots=True)
class _Gate:
    """One step's evidence, and what was made of it.

    Attributes:
        limit: how many runs may be under way on the ramp; None when it is on none.
        readable: records that could be read since the last that could not.
        marked: what stands, or stood, in the topic makes a ramp of the start.
        alarmed: monotonic seconds of the last surge of rejections.
    """

    name: str
    bugs: Surge
    unreadable: Surge
    rejected: Surge
    ramp_bugs: Distinct
    limit: int | None = None
    ramp_since: datetime | None = None
    readable: int = 0
    halted: bool = False
    marked: bool = False
    alarmed: float = field(default=float("-inf"))

    def forget(self) -> None:
        """Drop all evidence."""
        for evidence in (self.bugs, self.unreadable, self.rejected, self.ramp_bugs):
            evidence.clear()
        self.readable = 0


class Gates:
    """The gates of one service's steps in one process. Lives on one event loop.

    A halt names the version it is for: this process obeys those for its own and leaves all others
    alone. When one ends, by an operator or because another version starts, the step ramps up: 1
    run at once, then 2, 4, 8, doubled by each run that ends well.

    Args:
        steps: names of those that work on records.
        code_version: of the code that runs here.
        instance: who says so when a step halts.
    """

    def __init__(
        self,
        service: str,
        steps: Iterable[str],
        *,
        clock: Clock,
        code_version: str,
        instance: str,
        rule: HaltingRule | None = None,
    ) -> None:
        self.service = service
        self._clock = clock
        self._version = code_version
        self._instance = instance
        self._rule = rule or HaltingRule()
        self._logger = step_logger(service=service)
        self._gates = {name: self._new(name) for name in steps}
        self._room: dict[str, int | None] = dict.fromkeys(self._gates)
        self._standing: dict[str, Command] = {}
        self._unpublished: dict[str, StepHalted] = {}
        self._listeners: list[Callable[[], None]] = []
        self._loaded = False
        for name in self._gates:
            metrics.STEP_HALTED.labels(service, name).set(0)
            metrics.STEP_PAUSED.labels(service, name).set(0)

    def _new(self, name: str) -> _Gate:
        rule = self._rule
        return _Gate(
            name,
            bugs=Surge(rule.bugs, rule.window_seconds),
            unreadable=Surge(rule.unreadable, rule.window_seconds),
            rejected=Surge(rule.rejected, rule.window_seconds),
            ramp_bugs=Distinct(rule.ramp_bugs, rule.window_seconds),
        )

    # What a worker asks and tells -------------------------------------------------------------

    def room(self, step: str) -> int | None:
        """Return how many runs of a step may be under way: None without limit, 0 for none."""
        return self._room.get(step)

    def ended(self, step: str, key: str, outcome: str) -> None:
        """Note how a run ended. A step that halts by it has no room when this returns.

        Args:
            key: what the run was about.
            outcome: as in metrics: done, skipped, wait, retry, rejected, bug.
        """
        gate = self._gates.get(step)
        if gate is None or gate.halted:
            return
        if outcome in _WELL:
            gate.bugs.clear()
            gate.rejected.clear()
            if gate.limit is not None:
                self._climb(gate, gate.limit * 2)
            return
        now = self._clock.monotonic()
        if outcome == "bug":
            gate.rejected.miss(now)
            prevail = gate.bugs.hit(key, now)
            if gate.limit is not None and gate.ramp_bugs.add(key, now):
                self._halt(gate, f"runs of {self._rule.ramp_bugs} records ended in a bug again")
            elif prevail:
                self._halt(
                    gate,
                    f"runs of {self._rule.bugs} records ended in a bug within "
                    f"{self._rule.window_seconds:g} s, and none ended well",
                )
            return
        gate.bugs.miss(now)
        if outcome != "rejected":
            gate.rejected.miss(now)
        elif gate.rejected.hit(key, now) and now - gate.alarmed >= self._rule.window_seconds:
            gate.alarmed = now
            metrics.REJECTED_SURGES.labels(self.service, step).inc()
            self._logger.error(
                "most runs of a step are rejected", step=step, records=self._rule.rejected
            )

    def readable(self, step: str) -> None:
        """Note that a record of a step's topics could be read."""
        gate = self._gates.get(step)
        if gate is not None:
            gate.readable += 1

    def unreadable(self, step: str, key: str) -> None:
        """Note that a record of a step's topics could not be read; may halt the step like a bug.

        Args:
            key: the record's key, or its place where it has none.
        """
        gate = self._gates.get(step)
        if gate is None or gate.halted:
            return
        now = self._clock.monotonic()
        gate.unreadable.miss(now, gate.readable)
        gate.readable = 0
        if gate.unreadable.hit(key, now):
            self._halt(
                gate,
                f"{self._rule.unreadable} records could not be read within "
                f"{self._rule.window_seconds:g} s, more than half of what came",
            )

    def cancelled(self, replay: str) -> bool:
        """Say whether an operator cancelled the replay with this id."""
        return f"replay|{replay}" in self._standing

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever room or state of a step may be another."""
        self._listeners.append(changed)

    def states(self) -> tuple[GateState, ...]:
        """Return what holds steps back here, halts first; nothing while all run freely."""
        found = [state for gate in self._gates.values() for state in self._states(gate)]
        order = ("halted", "paused", "ramping")
        return tuple(sorted(found, key=lambda one: (order.index(one.state), one.step)))

    def _states(self, gate: _Gate) -> Iterable[GateState]:
        halt = self._halt_of(gate.name)
        if halt is not None:
            yield GateState(
                step=gate.name,
                state="halted",
                room=0,
                since=halt.since,
                reason=halt.reason,
                code_version=halt.code_version,
                by=halt.by,
                recorded=halt.key in self._standing,
                command=resume_command(self.service, gate.name),
            )
        for pause in self._pauses_of(gate.name):
            yield GateState(
                step=gate.name,
                state="paused",
                room=0,
                since=pause.since,
                reason=pause.reason,
                by=pause.by,
                command=resume_command(self.service, pause.step),
            )
        if halt is None and gate.limit is not None and gate.ramp_since is not None:
            yield GateState(
                step=gate.name,
                state="ramping",
                room=gate.limit,
                since=gate.ramp_since,
                reason="it was halted; each run that ends well doubles the room",
            )

    # What the follower of the topic tells -----------------------------------------------------

    def learn(self, key: str, command: Command | None) -> None:
        """Take over what stands under a key of `control.commands` now; None for nothing.

        May be repeated. What is about other services is passed over.
        """
        self._mark(key)
        if command is None:
            if self._standing.pop(key, None) is None:
                return
        elif isinstance(command, ReplayCancelled):
            self._standing[key] = command
            return
        elif isinstance(command, StepPaused | StepHalted) and command.service == self.service:
            self._standing[key] = command
            # it stands, whoever wrote it
            self._unpublished.pop(key, None)
        else:
            return
        self._look_again()

    def loaded(self) -> None:
        """Note that everything that stood in the topic was learnt; only then may a worker start.

        A step that was halted for another version, or whose halt was withdrawn while this process
        did not run, begins on the ramp. After the first call nothing happens.
        """
        if self._loaded:
            return
        self._loaded = True
        for gate in self._gates.values():
            if gate.marked:
                self._ramp(gate)
        self._look_again()

    def unpublished(self) -> tuple[StepHalted, ...]:
        """Return the halts that must still be written."""
        return tuple(self._unpublished.values())

    def published(self, halt: Command) -> None:
        """Note that Kafka acknowledged a halt; `learn` has been told what stands since."""
        if self._unpublished.pop(halt.key, None) is not None:
            self._look_again()

    # Deciding ---------------------------------------------------------------------------------

    def _mark(self, key: str) -> None:
        for gate in self._gates.values():
            if key.startswith(f"{self.service}|{gate.name}|"):
                gate.marked = True

    def _halt_of(self, step: str) -> StepHalted | None:
        key = f"{self.service}|{step}|{self._version}"
        found = self._standing.get(key)
        return found if isinstance(found, StepHalted) else self._unpublished.get(key)

    def _pauses_of(self, step: str) -> list[StepPaused]:
        keys = (f"{self.service}|", f"{self.service}|{step}")
        return [found for key in keys if isinstance(found := self._standing.get(key), StepPaused)]

    def _halt(self, gate: _Gate, reason: str) -> None:
        halt = StepHalted(
            service=self.service,
            step=gate.name,
            code_version=self._version,
            since=self._clock.now(),
            by=self._instance,
            reason=reason,
        )
        self._unpublished[halt.key] = halt
        self._look_again()

    def _ramp(self, gate: _Gate) -> None:
        gate.forget()
        gate.ramp_since = self._clock.now()
        gate.limit = 1

    def _climb(self, gate: _Gate, limit: int) -> None:
        gate.limit = limit if limit < self._rule.full else None
        if gate.limit is None:
            gate.ramp_bugs.clear()
            self._logger.info("a step is back at full room after its halt", step=gate.name)
        self._look_again()

    def _look_again(self) -> None:
        """Work out every step's room, and tell who listens."""
        for gate in self._gates.values():
            halt = self._halt_of(gate.name)
            if halt is not None and not gate.halted:
                gate.halted, gate.limit = True, None
                self._logger.error(
                    "a step is halted; no run of it starts",
                    step=gate.name,
                    reason=halt.reason,
                    code_version=halt.code_version,
                    by=halt.by,
                    press=resume_command(self.service, gate.name),
                )
            elif halt is None and gate.halted:
                gate.halted = False
                self._ramp(gate)
                self._logger.warning("a step is not halted any more; it ramps up", step=gate.name)
            paused = bool(self._pauses_of(gate.name))
            self._room[gate.name] = 0 if gate.halted or paused else gate.limit
            metrics.STEP_HALTED.labels(self.service, gate.name).set(gate.halted)
            metrics.STEP_PAUSED.labels(self.service, gate.name).set(paused)
        for changed in self._listeners:
            changed()


def resume_command(service: str, step: str = "") -> str:
    """Return what an operator types to let a step, or all of a service, run again."""
    return " ".join(["bbl", "resume", service, *([shlex.quote(step)] if step else []), "--yes"])
