"""Circuits: when they open, what a probe costs, and how a recovery widens; time is a number."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbylaw_common import circuits as circuits_module
from bitbylaw_common import metrics
from bitbylaw_common.circuits import (
    FAILED_RECORDS,
    PATIENCE,
    RAMP,
    TURN_AGAIN_SECONDS,
    WINDOW_SECONDS,
    Circuit,
    Circuits,
    State,
    probing,
    working,
    working_on,
)
from bitbylaw_common.errors import (
    DeclarationError,
    Invalid,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_common.limits import LocalLimits, Turns
from bitbylaw_common.runtime.hosts.memory_host import ManualClock
from bitbylaw_common.runtime.verdict import RATE_LIMIT_PAUSE

SYSTEM = "xai"
DOWN = Transient(SYSTEM, "probe", status=503)
DENIED = Unauthorized(SYSTEM, "probe", status=401)
MINUTE = 60.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def circuit(clock: ManualClock) -> Circuit:
    return Circuit(SYSTEM, clock)


def fails(circuit: Circuit, *records: Hashable) -> None:
    for record in records:
        circuit.failed(circuit.begin(), record, "xai answered 500 to get_file")


def answers(circuit: Circuit, *records: Hashable, operation: str = "get_file") -> None:
    for record in records:
        circuit.succeeded(circuit.begin(), record, operation)


def denies(circuit: Circuit, record: Hashable, operation: str = "get_file") -> None:
    circuit.refused(circuit.begin(), record, operation, f"xai answered 401 to {operation}")


def state(circuit: Circuit) -> State:
    """Return the state; a call, because a type checker believes what it compared before."""
    return circuit.state


def to_ramping(circuit: Circuit) -> None:
    fails(circuit, *range(FAILED_RECORDS))
    assert state(circuit) is State.OPEN
    circuit.probe_begins()
    circuit.probed(None)
    assert state(circuit) is State.RAMPING


# -- opening --------------------------------------------------------------------------------------


def test_it_opens_when_five_records_failed_and_with_them_over_half_of_the_calls(
    circuit: Circuit,
) -> None:
    answers(circuit, "a", "b", "c", "d")
    fails(circuit, 1, 2, 3, 4)
    assert (state(circuit), circuit.room) == (State.CLOSED, None)
    fails(circuit, 5)
    assert (state(circuit), circuit.room) == (State.OPEN, 0)
    assert "calls of 5 records failed within 30 s" in circuit.described.reason


def test_half_of_the_calls_is_not_enough(circuit: Circuit) -> None:
    answers(circuit, *"abcdefgh")
    fails(circuit, *range(8))
    assert state(circuit) is State.CLOSED


def test_what_is_longer_ago_than_the_window_counts_no_more(
    circuit: Circuit, clock: ManualClock
) -> None:
    for record in range(40):
        fails(circuit, record)
        clock.move(WINDOW_SECONDS / (FAILED_RECORDS - 1) + 0.1)
    assert state(circuit) is State.CLOSED


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["poison fails", "other answers", "time passes"]), st.floats(0, 20)
        ),
        max_size=200,
    ),
    st.booleans(),
)
def test_one_record_that_always_fails_never_opens_it(
    events: list[tuple[str, float]], ramping: bool
) -> None:
    clock = ManualClock()
    circuit = Circuit(SYSTEM, clock)
    if ramping:
        to_ramping(circuit)
    for number, (event, seconds) in enumerate(events):
        match event:
            case "poison fails":
                fails(circuit, "poison")
            case "other answers":
                answers(circuit, number)
            case _:
                clock.move(seconds)
        assert state(circuit) is not State.OPEN


def test_calls_that_belong_to_no_record_count_as_one_record_s(circuit: Circuit) -> None:
    fails(circuit, *[None] * 50)
    assert state(circuit) is State.CLOSED


def test_calls_that_began_before_it_opened_say_nothing_about_what_came_after(
    circuit: Circuit,
) -> None:
    late = [circuit.begin() for _ in range(2 * FAILED_RECORDS)]
    to_ramping(circuit)
    for record, begun in enumerate(late):
        circuit.failed(begun, record, "too late")
        circuit.refused(begun, record, "get_file", "too late")
        circuit.succeeded(begun, record, "get_file")
    assert (state(circuit), circuit.room) == (State.RAMPING, RAMP[0])


# -- a key that is not accepted -------------------------------------------------------------------


@pytest.mark.parametrize("record", ["d1", None])
def test_the_first_401_opens_it(circuit: Circuit, record: Hashable) -> None:
    answers(circuit, *range(100))
    denies(circuit, record)
    assert state(circuit) is State.OPEN
    assert circuit.described.reason == "xai answered 401 to get_file"


def test_after_a_401_no_probe_comes_before_a_minute(circuit: Circuit, clock: ManualClock) -> None:
    denies(circuit, "d1")
    pauses = []
    for _ in range(12):
        pauses.append(circuit.probe_seconds)
        clock.move(circuit.probe_seconds)
        circuit.probe_begins()
        circuit.probed(DENIED)
    assert min(pauses) >= MINUTE
    assert pauses == sorted(pauses)
    assert max(pauses) == 5 * MINUTE


def test_a_401_while_it_is_open_already_puts_the_probe_off(
    circuit: Circuit, clock: ManualClock
) -> None:
    begun = circuit.begin()
    fails(circuit, *range(FAILED_RECORDS))
    assert circuit.probe_seconds == 1
    circuit.refused(begun, "d1", "get_file", "xai answered 401 to get_file")
    assert circuit.probe_seconds == MINUTE
    clock.move(30)
    circuit.refused(begun, "d2", "get_file", "xai answered 401 to get_file")
    assert circuit.probe_seconds == 30, "the first one counts"


def test_a_probe_that_is_not_accepted_is_not_repeated_before_a_minute(
    circuit: Circuit, clock: ManualClock
) -> None:
    fails(circuit, *range(FAILED_RECORDS))
    clock.move(1)
    circuit.probe_begins()
    circuit.probed(DENIED)
    assert circuit.probe_seconds == MINUTE
    clock.move(MINUTE)
    circuit.probe_begins()
    circuit.probed(DOWN)
    assert circuit.probe_seconds >= MINUTE, "a 503 does not say that the key is good again"


def test_what_alone_is_not_allowed_does_not_open_it_again_and_again(circuit: Circuit) -> None:
    denies(circuit, "d1", "upload_file")
    circuit.probe_begins()
    circuit.probed(None)
    denies(circuit, "d1", "upload_file")  # the same record
    denies(circuit, "d1", "membership")  # with another operation
    assert state(circuit) is State.RAMPING


def test_an_operation_that_is_not_allowed_counts_as_failures_until_it_is(circuit: Circuit) -> None:
    denies(circuit, "d1", "upload_file")
    circuit.probe_begins()
    circuit.probed(None)
    denies(circuit, "d2", "upload_file")
    assert state(circuit) is State.RAMPING
    answers(circuit, "d3", operation="upload_file")
    denies(circuit, "d4", "upload_file")
    assert state(circuit) is State.OPEN
    assert circuit.described.reason == "xai answered 401 to upload_file", "allowed before: news"


# -- recovery -------------------------------------------------------------------------------------


def test_probes_are_farther_and_farther_apart_and_at_most_a_minute(
    circuit: Circuit, clock: ManualClock
) -> None:
    fails(circuit, *range(FAILED_RECORDS))
    pauses = []
    for _ in range(9):
        pauses.append(circuit.probe_seconds)
        clock.move(circuit.probe_seconds)
        circuit.probe_begins()
        assert circuit.room == 0
        circuit.probed(DOWN)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_after_a_recovery_the_room_doubles_with_each_width_of_answered_records(
    circuit: Circuit,
) -> None:
    to_ramping(circuit)
    widths = []
    for number in range(1000):
        if circuit.room is None:
            break
        widths.append(circuit.room)
        answers(circuit, number)
    assert state(circuit) is State.CLOSED
    assert widths == [width for width in RAMP for _ in range(width)]


def test_a_recovery_without_much_traffic_is_over_after_a_calm_window(
    circuit: Circuit, clock: ManualClock
) -> None:
    to_ramping(circuit)
    answers(circuit, "d1")
    assert circuit.room == RAMP[1]
    clock.move(WINDOW_SECONDS)
    assert circuit.room == RAMP[1]
    answers(circuit, "d1")
    assert circuit.room is None


def test_a_relapse_opens_it_with_two_records_and_the_next_probe_waits_longer(
    circuit: Circuit,
) -> None:
    to_ramping(circuit)
    fails(circuit, "d1")
    assert state(circuit) is State.RAMPING
    fails(circuit, "d2")
    assert state(circuit) is State.OPEN
    assert circuit.probe_seconds == 2


def test_after_full_speed_the_next_outage_begins_with_short_pauses_again(circuit: Circuit) -> None:
    for _ in range(3):
        to_ramping(circuit)
        fails(circuit, *range(5))
        assert circuit.probe_seconds > 1
        circuit.probe_begins()
        circuit.probed(None)
        answers(circuit, *range(sum(RAMP)))
        assert state(circuit) is State.CLOSED
        fails(circuit, *range(FAILED_RECORDS))
        assert circuit.probe_seconds == 1
        circuit.probe_begins()
        circuit.probed(None)
        answers(circuit, *range(sum(RAMP)))


# -- patience -------------------------------------------------------------------------------------


def test_a_system_that_asks_for_patience_is_left_alone_but_not_taken_for_down(
    circuit: Circuit, clock: ManualClock
) -> None:
    circuit.be_patient(timedelta(seconds=40))
    circuit.be_patient(timedelta(seconds=10))
    assert state(circuit) is State.CLOSED
    assert circuit.room == 0
    refusal = circuit.refusal()
    assert refusal is not None
    assert refusal.after == timedelta(seconds=40)
    assert circuit.described.not_before == clock.now() + timedelta(seconds=40)
    clock.move(40)
    assert circuit.refusal() is None
    assert circuit.room is None


def test_runs_wait_in_the_schedule_for_a_system_that_wants_long_patience(
    circuit: Circuit, clock: ManualClock
) -> None:
    circuit.be_patient(timedelta(hours=1))
    assert circuit.room is None
    assert circuit.refusal() is not None
    clock.move(59 * MINUTE + 1)
    assert circuit.room == 0


def test_no_probe_disturbs_a_system_that_asked_for_patience(circuit: Circuit) -> None:
    circuit.be_patient(timedelta(seconds=40))
    fails(circuit, *range(FAILED_RECORDS))
    assert circuit.probe_seconds == 40


def test_others_wait_as_long_as_the_run_that_was_told_to() -> None:
    assert PATIENCE == RATE_LIMIT_PAUSE


# -- the circuits of a process --------------------------------------------------------------------


class Side:
    """A system as a probe sees it.

    Attributes:
        error: what it answers; None is well.
        probes: when it was asked.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.error: Exception | None = None
        self.probes: list[float] = []

    async def probe(self) -> None:
        assert probing()
        assert working().record is None, "a probe belongs to no run"
        self.probes.append(self.clock.monotonic())
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


@asynccontextmanager
async def kept(
    clock: ManualClock, turns: Turns | None = None, side: Side | None = None
) -> AsyncIterator[tuple[Circuits, Side]]:
    circuits, side = Circuits(clock, turns), side or Side(clock)
    circuits.declare(SYSTEM, side.probe)
    try:
        yield circuits, side
    finally:
        await circuits.close()


async def passes(clock: ManualClock, seconds: float) -> None:
    """Let time pass, and happen what happens meanwhile."""
    end = clock.monotonic() + seconds
    while True:
        for _ in range(20):
            await asyncio.sleep(0)
        left = end - clock.monotonic()
        if left <= 0:
            return
        step = clock.next_sleeper()
        clock.move(left if step is None else min(step, left))


async def test_a_probe_is_sent_until_the_system_answers_and_listeners_hear_of_it(
    clock: ManualClock,
) -> None:
    async with kept(clock) as (circuits, side):
        rooms: list[int | None] = []
        circuits.listen(lambda: rooms.append(circuits.room([SYSTEM])))
        side.error = DOWN
        with working_on("d1"):  # what opens it is a call of a run
            fails(circuits.of(SYSTEM), *range(FAILED_RECORDS))
        await passes(clock, 20)
        assert side.probes == [1, 3, 7, 15]
        side.error = None
        assert metrics.value("bitbylaw_circuit_open", system=SYSTEM) == 1
        await passes(clock, 60)
        assert side.probes[4:] == [31]
        assert metrics.value("bitbylaw_circuit_open", system=SYSTEM) == 0
        assert (rooms[0], rooms[-1]) == (0, 1)


async def test_after_a_401_ten_minutes_see_at_most_ten_probes(clock: ManualClock) -> None:
    async with kept(clock) as (circuits, side):
        side.error = DENIED
        denies(circuits.of(SYSTEM), "d1")
        await passes(clock, 10 * MINUTE)
        gaps = [b - a for a, b in zip([0.0, *side.probes], side.probes, strict=False)]
        assert 1 <= len(side.probes) <= 10
        assert min(gaps) >= MINUTE


@asynccontextmanager
async def fleet(clock: ManualClock, count: int) -> AsyncIterator[tuple[list[Circuits], Side]]:
    """Several processes that share their turns, before one system."""
    side, turns = Side(clock), LocalLimits(clock, {})
    async with AsyncExitStack() as opened:
        found = [await opened.enter_async_context(kept(clock, turns, side)) for _ in range(count)]
        yield [circuits for circuits, _ in found], side


async def test_after_a_401_all_processes_together_send_one_probe_a_minute_at_most(
    clock: ManualClock,
) -> None:
    async with fleet(clock, 3) as (circuits, side):
        side.error = DENIED
        for number, one in enumerate(circuits):
            denies(one.of(SYSTEM), f"d{number}")
            await passes(clock, 7)
        await passes(clock, 20 * MINUTE)
        gaps = [b - a for a, b in zip([0.0, *side.probes], side.probes, strict=False)]
        assert len(side.probes) >= 10
        assert min(gaps) >= MINUTE


async def test_once_a_key_is_good_again_all_who_wait_for_their_turn_find_out_within_seconds(
    clock: ManualClock,
) -> None:
    async with fleet(clock, 5) as (circuits, side):
        side.error = DENIED
        for one in circuits:
            denies(one.of(SYSTEM), "d1")
        await passes(clock, MINUTE + 1)
        assert len(side.probes) == 1
        side.error = None
        await passes(clock, MINUTE + len(circuits) * TURN_AGAIN_SECONDS)
        # the one that asked in vain plans its own next; nobody else waits any more
        states = sorted(one.of(SYSTEM).state for one in circuits)
        assert states.count(State.RAMPING) >= 4


async def test_who_finds_a_system_down_does_not_probe_in_the_minute_of_another_s_401(
    clock: ManualClock,
) -> None:
    async with fleet(clock, 3) as (circuits, side):
        side.error = DENIED
        denies(circuits[0].of(SYSTEM), "d1")
        await passes(clock, 1)
        for one in circuits[1:]:
            fails(one.of(SYSTEM), *range(FAILED_RECORDS))
        await passes(clock, 20 * MINUTE)
        gaps = [b - a for a, b in zip([0.0, *side.probes], side.probes, strict=False)]
        assert min(gaps) >= MINUTE


async def test_a_probe_that_is_refused_takes_the_minute_for_all(clock: ManualClock) -> None:
    async with fleet(clock, 3) as (circuits, side):
        side.error = DENIED
        for one in circuits:
            fails(one.of(SYSTEM), *range(FAILED_RECORDS))
        await passes(clock, 20 * MINUTE)
        gaps = [b - a for a, b in itertools.pairwise(side.probes)]
        assert min(gaps) >= MINUTE


@pytest.mark.parametrize(
    "answer",
    [None, Invalid(SYSTEM, "probe", status=400), OutsideError(SYSTEM, "probe", status=418)],
)
async def test_whatever_is_an_answer_ends_the_outage(
    clock: ManualClock, answer: OutsideError | None
) -> None:
    async with kept(clock) as (circuits, side):
        side.error = answer
        fails(circuits.of(SYSTEM), *range(FAILED_RECORDS))
        await passes(clock, 1)
        assert state(circuits.of(SYSTEM)) is State.RAMPING


async def test_a_probe_that_is_asked_for_patience_passes_it_on(clock: ManualClock) -> None:
    async with kept(clock) as (circuits, side):
        side.error = RateLimited(SYSTEM, "probe", retry_after=timedelta(seconds=20))
        fails(circuits.of(SYSTEM), *range(FAILED_RECORDS))
        await passes(clock, 1)
        assert circuits.room([SYSTEM]) == 0
        await passes(clock, 20)
        assert circuits.room([SYSTEM]) == RAMP[0]


async def test_a_bug_in_a_probe_does_not_end_the_probing(clock: ManualClock) -> None:
    async with kept(clock) as (circuits, side):
        side.error = ValueError("a bug")
        fails(circuits.of(SYSTEM), *range(FAILED_RECORDS))
        await passes(clock, 10)
        assert len(side.probes) == 3
        side.error = None
        await passes(clock, 10)
        assert state(circuits.of(SYSTEM)) is State.RAMPING


async def test_a_relapse_is_probed_again(clock: ManualClock) -> None:
    async with kept(clock) as (circuits, side):
        for outage in range(1, 4):
            fails(circuits.of(SYSTEM), *range(FAILED_RECORDS))
            assert state(circuits.of(SYSTEM)) is State.OPEN
            await passes(clock, 30)
            assert len(side.probes) == outage
            assert state(circuits.of(SYSTEM)) is State.RAMPING


async def test_the_end_of_patience_is_told(clock: ManualClock) -> None:
    async with kept(clock) as (circuits, _):
        rooms: list[int | None] = []
        circuits.listen(lambda: rooms.append(circuits.room([SYSTEM])))
        circuits.of(SYSTEM).be_patient(timedelta(seconds=20))
        await passes(clock, 10)
        circuits.of(SYSTEM).be_patient(timedelta(seconds=20))
        await passes(clock, 19)
        assert rooms == [0, 0]
        await passes(clock, 1)
        assert rooms == [0, 0, None]


async def test_the_narrowest_of_the_needed_systems_counts(clock: ManualClock) -> None:
    circuits = Circuits(clock)
    for system in ("espocrm", "xai", "advoware"):
        circuits.declare(system, Side(clock).probe)
    to_ramping(circuits.of("xai"))
    answers(circuits.of("xai"), "d1")
    assert circuits.room([]) is None
    assert circuits.room(["espocrm"]) is None
    assert circuits.room(["espocrm", "xai"]) == RAMP[1]
    denies(circuits.of("espocrm"), "d1")
    assert circuits.room(["xai", "espocrm"]) == 0
    assert circuits.room(["advoware"]) is None
    await circuits.close()


def test_a_system_without_a_circuit_is_named(clock: ManualClock) -> None:
    circuits = Circuits(clock)
    circuits.declare("espocrm", Side(clock).probe)
    with pytest.raises(DeclarationError, match=r"'xai' has no circuit \(declared: espocrm\)"):
        circuits.room(["espocrm", "xai"])


async def test_an_operator_sees_state_since_when_and_why(clock: ManualClock) -> None:
    async with kept(clock) as (circuits, side):
        side.error = DOWN
        began = clock.now()
        fails(circuits.of(SYSTEM), *range(FAILED_RECORDS))
        await passes(clock, 2)
        (seen,) = circuits.states()
        assert (seen.system, seen.state, seen.since, seen.room) == (SYSTEM, "open", began, 0)
        assert "xai answered 500 to get_file" in seen.reason
        assert seen.next_probe == began + timedelta(seconds=3)


def test_runs_are_told_apart_and_calls_outside_of_them_belong_to_none() -> None:
    assert working().record is None
    with working_on(("document", "d1")):
        first = working()
        with working_on(("document", "d2")):
            assert working().record == ("document", "d2")
            assert working().serial > first.serial
        assert working() == first
    assert working().record is None


def test_what_is_remembered_of_a_refused_key_is_bounded(
    circuit: Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits_module, "_CLEARED_AT_MOST", 4)
    for number in range(20):
        denies(circuit, number, f"operation_{number}")
        circuit.probe_begins()
        circuit.probed(None)
    assert len(circuit._cleared) == 4
    denies(circuit, 0, "operation_0")
    assert state(circuit) is State.OPEN
