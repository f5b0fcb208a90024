"""The guarded transport: what it sends, what it learns, and what a whole app makes of an outage."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from bitbylaw_common import metrics
from bitbylaw_common.circuits import FAILED_RECORDS, RAMP, Circuits, State, working_on
from bitbylaw_common.errors import (
    Conflict,
    DeclarationError,
    HeldBack,
    Invalid,
    NotFound,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_common.http.guarded import GuardedTransport
from bitbylaw_common.http.transport import Request
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.limits import LocalLimits, Rate
from bitbylaw_common.outcomes import Done, Outcome, Wait
from bitbylaw_common.runtime import App, Context, queue, step
from bitbylaw_common.runtime.hosts.memory_host import ManualClock, MemoryHost
from bitbylaw_common.runtime.verdict import outcome_of
from bitbylaw_common.topics import JOURNAL
from scripted_transport import Answer, Lost, ScriptedTransport, Seen, always
from toy import CHANGED, ORDERED, ThingChanged

SYSTEM, OTHER = "xai", "espocrm"


def request(operation: str = "get_file", system: str = SYSTEM, seconds: float = 30) -> Request:
    url = f"https://{system}.test/{operation}"
    return Request(system, operation, "GET", url, timeout_seconds=seconds, idempotent=True)


async def well() -> None:
    """Answer a probe."""


@dataclass
class Bench:
    """A guarded transport over a scripted server."""

    inner: ScriptedTransport
    clock: ManualClock = field(default_factory=ManualClock)
    rates: Mapping[str, Rate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.circuits = Circuits(self.clock)
        for system in (SYSTEM, OTHER):
            self.circuits.declare(system, well)
        self.transport = GuardedTransport(
            self.inner,
            circuits=self.circuits,
            clock=self.clock,
            limits=LocalLimits(self.clock, self.rates),
        )

    async def call(
        self,
        record: str | None = None,
        error: BaseException | None = None,
        *,
        system: str = SYSTEM,
    ) -> None:
        """Send as a client does, which raises `error` over the answer."""
        with working_on(record):
            async with self.transport.send(request(system=system)):
                if error is not None:
                    raise error

    async def fail(self, *records: str) -> None:
        """Let calls of these records fail."""
        for record in records:
            with pytest.raises(Transient):
                await self.call(record, Transient(SYSTEM, "get_file", status=500))

    @property
    def state(self) -> State:
        return self.circuits.of(SYSTEM).state


RECORDS = tuple(f"d{number}" for number in range(FAILED_RECORDS))


# -- what is sent ---------------------------------------------------------------------------------


async def test_an_open_circuit_sends_nothing_and_the_run_waits_without_a_failure() -> None:
    bench = Bench(always(Answer(500)))
    await bench.fail(*RECORDS)
    sent = len(bench.inner.seen)
    before = metrics.value("bitbylaw_calls_held_back_total", system=SYSTEM, cause="circuit")

    with pytest.raises(HeldBack) as held:
        await bench.call("another")

    assert len(bench.inner.seen) == sent
    fate = outcome_of(held.value)
    assert isinstance(fate, Wait)
    assert fate.after == timedelta(seconds=1)
    assert fate.reason.startswith("xai was not asked to get_file: held back since it failed")
    assert not held.value.ambiguous
    after = metrics.value("bitbylaw_calls_held_back_total", system=SYSTEM, cause="circuit")
    assert after - before == 1
    await bench.circuits.close()


async def test_the_circuit_of_one_system_leaves_the_others_alone() -> None:
    bench = Bench(always(Answer(200)))
    await bench.fail(*RECORDS)
    await bench.call("d1", system=OTHER)
    assert bench.inner.seen[-1].request.system == OTHER
    await bench.circuits.close()


async def test_a_system_that_nobody_declared_is_a_mistake_and_not_sent_to() -> None:
    bench = Bench(always(Answer(200)))
    with pytest.raises(DeclarationError, match="'advoware' has no circuit"):
        await bench.call(system="advoware")
    assert bench.inner.seen == []


async def test_the_body_of_a_request_that_is_held_back_is_not_touched() -> None:
    bench = Bench(always(Answer(401)))
    await bench.call("d1")
    touched = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal touched
        touched = True
        yield b""

    asked = Request(SYSTEM, "upload_file", "POST", "https://xai.test/files", body=body())
    with pytest.raises(HeldBack):
        async with bench.transport.send(asked):
            raise AssertionError("it was sent")
    assert not touched
    await bench.circuits.close()


# -- what is learned ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_a_status_that_the_client_did_not_judge_counts(status: int) -> None:
    bench = Bench(always(Answer(status)))
    for record in RECORDS:
        await bench.call(record)
    assert bench.state is State.OPEN
    await bench.circuits.close()


@pytest.mark.parametrize("status", [200, 204, 302, 400, 403, 404, 409, 422])
async def test_every_other_answer_says_that_the_system_is_there(status: int) -> None:
    bench = Bench(always(Answer(status)))
    for record in RECORDS * 10:
        await bench.call(record)
    assert bench.state is State.CLOSED


@pytest.mark.parametrize("kind", [NotFound, Conflict, Invalid])
async def test_a_client_s_no_is_an_answer(kind: type[OutsideError]) -> None:
    bench = Bench(always(Answer(500)))
    for record in RECORDS * 3:
        with pytest.raises(kind):
            await bench.call(record, kind(SYSTEM, "get_file", status=409))
    assert bench.state is State.CLOSED


async def test_no_answer_at_all_counts_as_a_failure() -> None:
    bench = Bench(always(Lost(arrived=False)))
    for record in RECORDS:
        with pytest.raises(Transient):
            await bench.call(record)
    assert bench.state is State.OPEN
    await bench.circuits.close()


async def test_an_answer_that_breaks_off_counts_as_a_failure() -> None:
    bench = Bench(always(Answer(200, b"half of it", torn=True)))
    for record in RECORDS:
        with working_on(record), pytest.raises(Transient):
            async with bench.transport.send(request()) as response:
                await response.read()
    assert bench.state is State.OPEN
    await bench.circuits.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, None),
        (401, Unauthorized(SYSTEM, "get_file", status=401)),
        (403, Unauthorized(SYSTEM, "get_file", status=403, detail="banned")),
        (400, Unauthorized(SYSTEM, "get_file", status=400, detail="the key is not accepted")),
    ],
)
async def test_the_first_answer_that_blames_the_key_opens_it(
    status: int, error: OutsideError | None
) -> None:
    bench = Bench(always(Answer(status)))
    if error is None:
        await bench.call("d1")
    else:
        with pytest.raises(Unauthorized):
            await bench.call("d1", error)
    assert bench.state is State.OPEN
    assert bench.circuits.of(SYSTEM).probe_seconds == 60
    await bench.circuits.close()


@pytest.mark.parametrize(
    ("answer", "error", "seconds"),
    [
        (Answer(429, headers={"Retry-After": "7"}), None, 7),
        (Answer(429), None, 30),
        (
            Answer(429),
            RateLimited(SYSTEM, "get_file", retry_after=timedelta(seconds=9)),
            9,
        ),
        (Answer(429), RateLimited(SYSTEM, "get_file"), 30),
    ],
)
async def test_after_a_429_no_other_run_sends_until_the_time_it_named(
    answer: Answer, error: OutsideError | None, seconds: int
) -> None:
    bench = Bench(always(answer))
    if error is None:
        await bench.call("d1")
    else:
        with pytest.raises(RateLimited):
            await bench.call("d1", error)
    assert bench.state is State.CLOSED
    assert metrics.value("bitbylaw_circuit_open", system=SYSTEM) == 0
    with pytest.raises(HeldBack) as held:
        await bench.call("d2")
    assert outcome_of(held.value) == Wait(
        "xai was not asked to get_file: it asked to be left alone for a while",
        timedelta(seconds=seconds),
        imposed=True,
    )
    bench.clock.move(seconds)
    await bench.call("d3")
    assert len(bench.inner.seen) == 2
    await bench.circuits.close()


async def test_429_alone_never_opens_it() -> None:
    bench = Bench(always(Answer(429, headers={"Retry-After": "1"})))
    for record in RECORDS * 3:
        await bench.call(record)
        bench.clock.move(1)
    assert bench.state is State.CLOSED
    await bench.circuits.close()


async def test_the_error_of_another_system_inside_the_block_says_nothing_about_this_one() -> None:
    bench = Bench(always(Answer(200)))
    for record in RECORDS * 2:
        with pytest.raises(Transient):
            await bench.call(record, Transient(OTHER, "upload_file", status=500))
    assert bench.state is State.CLOSED
    assert bench.circuits.of(OTHER).state is State.CLOSED, "its own send tells its circuit"


async def test_a_run_that_is_cancelled_before_the_answer_says_nothing() -> None:
    class Silent:
        @asynccontextmanager
        async def send(self, _request: Request) -> AsyncIterator[None]:
            await asyncio.Event().wait()
            yield

    bench = Bench(always(Answer(200)))
    silent = GuardedTransport(
        Silent(),  # type: ignore[arg-type]  # it never comes to a response
        circuits=bench.circuits,
        clock=bench.clock,
    )

    async def call(record: str) -> None:
        with working_on(record):
            async with silent.send(request()):
                raise AssertionError("nobody answered")

    tasks = [asyncio.create_task(call(record)) for record in RECORDS * 2]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=5)
    assert all(task.cancelled() for task in tasks)
    assert bench.state is State.CLOSED


async def test_one_record_that_always_gets_500_never_opens_it() -> None:
    bench = Bench(always(Answer(500)))
    for _ in range(300):
        await bench.call("poison")
        bench.clock.move(0.1)
    assert bench.state is State.CLOSED


async def waits(clock: ManualClock) -> float:
    """Return for how long the next sleeper sleeps, once there is one."""
    async with asyncio.timeout(5):
        while (wait := clock.next_sleeper()) is None:  # noqa: ASYNC110 - a clock rings no bell
            await asyncio.sleep(0)
    return wait


# -- the rate -------------------------------------------------------------------------------------


async def test_a_request_without_room_within_its_time_is_held_back_and_not_sent() -> None:
    bench = Bench(always(Answer(200)), rates={SYSTEM: Rate(1)})
    await bench.call("d1")
    sending = asyncio.create_task(bench.call("d2"))
    wait = await waits(bench.clock)
    assert len(bench.inner.seen) == 1
    bench.clock.move(wait)
    await asyncio.wait_for(sending, 5)
    assert len(bench.inner.seen) == 2

    with pytest.raises(HeldBack, match=r"its limit of 1 calls a second left no room for 0\.5 s"):
        async with bench.transport.send(request(seconds=0.5)):
            raise AssertionError("it was sent")
    assert len(bench.inner.seen) == 2
    assert bench.state is State.CLOSED


async def test_what_opened_while_a_request_waited_for_its_rate_holds_it_back() -> None:
    bench = Bench(always(Answer(200)), rates={SYSTEM: Rate(1)})
    await bench.call("d1")
    sending = asyncio.create_task(bench.call("d2"))
    wait = await waits(bench.clock)
    circuit = bench.circuits.of(SYSTEM)
    circuit.refused(circuit.begin(), "d1", "get_file", "401")
    bench.clock.move(wait)
    with pytest.raises(HeldBack):
        await asyncio.wait_for(sending, 5)
    assert len(bench.inner.seen) == 1
    await bench.circuits.close()


# -- a whole app, in virtual time -----------------------------------------------------------------


@dataclass
class Office:
    """The dependencies of the app below.

    Attributes:
        most: by the width of the ramp, how many runs were under way at once.
    """

    circuits: Circuits
    transport: GuardedTransport
    clock: ManualClock
    under_way: int = 0
    most: dict[int | None, int] = field(default_factory=dict)
    noted: list[str] = field(default_factory=list)

    async def ask(self, operation: str) -> None:
        asked = request(operation)
        async with self.transport.send(asked) as response:
            if response.status == 401:
                raise Unauthorized(SYSTEM, operation, status=401)
            if response.status != 200:
                raise Transient(SYSTEM, operation, status=response.status)

    async def probe(self) -> None:
        await self.ask("probe")


@step(
    name="Outside",
    description="Asks the outside system twice",
    flows=["toy"],
    triggers=[queue(CHANGED)],
    coalesce=True,
    needs=[SYSTEM],
)
async def outside(event: ThingChanged, ctx: Context[Office]) -> Outcome:
    office = ctx.deps
    office.under_way += 1
    room = office.circuits.room([SYSTEM])
    office.most[room] = max(office.most.get(room, 0), office.under_way)
    try:
        with working_on(event.thing):
            await office.ask("look")
            await office.clock.sleep(0.01)
            await office.ask("act")
    finally:
        office.under_way -= 1
    return Done("acted")


@step(
    name="Inside",
    description="Needs nobody outside",
    flows=["toy"],
    triggers=[queue(ORDERED)],
)
async def inside(event: ThingChanged, ctx: Context[Office]) -> Outcome:
    ctx.deps.noted.append(event.thing)
    return Done("noted")


class Town:
    """The app, its outside system and a clock.

    Attributes:
        status: what the system answers, by the virtual seconds since the beginning.
    """

    def __init__(self, status: Callable[[float], int]) -> None:
        self.host = MemoryHost()
        self.clock = self.host.clock
        self.times: list[tuple[float, str]] = []
        self._status = status

    def _serve(self, seen: Seen) -> Answer:
        self.times.append((self.clock.monotonic(), seen.operation))
        return Answer(self._status(self.clock.monotonic()))

    @asynccontextmanager
    async def open(self, _env: Mapping[str, str]) -> AsyncIterator[Office]:
        circuits = Circuits(self.clock)
        transport = GuardedTransport(
            ScriptedTransport(self._serve), circuits=circuits, clock=self.clock
        )
        self.office = Office(circuits, transport, self.clock)
        circuits.declare(SYSTEM, self.office.probe)
        try:
            yield self.office
        finally:
            await circuits.close()

    async def start(self) -> None:
        await self.host.start(App("toy", [outside, inside], self.open))

    async def changed(self, *things: str) -> None:
        await self._tell(CHANGED, things)

    async def ordered(self, *things: str) -> None:
        await self._tell(ORDERED, things)

    async def _tell(self, topic: object, things: tuple[str, ...]) -> None:
        known = CHANGED if topic is CHANGED else ORDERED
        for number, thing in enumerate(things):
            event = ThingChanged(thing=thing, number=number)
            now = self.clock.now()
            await self.host.log.append(
                [codec.encode(known, event, event_id=new_event_id(), source="t", now=now)]
            )

    def runs(self, name: str) -> list[JournalEntry]:
        entries = [
            JournalEntry.model_validate_json(record.value)
            for record in self.host.log.records(JOURNAL.name)
            if record.value is not None
        ]
        return [entry for entry in entries if entry.step == name and entry.phase == "end"]

    def calls(self, *operations: str) -> list[float]:
        """When the system was asked for one of these."""
        return [at for at, operation in self.times if operation in operations]


async def test_ten_minutes_of_outage_burn_only_what_was_sent_and_hold_up_no_other_step() -> None:
    # given a system that is down for ten minutes, and many records that need it
    town = Town(lambda now: 503 if now < 600 else 200)
    await town.start()
    things = tuple(f"thing-{number}" for number in range(80))
    await town.changed(*things)
    await town.host.settle()

    # when the minutes pass, records come in for the other step
    for minute in range(10):
        await town.ordered(f"order-{minute}")
        await town.host.settle()
        assert town.office.noted[-1] == f"order-{minute}", "it does not wait for the other system"
        assert town.office.circuits.room([SYSTEM]) == 0
        await town.host.advance(minutes=1)
    await town.host.advance(minutes=10)

    # then only calls really sent burnt an attempt: those that opened the circuit
    sent = [at for at in town.calls("look", "act") if at < 600]
    burnt = [run for run in town.runs("Outside") if run.outcome == "retry"]
    assert len(sent) == len(burnt) == FAILED_RECORDS
    assert max(sent) == 0
    # the probe was all that was sent meanwhile, at growing distances up to a minute
    probes = town.calls("probe")
    assert probes[:7] == [1, 3, 7, 15, 31, 63, 123]
    assert len(probes) < 20
    # and in the end every record was worked on, with few at once at first
    done = {run.entity_id for run in town.runs("Outside") if run.outcome == "done"}
    assert done == set(things)
    assert town.host.dead_letters("toy") == []
    seen = [town.office.most[width] for width in RAMP]
    assert all(most <= width for most, width in zip(seen, RAMP, strict=True))
    assert seen[:2] == [1, 2]
    assert seen == sorted(seen)
    assert seen[-1] > RAMP[2]
    await town.host.stop()


async def test_a_revoked_key_is_tried_at_most_once_a_minute() -> None:
    town = Town(lambda now: 401 if now < 1200 else 200)
    await town.start()
    things = tuple(f"thing-{number}" for number in range(30))
    await town.changed(*things)
    await town.host.settle()
    await town.host.advance(minutes=20)
    refused = [at for at in town.calls("look", "act", "probe") if at < 1200]
    assert len(town.calls("look")) == 1
    assert all(later - earlier >= 60 for earlier, later in itertools.pairwise(refused))

    await town.host.advance(minutes=10)
    done = {run.entity_id for run in town.runs("Outside") if run.outcome == "done"}
    assert done == set(things)
    assert sum(run.outcome == "retry" for run in town.runs("Outside")) == 1
    await town.host.stop()
