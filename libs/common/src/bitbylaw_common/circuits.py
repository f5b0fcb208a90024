"""Circuit breakers: a system that is down is left alone until a cheap probe finds it well again.

`Circuit` decides (pure, but for the clock it asks); `Circuits` keeps one for each system, sends the
probes and tells who listens. What holds calls back is `http.guarded`.
"""

import asyncio
import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar, Token
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

from bitbylaw_common import metrics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import (
    DeclarationError,
    HeldBack,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_common.limits import NoLimits, Turns
from bitbylaw_common.logs import step_logger

T = TypeVar("T")

WINDOW_SECONDS = 30.0
"""How far back calls count."""

FAILED_RECORDS = 5
"""Of so many distinct records a call must have failed before a circuit opens."""

RAMP = (1, 2, 4, 8, 16, 32)
"""Runs at once after a recovery: as many distinct records must be answered before the next width."""

FAILED_RECORDS_IN_RAMP = 2
"""As `FAILED_RECORDS`, while a recovery is still in doubt; one record alone never opens anything."""

PROBE_SECONDS = (1.0, 60.0)
"""The first pause before a probe, and the longest; each failed one doubles it."""

PROBE_UNAUTHORIZED_SECONDS = (60.0, 300.0)
"""The same once a key was refused: EspoCRM bans an address that fails to log in too often. The first
is also what lies between two probes of all processes together."""

TURN_AGAIN_SECONDS = 2.0
"""Who waits for its turn to probe asks this often, because another may have found the system well."""

PATIENCE = timedelta(seconds=30)
"""How long a system is left alone that asks for patience without saying how much."""

SHORT_PATIENCE_SECONDS = 60.0
"""Within this of its end no run is started for a system that asked for patience. Before that runs
are started, held back, and wait in the schedule, so that they hold up no partition for hours."""

_CLEARED_AT_MOST = 1_000

Probe = Callable[[], Awaitable[object]]
"""One cheap call to the system, repeated as it pleases us; raises what calls raise."""


class State(StrEnum):
    """Where a circuit is."""

    CLOSED = "closed"
    """All is well, everything is sent."""

    OPEN = "open"
    """Nothing is sent."""

    PROBING = "probing"
    """Nothing is sent but the probe, which is under way."""

    RAMPING = "ramping"
    """The probe went well; few runs at once, then more."""


@dataclass(frozen=True, slots=True)
class CircuitState:
    """A circuit as an operator sees it.

    Attributes:
        since: when it came into this state, UTC.
        reason: why, in words; empty while it is closed.
        room: how many runs may be under way at once; None for no limit.
        next_probe: when the system is asked again; None unless it is open.
        not_before: until when the system asked to be left alone; None when it did not.
    """

    system: str
    state: State
    since: datetime
    reason: str
    room: int | None
    next_probe: datetime | None
    not_before: datetime | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing may be sent now, and when asking again may be worth it."""

    cause: str
    reason: str
    after: timedelta


@dataclass(frozen=True, slots=True)
class _Ended:
    """A call that ended: when, whose, and how."""

    at: float
    record: Hashable
    failed: bool


class Circuit:
    """The breaker of one system: closed, open, probing, ramping.

    A call is told by `begin` and one of `succeeded`, `failed`, `refused`; one that began before the
    state last changed says nothing about it and counts no more.

    Args:
        system: "espocrm", "xai", ...
        clock: measures; it is never waited on.
        changed: called after each change.
    """

    def __init__(
        self, system: str, clock: Clock, changed: Callable[["Circuit"], None] | None = None
    ) -> None:
        self.system = system
        self._clock = clock
        self._changed = changed or _nobody
        self._state = State.CLOSED
        self._since = clock.now()
        self._reason = ""
        self._generation = 0
        self._ended: deque[_Ended] = deque()
        self._failures = 0
        self._failed_records: Counter[Hashable] = Counter()
        self._answered: set[Hashable] = set()
        self._stage = 0
        self._setbacks = 0
        self._probe_at = 0.0
        self._not_before = 0.0
        self._unauthorized = False
        self._blamed: tuple[Hashable, ...] = ()
        self._cleared: OrderedDict[Hashable, None] = OrderedDict()

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    @property
    def room(self) -> int | None:
        """How many runs that need the system may be under way at once; None for no limit."""
        if self._state in (State.OPEN, State.PROBING):
            return 0
        if 0 < self.patience_seconds <= SHORT_PATIENCE_SECONDS:
            return 0
        return RAMP[self._stage] if self._state is State.RAMPING else None

    @property
    def patience_seconds(self) -> float:
        """How long the system still wants to be left alone; zero when it does not."""
        if not self._not_before:  # asked before every run
            return 0.0
        return max(0.0, self._not_before - self._clock.monotonic())

    @property
    def probe_seconds(self) -> float:
        """How long until the next probe; zero when it is due."""
        return max(0.0, self._probe_at - self._clock.monotonic(), self.patience_seconds)

    @property
    def unauthorized(self) -> bool:
        """Whether our key was refused and no probe has found it good since."""
        return self._unauthorized

    @property
    def described(self) -> CircuitState:
        """The circuit as an operator sees it."""
        now = self._clock.now()
        probe = now + timedelta(seconds=self.probe_seconds)
        patience = now + timedelta(seconds=self.patience_seconds)
        return CircuitState(
            self.system,
            self._state,
            self._since,
            self._reason,
            self.room,
            probe if self._state is State.OPEN else None,
            patience if self.patience_seconds else None,
        )

    def refusal(self) -> Refusal | None:
        """Return why nothing may be sent now; None when it may."""
        if self._state in (State.OPEN, State.PROBING):
            after = timedelta(seconds=max(1.0, self.probe_seconds))
            return Refusal("circuit", f"held back since it failed ({self._reason})", after)
        if self.patience_seconds:
            after = timedelta(seconds=self.patience_seconds)
            return Refusal("patience", "it asked to be left alone for a while", after)
        return None

    # Calls ------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Return what `succeeded`, `failed` or `refused` wants to know of the call that begins."""
        return self._generation

    def succeeded(self, begun: int, record: Hashable, operation: str) -> None:
        """Note that the system answered; also that it does not have or not want something."""
        if begun != self._generation:
            return
        self._cleared.pop(("operation", operation), None)
        self._note(record, failed=False)
        if self._state is not State.RAMPING:
            return
        self._answered.add(record)
        calm = not self._failures and (
            self._clock.now() - self._since >= timedelta(seconds=WINDOW_SECONDS)
        )
        if calm or len(self._answered) >= RAMP[self._stage]:
            self._widen(to_the_end=calm)

    def failed(self, begun: int, record: Hashable, error: str) -> None:
        """Note that the system did not do its part. `error` says so in words without ids."""
        if begun != self._generation or self._state in (State.OPEN, State.PROBING):
            return
        self._note(record, failed=True)
        records = FAILED_RECORDS_IN_RAMP if self._state is State.RAMPING else FAILED_RECORDS
        if len(self._failed_records) >= records and self._failures * 2 > len(self._ended):
            self._open(
                f"calls of {len(self._failed_records)} records failed within "
                f"{WINDOW_SECONDS:.0f} s, the last: {error}"
            )

    def refused(self, begun: int, record: Hashable, operation: str, error: str) -> None:
        """Note that the system did not accept our key.

        That opens the circuit, unless a probe has already found the key good after this record, or
        this operation, was refused before: then something about it alone is not allowed, and it
        counts as any failure.
        """
        blamed = (("record", record), ("operation", operation))
        if self._state in (State.OPEN, State.PROBING):
            if not self._unauthorized:
                self._unauthorized = True
                self._plan_probe()
        elif begun == self._generation and not any(one in self._cleared for one in blamed):
            self._unauthorized = True
            self._blamed = blamed if record is not None else blamed[1:]
            self._open(error)
        else:
            self.failed(begun, record, error)

    def be_patient(self, span: timedelta) -> None:
        """Send nothing for so long, because the system asked for it. It is not down: not open."""
        until = self._clock.monotonic() + span.total_seconds()
        if until > self._not_before:
            self._not_before = until
            self._changed(self)

    # Probes -----------------------------------------------------------------------------------

    def probe_begins(self) -> None:
        """Note that the system is being asked."""
        self._become(State.PROBING, self._reason, since=self._since)

    def probed(self, error: OutsideError | None) -> None:
        """Note what came of the probe: None when the system answered as it should."""
        if error is None:
            for one in self._blamed:
                self._cleared[one] = None
                self._cleared.move_to_end(one)
            while len(self._cleared) > _CLEARED_AT_MOST:
                self._cleared.popitem(last=False)
            self._blamed, self._unauthorized, self._stage = (), False, 0
            self._become(State.RAMPING, "it answers again")
            return
        self._unauthorized |= isinstance(error, Unauthorized)
        self._setbacks += 1
        self._plan_probe()
        self._become(State.OPEN, self._reason, since=self._since)

    def _plan_probe(self) -> None:
        first, longest = PROBE_UNAUTHORIZED_SECONDS if self._unauthorized else PROBE_SECONDS
        pause = PROBE_SECONDS[0] * 2 ** min(self._setbacks, 30)
        self._probe_at = self._clock.monotonic() + min(max(pause, first), longest)

    # Changes ----------------------------------------------------------------------------------

    def _note(self, record: Hashable, *, failed: bool) -> None:
        now = self._clock.monotonic()
        while self._ended and now - self._ended[0].at > WINDOW_SECONDS:
            old = self._ended.popleft()
            if old.failed:
                self._failures -= 1
                self._failed_records[old.record] -= 1
                if not self._failed_records[old.record]:
                    del self._failed_records[old.record]
        self._ended.append(_Ended(now, record, failed))
        if failed:
            self._failures += 1
            self._failed_records[record] += 1

    def _open(self, reason: str) -> None:
        self._setbacks += self._state is State.RAMPING
        self._plan_probe()
        self._become(State.OPEN, reason)

    def _widen(self, *, to_the_end: bool) -> None:
        self._answered.clear()
        self._stage += 1
        if to_the_end or self._stage == len(RAMP):
            self._setbacks = 0
            self._become(State.CLOSED, "")
        else:
            self._changed(self)

    def _become(self, state: State, reason: str, since: datetime | None = None) -> None:
        self._state, self._reason = state, reason
        self._since = since or self._clock.now()
        self._generation += 1
        self._ended.clear()
        self._failures = 0
        self._failed_records.clear()
        self._answered.clear()
        self._changed(self)


def _nobody(_circuit: Circuit) -> None:
    """Tell nobody."""


class Circuits:
    """The circuits of all systems that a process speaks to. Lives on one event loop.

    Args:
        clock: measures, and lets the pauses between probes pass.
        turns: shared with the other processes, so that they probe one after the other, and at most
            once a minute, all together, once a key was refused.
    """

    def __init__(self, clock: Clock, turns: Turns | None = None) -> None:
        self._clock = clock
        self._turns = turns or NoLimits()
        self._circuits: dict[str, Circuit] = {}
        self._probes: dict[str, Probe] = {}
        self._was: dict[str, State] = {}
        self._calm = True
        self._listeners: list[Callable[[], None]] = []
        self._recoveries: dict[str, asyncio.Task[None]] = {}
        self._patience: dict[str, asyncio.Task[None]] = {}
        self._logger = step_logger()

    def declare(self, system: str, probe: Probe) -> None:
        """Give a system its circuit.

        Args:
            system: as `Request.system` names it.
            probe: how to ask whether it is well; may go through a guarded transport, whose circuit
                lets it pass.
        """
        self._probes[system] = probe
        self._circuits[system] = Circuit(system, self._clock, self._changed)
        self._was[system] = State.CLOSED
        metrics.CIRCUIT_OPEN.labels(system).set(0)

    def of(self, system: str) -> Circuit:
        """Return the system's circuit.

        Raises:
            DeclarationError: it has none; `declare` it where the dependencies are opened.
        """
        try:
            return self._circuits[system]
        except KeyError:
            known = ", ".join(sorted(self._circuits)) or "none"
            raise DeclarationError(
                f"the system {system!r} has no circuit (declared: {known}); "
                "declare it with its probe in open_deps"
            ) from None

    def room(self, systems: Sequence[str]) -> int | None:
        """Return how many runs that need these systems may be under way at once.

        Returns:
            None for no limit, 0 when none may start.

        Raises:
            DeclarationError: one of them has no circuit.
        """
        if self._calm and self._circuits.keys() >= {*systems}:  # asked before every run
            return None
        return min((room for s in systems if (room := self.of(s).room) is not None), default=None)

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a circuit changed, so that `room` may answer otherwise."""
        self._listeners.append(changed)

    def states(self) -> tuple[CircuitState, ...]:
        """Return how the circuits are, for an operator."""
        return tuple(circuit.described for circuit in self._circuits.values())

    async def close(self) -> None:
        """Ask no system any more."""
        tasks = [*self._recoveries.values(), *self._patience.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def _changed(self, circuit: Circuit) -> None:
        system, state = circuit.system, circuit.state
        was, self._was[system] = self._was[system], state
        metrics.CIRCUIT_OPEN.labels(system).set(state in (State.OPEN, State.PROBING))
        if state is not was:
            self._tell(circuit.described, was)
        if state is State.OPEN and was is not State.PROBING:
            self._begin(self._recoveries, system, self._recover(circuit))
        if circuit.patience_seconds:
            self._begin(self._patience, system, self._be_patient(circuit))
        self._notify()

    def _tell(self, now: CircuitState, was: State) -> None:
        if now.state is State.OPEN and was is not State.PROBING:
            metrics.CIRCUIT_OPENINGS.labels(now.system).inc()
            self._logger.warning(
                "an outside system is left alone until it answers again",
                system=now.system,
                reason=now.reason,
            )
        elif now.state in (State.RAMPING, State.CLOSED):
            words = {State.RAMPING: "an outside system answers again", State.CLOSED: "full speed"}
            self._logger.info(words[now.state], system=now.system)

    def _begin(
        self,
        kept: dict[str, asyncio.Task[None]],
        system: str,
        work: Coroutine[Any, Any, None],
    ) -> None:
        if system in kept:
            kept[system].cancel()
        # An empty context: what is done here belongs to no run.
        kept[system] = asyncio.get_running_loop().create_task(work, context=Context())

    def _notify(self) -> None:
        self._calm = all(
            circuit.state is State.CLOSED and not circuit.patience_seconds
            for circuit in self._circuits.values()
        )
        for changed in self._listeners:
            changed()

    async def _be_patient(self, circuit: Circuit) -> None:
        while (seconds := circuit.patience_seconds) > 0:
            await self._clock.sleep(seconds)
        self._notify()

    async def _recover(self, circuit: Circuit) -> None:
        """Probe until the system is well; a new failure begins this anew."""
        if circuit.unauthorized:
            # What was refused just now counts as well where an address is banned.
            await self._take_turn(circuit)
        while circuit.state is State.OPEN:
            seconds = circuit.probe_seconds
            if seconds <= 0:
                seconds = min(await self._take_turn(circuit), TURN_AGAIN_SECONDS)
            if seconds > 0:
                await self._clock.sleep(seconds)
                continue
            circuit.probe_begins()
            circuit.probed(await self._ask(circuit.system))
            if not circuit.unauthorized:
                await self._turns.pass_turn_on(circuit.system)

    async def _take_turn(self, circuit: Circuit) -> float:
        return await self._turns.take_turn(circuit.system, PROBE_UNAUTHORIZED_SECONDS[0])

    async def _ask(self, system: str) -> OutsideError | None:
        """Return what is wrong with the system; None when it answers as one that is well."""
        error: OutsideError | None = None
        with _Setting(_PROBING, True):
            try:
                await self._probes[system]()
            except (Transient, Unauthorized, HeldBack) as down:
                error = down
            except RateLimited as answered:
                self._circuits[system].be_patient(answered.retry_after or PATIENCE)
            except OutsideError as answered:
                self._logger.warning("the probe is answered oddly", error=str(answered))
            except Exception as bug:
                self._logger.error("bug in a probe", system=system, exc_info=bug)
                error = Transient(system, "probe", detail="bug in the probe")
        metrics.CIRCUIT_PROBES.labels(system, "failed" if error else "answered").inc()
        if error is not None:
            self._logger.info("not yet", system=system, error=str(error))
        return error


# -- what is under way ----------------------------------------------------------------------------


class Working(NamedTuple):
    """Whose calls are made.

    Attributes:
        record: None outside of `working_on`.
        serial: rises from one run to the next; what began first is to be finished first.
    """

    record: Hashable
    serial: int


_SERIALS = itertools.count(1)
_WORKING: ContextVar[Working | None] = ContextVar("circuit_working", default=None)
_PROBING: ContextVar[bool] = ContextVar("circuit_probing", default=False)


class _Setting(Generic[T]):
    """Sets a context variable for a block; cheaper than a generator, because every run does it."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[T], value: T) -> None:
        self._variable = variable
        self._value = value
        self._token: Token[T] | None = None

    def __enter__(self) -> None:
        self._token = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            self._variable.reset(self._token)


def working_on(record: Hashable) -> AbstractContextManager[None]:
    """Say for the block which record's calls are made: failures count by record.

    Calls outside of any block count as one record's, so they alone open a circuit only by a 401.
    """
    return _Setting(_WORKING, Working(record, next(_SERIALS)))


def working() -> Working:
    """Return whose calls are made here."""
    return _WORKING.get() or Working(None, next(_SERIALS))


def probing() -> bool:
    """Say whether this is a probe, which an open circuit lets pass."""
    return _PROBING.get()
