"""The runtime under fire in virtual time: members killed, frozen and regrouped, acknowledgements lost.

Everything is judged by a ledger outside of the runtime, and by what lies in the log at the end.
"""

import asyncio
import itertools
import logging
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import pytest
import structlog

from bitbylaw_common import logs, topics
from bitbylaw_common.circuits import Circuits, State
from bitbylaw_common.errors import LogUnavailableError, Transient
from bitbylaw_common.events import RunRequested
from bitbylaw_common.http.guarded import GuardedTransport
from bitbylaw_common.http.transport import Request, Response, Transport
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.outcomes import Done, Outcome, Retry, Wait
from bitbylaw_common.retry import LADDER as RUNGS
from bitbylaw_common.runtime import App, Context, Tick, cron, queue, step
from bitbylaw_common.runtime.commands import Commands
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.gates import Gates
from bitbylaw_common.runtime.hosts.memory_host import ManualClock, MemoryHost
from bitbylaw_common.runtime.offsets import Commit, Offsets
from bitbylaw_common.runtime.ports import Outgoing, Record
from bitbylaw_common.runtime.worker import Place
from harness import encoded
from toy import CHANGED, ORDERED, Ledger, ThingBase, ThingChanged, state, toy, toy_cron

LADDER = (timedelta(minutes=1), timedelta(minutes=5))
DOOMED = "doomed"
THINGS = ("a", "b", "c", DOOMED)
Ask = Outcome | Literal["base", "effect"]


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    """Tell nothing: thousands of expected lines would cost more than the worlds they come from."""
    nothing = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=nothing)
    yield
    logs._use_level("warning")


# -- random interleavings ---------------------------------------------------------------------------


@dataclass(eq=False)
class Process:
    """One start of a member, as a handler sees it."""

    world: "World"
    member: str = ""

    @property
    def holds_lease(self) -> bool:
        """Whether the group counts on it still."""
        members = self.world.host._members
        mine = members.get(self.member)
        return mine is not None and mine.deps is self and mine.group.counts_on(mine)


@dataclass(eq=False)
class Run:
    """One call of a handler: it does what it is told, one thing after the other.

    Attributes:
        given_up: the group stopped counting on its process while it ran.
    """

    step: str
    thing: str
    number: int
    attempt: int
    process: Process
    began: int
    given_up: bool = False
    asked: "asyncio.Future[Ask] | None" = None
    outcome: Outcome | None = None


async def _obey(name: str, event: ThingChanged, ctx: Context[Process]) -> Outcome:
    world = ctx.deps.world
    run = world.begins(name, event, ctx)
    try:
        while True:
            match await world.told(run):
                case "base":
                    base = ctx.base(ThingBase)
                    effects = 0 if base is None else base.effects
                    await ctx.agree(state(effects + 1, ctx.run_id))
                case "effect":
                    async with ctx.effect("outside", "touch", target=run.thing):
                        world.effects.append((run.thing, run.process.member))
                case outcome:
                    run.outcome = outcome
                    world.ended.append(run)
                    return outcome
    finally:
        world.open.remove(run)


@step(
    name="Fire Sync",
    description="Looks at a thing; what waits is answered by one run",
    flows=["fire"],
    triggers=[queue(CHANGED)],
    coalesce=True,
)
async def fire_sync(event: ThingChanged, ctx: Context[Process]) -> Outcome:
    return await _obey("Fire Sync", event, ctx)


@step(
    name="Fire Order",
    description="Takes every event of a thing by itself, in order",
    flows=["fire"],
    triggers=[queue(ORDERED)],
)
async def fire_order(event: ThingChanged, ctx: Context[Process]) -> Outcome:
    return await _obey("Fire Order", event, ctx)


STEPS = {"Fire Sync": CHANGED, "Fire Order": ORDERED}


class World:
    """A small world: a few things, up to three members, and somebody who decides what happens next.

    Attributes:
        ended: runs that answered; `open` are those that did not yet.
        trail: what was decided, to be read when a promise is broken.
        alone: the members decide by themselves what they answer, and nothing fails any more.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.host = MemoryHost()
        self.events: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.events_at: dict[tuple[str, str, int], int] = {}
        self.effects: list[tuple[str, str]] = []
        self.open: list[Run] = []
        self.found: list[AssertionError] = []
        self.ended: list[Run] = []
        self.trail: deque[str] = deque(maxlen=120)
        self.alone = False
        self.steps = 0
        self._seed = seed
        self._clock = 0
        self._faults: Counter[str] = Counter()
        self._publishing = False
        self._dead: list[str] = []
        self._frozen: list[str] = []
        self.host.log.on_append = self._may_fail_before
        self.host.log.on_stored = self._may_fail_after
        self.host.on_commit = self._may_lose_commit

    def app(self) -> App[Process]:
        @asynccontextmanager
        async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Process]:
            yield Process(self)

        return App("fire", [fire_sync, fire_order], open_deps, LADDER)

    def broken(self, promise: str) -> AssertionError:
        """Return what to raise when a promise is broken."""
        return AssertionError(f"seed {self._seed}: {promise}\n  " + "\n  ".join(self.trail))

    # What handlers say ------------------------------------------------------------------------

    def begins(self, name: str, event: ThingChanged, ctx: Context[Process]) -> Run:
        """Note that a run began, and judge whether it may."""
        # No two runs begin at the same instant: by it their chains are told apart.
        self.host.clock.move(1e-6)
        self._clock += 1
        run = Run(name, event.thing, event.number, ctx.attempt, ctx.deps, self._clock)
        self._name_processes()
        if run.process.holds_lease:
            self._judge_beginning(run)
        self.open.append(run)
        self.trail.append(
            f"   begins {name} {run.thing} {run.number} attempt {run.attempt} in {run.process.member}"
        )
        return run

    def _judge_beginning(self, run: Run) -> None:
        for other in self.open:
            same = (other.step, other.thing) == (run.step, run.thing)
            if same and not other.given_up and other.process.holds_lease:
                self._note(f"two runs of {run.step} {run.thing} at once")
        if run.attempt > len(LADDER) + 1:
            self._note(f"attempt {run.attempt} of {run.thing}")
        before = [one for one in self.ended if (one.step, one.thing) == (run.step, run.thing)]
        if run.attempt > 1 and not any(
            one.attempt == run.attempt - 1 and isinstance(one.outcome, Retry) for one in before
        ):
            self._note(f"attempt {run.attempt} of {run.thing} without the one before")
        if run.step == "Fire Order":
            over = {one.number for one in before if isinstance(one.outcome, Done)}
            over |= self.buried(run.step, run.thing)
            early = [
                number
                for number in self.events[run.step, run.thing]
                if number < run.number and number not in over
            ]
            if early:
                self._note(f"{run.thing} {run.number} runs before {early}")

    def _note(self, promise: str) -> None:
        # Raised in a handler it would only be a bug that the runtime bears.
        self.found.append(self.broken(promise))

    def judge(self) -> None:
        """Raise the first broken promise, if there is one."""
        if self.found:
            raise self.found[0]

    async def told(self, run: Run) -> Ask:
        """Return what the run is to do next."""
        if self.alone:
            return self._own_will(run)
        run.asked = asyncio.get_running_loop().create_future()
        return await run.asked

    def _own_will(self, run: Run) -> Ask:
        return Retry("it is doomed") if run.thing == DOOMED else Done("looked")

    def buried(self, name: str, thing: str) -> set[int]:
        """Return the numbers of a thing that lie among the dead letters."""
        return {
            ThingChanged.model_validate_json(letter.carried.value).number
            for letter in self.host.dead_letters("fire")
            if letter.carried is not None and (letter.step, letter.entity_id) == (name, thing)
        }

    # What happens ------------------------------------------------------------------------------

    async def tell_of(self, thing: str) -> None:
        """Publish one event of a thing, and let its run begin."""
        self._append("Fire Sync", thing)
        self.host.nudge()
        await self.host.let_run()
        self._name_processes()

    def order(self, run: Run, ask: Ask) -> None:
        """Say what a run that waits does next."""
        assert run.asked is not None
        run.asked.set_result(ask)

    def lose_next(self, fault: str) -> None:
        """Let one write fail: "before" it is stored, or "after"."""
        self._faults[fault] += 1

    def bases(self) -> list[Record]:
        """Return every base that was written."""
        return self.host.log.records(topics.base("fire").name)

    async def close(self) -> None:
        """Kill whoever is left."""
        for member in self.host.members("fire"):
            await self.host.crash(member)

    async def happen(self) -> None:
        """Let one thing happen."""
        self.steps += 1
        self._name_processes()
        chance = self.random.choices(list(_CHANCES), weights=list(_CHANCES.values()))[0]
        await chance(self)
        self._name_processes()
        for run in self.open:
            run.given_up = run.given_up or not run.process.holds_lease
        self.judge()

    async def publish(self) -> None:
        self._append(self.random.choice(list(STEPS)), self.random.choice(THINGS))

    def _append(self, name: str, thing: str) -> None:
        number = len(self.events[name, thing])
        event = ThingChanged(thing=thing, number=number)
        record = encoded(STEPS[name], event, self.host.clock.now())
        self._publishing = True
        self.host.log.store([record])
        self._publishing = False
        self._clock += 1
        self.events[name, thing].append(number)
        self.events_at[name, thing, number] = self._clock
        self.trail.append(f"publish {name} {thing} {number}")

    async def go_round(self) -> None:
        for member in self.host.members("fire"):
            if member in self._frozen or self.random.random() < 0.3:
                continue
            records = self.random.choice((0, 1, 2, 9))
            commit = self.random.random() < 0.6
            if self.host.round(member, records=records, commit=commit):
                self.trail.append(f"round of {member}, {records} records, {commit=}")

    async def go_on(self) -> None:
        turns = self.random.choice((1, 2, 3, 5, None, None, None))
        if turns is None:
            await self.host.let_run()
        else:
            for _ in range(turns):
                await asyncio.sleep(0)
                working = [m for m in self.host.members("fire") if m not in self._frozen]
                if working and self.random.random() < 0.3:
                    self.host.round(self.random.choice(working), records=0, commit=False)

    async def tell(self) -> None:
        waiting = [run for run in self.open if run.asked is not None and not run.asked.done()]
        if not waiting:
            return
        self._tell(self.random.choice(waiting))

    def _tell(self, run: Run) -> None:
        done: Ask = Retry("it is doomed") if run.thing == DOOMED else Done("looked")
        ask: Ask = self.random.choices(
            # two steps of one app have a lane each, so only one of them may keep the base
            [
                "base" if run.step == "Fire Sync" else "effect",
                "effect",
                Retry("bad luck"),
                Wait("busy", timedelta(seconds=self.random.choice((0, 20)))),
                done,
            ],
            weights=[4, 1, 2, 1, 3],
        )[0]
        self.trail.append(
            f"tell {run.step} {run.thing} {run.number} in {run.process.member}: {ask}"
        )
        self.order(run, ask)

    async def crash(self) -> None:
        members = self.host.members("fire")
        if not members:
            return
        member = self.random.choice(members)
        self.trail.append(f"crash {member}")
        await self.host.crash(member)
        self._dead.append(member)
        if member in self._frozen:
            self._frozen.remove(member)

    async def come_back(self) -> None:
        if not self._dead:
            return
        member = self._dead.pop(self.random.randrange(len(self._dead)))
        self.trail.append(f"start {member} again")
        await self.host.start_again(member, "fire", wait=False)

    async def join(self) -> None:
        if len(self.host.members("fire")) + len(self._dead) < 3:
            member = await self.host.join("fire", wait=False)
            self.trail.append(f"join {member}")

    async def leave(self) -> None:
        working = [m for m in self.host.members("fire") if m not in self._frozen]
        if len(working) > 1:
            member = self.random.choice(working)
            self.trail.append(f"leave {member}")
            await self.host.leave(member, wait=False)

    async def freeze(self) -> None:
        working = [m for m in self.host.members("fire") if m not in self._frozen]
        busy = {run.process.member for run in self.open}
        if working:
            member = max(working, key=lambda m: (m in busy, self.random.random()))
            self.trail.append(f"freeze {member}")
            self.host.freeze(member)
            self._frozen.append(member)

    async def thaw(self) -> None:
        if not self._frozen:
            return
        member = self._frozen[0]
        if self.host.counted_on(member) and self.random.random() < 0.8:
            return  # the ones that were given up meanwhile are the dangerous ones
        self._frozen.remove(member)
        lease_holds = self.random.random() < 0.5
        self.trail.append(f"thaw {member}, {lease_holds=}")
        self.host.thaw(member, lease_holds=lease_holds)
        if self.random.random() < 0.7:
            for run in [one for one in self.open if one.process.member == member]:
                if run.asked is not None and not run.asked.done():
                    self._tell(run)
            await self.go_on()

    async def tick(self) -> None:
        seconds = self.random.choice((0.5, 5.0, 31.0 if self._frozen else 1.0, None))
        if seconds is None:
            seconds = self.host.next_event() or 0.0
        self.host.clock.move(seconds)
        self.trail.append(f"{seconds:g} s pass")

    async def fail(self) -> None:
        fault = self.random.choice(("before", "after", "commit"))
        self._faults[fault] += 1
        self.trail.append(f"to fail: {fault}")

    def _fails(self, fault: str) -> bool:
        fails = self._faults[fault] > 0 and not self._publishing
        self._faults[fault] -= fails
        return fails

    def _may_fail_before(self, records: Sequence[Outgoing]) -> None:
        if self._fails("before"):
            self.trail.append(f"   not stored: {[r.topic for r in records]}")
            raise LogUnavailableError("not stored")

    def _may_fail_after(self, records: Sequence[Outgoing]) -> None:
        if self._fails("after"):
            self.trail.append(f"   stored, and not told: {[r.topic for r in records]}")
            raise LogUnavailableError("stored, and not told")

    def _may_lose_commit(self, member: str, commits: Mapping[Place, Commit]) -> None:
        if self._fails("commit"):
            self.trail.append(f"   {member} is not told of its commits")
            raise LogUnavailableError("committed, and not told")

    def _name_processes(self) -> None:
        for member in self.host._members.values():
            member.deps.member = member.id

    # The end ----------------------------------------------------------------------------------

    async def end(self) -> None:
        """Let everybody come back, let everything happen that is due, and judge what came of it."""
        self._faults.clear()
        for member in self._frozen:
            self.host.thaw(member)
        self.alone = True
        self.trail.append("the end begins")
        for run in self.open:
            if run.asked is not None and not run.asked.done():
                run.asked.set_result(self._own_will(run))
        await self.host.settle()
        if not self.host.members("fire"):
            await self.host.join("fire")
        await self.host.advance(hours=1)
        self._judge_end()

    def _judge_end(self) -> None:
        self.judge()
        if self.open:
            raise self.broken(f"runs that never ended: {self.open}")
        waiting = [
            entry
            for member in self.host.members("fire")
            for entry in self.host.worker(member).schedule.entries()
        ]
        if waiting:
            raise self.broken(f"still waiting: {waiting}")
        for (name, thing, number), at in self.events_at.items():
            if not self._answered(name, thing, number, at):
                raise self.broken(f"{name} {thing} {number} was neither done nor buried")
        self._judge_letters()
        self._judge_base()

    def _answered(self, name: str, thing: str, number: int, at: int) -> bool:
        """Whether what an event asked for was done, or buried after as many attempts as there are."""
        runs = [run for run in self.ended if (run.step, run.thing) == (name, thing)]
        buried = self.buried(name, thing)
        if name == "Fire Order":
            over = {run.number for run in runs if isinstance(run.outcome, Done)}
            return number in over | buried
        # the letter of a chain carries the event that it waited with, which may be an earlier one
        return any(run.began > at and (buried or isinstance(run.outcome, Done)) for run in runs)

    def _judge_letters(self) -> None:
        letters = self.host.dead_letters("fire")
        for letter in letters:
            if letter.attempts != len(LADDER) + 1:
                raise self.broken(f"buried after {letter.attempts} attempts")
        chains = Counter((one.step, one.entity_id, one.first_seen) for one in letters)
        if chains and max(chains.values()) > 1:
            raise self.broken(f"more than one dead letter for a chain: {chains}")

    def _judge_base(self) -> None:
        """Each base was written upon the one before; so no owner's was overwritten by another's."""
        last: Counter[bytes] = Counter()
        for record in self.bases():
            assert record.key is not None
            assert record.value is not None
            effects = ThingBase.from_bytes(record.value).effects
            if effects != last[record.key] + 1:
                raise self.broken(f"base {effects} of {record.key!r} over {last[record.key]}")
            last[record.key] = effects


_CHANCES: dict[Callable[[World], Any], float] = {
    World.publish: 8,
    World.go_round: 30,
    World.go_on: 30,
    World.tell: 35,
    World.tick: 5,
    World.crash: 1.5,
    World.come_back: 6,
    World.join: 1.5,
    World.leave: 0.7,
    World.freeze: 2.5,
    World.thaw: 5,
    World.fail: 2,
}


async def play(seed: int, steps: int) -> World:
    """Play one world to its end."""
    world = World(seed)
    await world.host.start(world.app())
    await world.host.join("fire")
    try:
        for _ in range(6):
            await world.publish()
        for _ in range(steps):
            await world.happen()
        await world.end()
        await world.host.restart("fire")
        begun = world._clock
        await world.host.settle()
        if world._clock != begun:
            raise world.broken("what was committed ran again")
    finally:
        await world.close()
    return world


@pytest.mark.parametrize("block", range(10))
async def test_whatever_happens_in_whatever_order_the_promises_hold(block: int) -> None:
    """120 worlds of 100 decisions each: 12,000 interleaved steps."""
    for seed in range(block * 12, block * 12 + 12):
        await play(seed, steps=100)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("block", range(10))
async def test_in_ten_thousand_worlds_the_promises_hold(block: int) -> None:
    for seed in range(10_000 + block * 1_000, 11_000 + block * 1_000):
        await play(seed, steps=100)


async def test_a_zombie_that_believes_in_its_lease_does_not_touch_the_new_owner_s_base() -> None:
    world = World(0)
    await world.host.start(world.app())
    zombie = "fire"

    # given a run that is about to write the base when its process is frozen
    await world.tell_of("a")
    (old,) = world.open
    world.host.freeze(zombie)
    world.order(old, "base")

    # when another member takes the thing over, and writes the base twice
    heir = await world.host.join("fire")
    await world.host.let_run()
    world.host.nudge()
    await world.host.let_run()
    new = world.open[-1]
    assert new.process.member == heir
    for _ in range(2):
        world.order(new, "base")
        await world.host.let_run()
    written = [ThingBase.from_bytes(r.value or b"").effects for r in world.bases()]
    assert written == [1, 2]

    # then the old write is refused, even before its process learns what became of it
    world.host.thaw(zombie, lease_holds=True)
    await world.host.let_run()
    assert world.bases()[2:] == []
    assert old not in world.open
    await world.end()
    await world.close()


async def test_a_zombie_whose_lease_is_over_does_nothing_outside() -> None:
    world = World(0)
    await world.host.start(world.app())
    await world.tell_of("a")
    (old,) = world.open
    world.host.freeze("fire")
    await world.host.join("fire")
    world.host.thaw("fire")
    world.order(old, "effect")
    await world.host.let_run()

    assert world.effects == []
    assert old not in world.open
    await world.end()
    await world.close()


async def test_a_state_that_was_stored_unseen_is_read_again_and_not_written_twice() -> None:
    world = World(0)
    await world.host.start(world.app())
    await world.tell_of("a")
    (lost,) = world.open
    world.lose_next("after")
    world.order(lost, "base")
    await world.host.let_run()
    assert lost not in world.open
    assert world.host.worker("fire").voided

    # the partition is taken over anew, and the run that follows stands on what was stored
    world.host.nudge()
    await world.host.let_run()
    world.host.nudge()
    await world.host.let_run()
    (again,) = world.open
    assert again.number == lost.number
    world.order(again, "base")
    await world.host.let_run()
    assert [ThingBase.from_bytes(r.value or b"").effects for r in world.bases()] == [1, 2]
    await world.end()
    await world.close()


# -- stories of hours --------------------------------------------------------------------------------


class Story:
    """One app, its ledger outside, and a host whose members may die at any moment."""

    def __init__(self, *, concurrency: int = 64) -> None:
        self.host = MemoryHost(options=WorkerOptions(concurrency=concurrency))
        self.ledger = Ledger()
        self.app = toy(self.ledger)

    async def publish(self, thing: str, number: int = 0, *, ordered: bool = False) -> None:
        """Append an event."""
        topic = ORDERED if ordered else CHANGED
        now = self.host.clock.now()
        await self.host.log.append([encoded(topic, ThingChanged(thing=thing, number=number), now)])

    def ends(self, thing: str) -> list[JournalEntry]:
        """Return what the journal says about the ends of a thing's runs."""
        return [entry for entry in self.host.journal(thing) if entry.phase == "end"]

    async def restart_after(self, **span: float) -> None:
        """Let time pass, then kill the member and start it again."""
        await self.host.advance(**span)
        await self.host.restart("toy")


@pytest.fixture
async def story() -> AsyncIterator[Story]:
    """Give a story whose app runs."""
    story = Story()
    await story.host.start(story.app)
    yield story
    await story.host.stop()


@pytest.mark.parametrize("kill_minutes", [0, 7], ids=["nobody dies", "killed every 7 minutes"])
async def test_a_failing_record_whose_status_comes_back_as_an_event_dies_once(
    story: Story, kill_minutes: int
) -> None:
    statuses: dict[str, str] = {}
    attempts: list[int] = []

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if held := ctx.saw("the same sight, whatever its status says"):
            return held
        attempts.append(ctx.attempt)
        # the status tells the attempt, so every attempt writes it, the last one too, and the write
        # comes back as an event
        if statuses.get(event.thing) != f"failed {ctx.attempt}":
            statuses[event.thing] = f"failed {ctx.attempt}"
            await story.publish(event.thing, event.number + 1)
        raise Transient("xai", "get_file", status=503)

    story.ledger.answer = fail
    await story.publish("a")
    for _ in range(600 // kill_minutes if kill_minutes else 1):
        if kill_minutes:
            await story.restart_after(minutes=kill_minutes)
        else:
            await story.host.advance(hours=10)

    assert attempts == [1, 2, 3, 4, 5, 6]
    (letter,) = story.host.dead_letters("toy")
    assert letter.attempts == 6
    assert "skipped" in {entry.outcome for entry in story.ends("a")}


async def test_a_kill_between_two_attempts_moves_neither_time_nor_number(story: Story) -> None:
    began: list[tuple[int, float]] = []

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        began.append((ctx.attempt, story.host.clock.monotonic()))
        return Retry("it is raining")

    story.ledger.answer = fail
    await story.publish("a")
    await story.host.settle()
    for _ in range(50):
        await story.restart_after(minutes=6.7)

    due = itertools.accumulate((0.0, *(rung.total_seconds() for rung in RUNGS)))
    assert [number for number, _ in began] == [1, 2, 3, 4, 5, 6]
    assert [at for _, at in began] == pytest.approx(list(due), abs=0.001)
    assert len(story.host.dead_letters("toy")) == 1


async def test_a_kill_within_an_attempt_repeats_that_attempt(story: Story) -> None:
    attempts: list[int] = []

    async def hang(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        attempts.append(ctx.attempt)
        if len(attempts) % 2:
            await ctx.deps.gate.wait()
        return Retry("it is raining")

    story.ledger.answer = hang
    await story.publish("a")
    for rung in (timedelta(), *RUNGS):
        story.host.clock.move(rung.total_seconds())
        story.host.nudge()
        await story.host.let_run()
        await story.host.restart("toy")
        await story.host.settle()

    assert attempts == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert len(story.host.dead_letters("toy")) == 1


@pytest.mark.parametrize("killed", [False, True])
async def test_forty_waits_count_no_attempt(story: Story, *, killed: bool) -> None:
    attempts: list[int] = []

    async def poll(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        attempts.append(ctx.attempt)
        return Done("indexed") if len(attempts) > 40 else Wait("indexing", timedelta(minutes=3))

    story.ledger.answer = poll
    await story.publish("a")
    for _ in range(45):
        await story.host.advance(minutes=3)
        if killed:
            await story.host.restart("toy")

    assert attempts == [1] * 41
    assert [entry.outcome for entry in story.ends("a")] == ["wait"] * 40 + ["done"]
    assert story.host.dead_letters("toy") == []


@pytest.mark.parametrize("minutes", [-5, 5])
async def test_the_broker_s_clock_says_nothing_about_what_is_due(
    story: Story, minutes: int
) -> None:
    story.host.log.ahead = timedelta(minutes=minutes)
    began: list[float] = []

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        began.append(story.host.clock.monotonic())
        return Retry("it is raining") if len(began) < 4 else Done("dry again")

    story.ledger.answer = fail
    await story.publish("a")
    await story.host.settle()
    for _ in range(9):
        await story.restart_after(minutes=3)

    stamps = [record.time for record in story.host.log.records(topics.schedule("toy").name)]
    assert all(stamp is not None for stamp in stamps)
    assert began == pytest.approx([0, 60, 360, 1260], abs=1)


# -- a broken handler --------------------------------------------------------------------------------


class Guard:
    """The gates of one process of the toy, with what it reads from and writes to the topic."""

    def __init__(self, host: MemoryHost, code_version: str) -> None:
        self.gates = Gates(
            "toy",
            ["Toy Sync", "Toy Order", "Toy Cron"],
            clock=host.clock,
            code_version=code_version,
            instance="toy",
        )
        self._commands = Commands(host.log, host.clock, [self.gates], "toy")
        self._publishing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Gates:
        await self._commands.load()
        self._publishing = asyncio.create_task(self._commands.publish())
        return self.gates

    async def __aexit__(self, *_: object) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.wait({self._publishing})


async def test_a_bug_in_every_record_halts_the_step_until_the_code_is_another() -> None:
    story = Story(concurrency=4)
    things = [f"t{number}" for number in range(60)]
    runs: list[str] = []

    async def bug(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        runs.append(event.thing)
        raise ZeroDivisionError

    story.ledger.answer = bug
    for thing in things:
        await story.publish(thing, ordered=True)
    async with Guard(story.host, "1") as gates:
        await story.host.start(story.app, gates=lambda _: gates)
        await story.host.advance(hours=10)
        assert [state.state for state in gates.states()] == ["halted"]
        assert gates.unpublished() == ()
        await story.host.crash("toy")
    halted_after = len(runs)
    assert 5 <= halted_after <= 8

    # however often it starts again, nothing runs, nothing dies, and no commit passes what waits
    for _ in range(10):
        async with Guard(story.host, "1") as again:
            await story.host.start(story.app, gates=lambda _, gates=again: gates)  # type: ignore[misc]  # bound at once
            await story.host.advance(hours=1)
            await story.host.crash("toy")
    assert len(runs) == halted_after
    assert story.host.dead_letters("toy") == []
    ran = set(runs)
    for record in story.host.log.records(ORDERED.name):
        commit = story.host.commits("toy").get((record.topic, record.partition))
        if commit is None or (record.key or b"").decode() in ran:
            continue
        assert commit.offset <= record.offset
        assert record.offset in waiting_by(
            commit, story.host.log.end(record.topic, record.partition)
        )

    # and the code that is right does it all, at first few at once
    widths: list[int] = []

    async def well(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        widths.append(sum(ctx.deps.open.values()))
        await asyncio.sleep(0)
        return Done("looked")

    story.ledger.answer = well
    async with Guard(story.host, "2") as fixed:
        await story.host.start(story.app, gates=lambda _: fixed)
        await story.host.advance(hours=1)
        assert {thing for thing in things if story.ends(thing)[-1].outcome == "done"} == {*things}
        assert fixed.states() == ()
        await story.host.stop()
    assert story.host.dead_letters("toy") == []
    assert widths[0] == 1
    assert max(widths) == 4


def waiting_by(commit: Commit, end: int) -> set[int]:
    """Return the offsets below `end` that the next owner runs, as a commit says."""
    offsets = Offsets.restored(commit)
    return {offset for offset in range(commit.offset, end) if offsets.delivered(offset)}


# -- a system that is down ---------------------------------------------------------------------------


@dataclass
class Crm:
    """An outside system behind a circuit, and the toy's dependencies."""

    clock: ManualClock
    circuits: Circuits
    down: bool = False
    bad: frozenset[str] = frozenset()
    sent: list[tuple[float, str, bool]] = field(default_factory=list)
    done: dict[str, float] = field(default_factory=dict)
    open: int = 0
    widths: list[tuple[float, int]] = field(default_factory=list)
    lonely: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Answer as a `Transport` of a system that is down, or well, does."""
        thing = request.url.rpartition("/")[2]
        self.open += 1
        self.widths.append((self.clock.monotonic(), self.open))
        try:
            await self.clock.sleep(0.1)
            fails = self.down or thing in self.bad
            self.sent.append((self.clock.monotonic(), thing, fails))
            if fails:
                raise Transient("crm", "look", status=503)
            yield Answer()
        finally:
            self.open -= 1

    def client(self) -> Transport:
        """Return what handlers speak through."""
        return GuardedTransport(self, circuits=self.circuits, clock=self.clock)

    async def ask(self, thing: str) -> None:
        """Look at a thing in the system."""
        request = Request("crm", "look", "GET", f"https://crm.test/{thing}")
        async with self.client().send(request) as answer:
            assert answer.status == 200


class Answer:
    """A good one."""

    status = 200
    headers: Mapping[str, str] = {}

    async def read(self, limit: int = 0) -> bytes:
        return b""

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b""


@step(
    name="Crm Sync",
    description="Looks a thing up in the CRM",
    flows=["fire"],
    triggers=[queue(CHANGED)],
    needs=["crm"],
    coalesce=True,
)
async def crm_sync(event: ThingChanged, ctx: Context[Crm]) -> Outcome:
    await ctx.deps.ask(event.thing)
    ctx.deps.done[event.thing] = ctx.deps.clock.monotonic()
    return Done("looked")


@step(
    name="Lonely",
    description="Needs nobody",
    flows=["fire"],
    triggers=[queue(ORDERED)],
)
async def lonely(event: ThingChanged, ctx: Context[Crm]) -> Outcome:
    ctx.deps.lonely.append(ctx.deps.clock.monotonic())
    return Done("looked")


@asynccontextmanager
async def crm_world() -> AsyncIterator[tuple[MemoryHost, Crm]]:
    """Start an app that needs a CRM."""
    host = MemoryHost()
    circuits = Circuits(host.clock)
    crm = Crm(host.clock, circuits)
    circuits.declare("crm", lambda: crm.ask("probe"))

    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Crm]:
        yield crm

    await host.start(App("fire", [crm_sync, lonely], open_deps))
    try:
        yield host, crm
    finally:
        await circuits.close()
        await host.stop()


async def test_a_system_that_is_down_for_ten_minutes_costs_others_nothing_and_itself_few_attempts() -> (
    None
):
    things = [f"t{number}" for number in range(40)]
    async with crm_world() as (host, crm):
        crm.down = True
        for thing in things:
            event = ThingChanged(thing=thing)
            await host.log.append([encoded(CHANGED, event, host.clock.now())])
            await host.advance(seconds=0.05)
        await host.advance(minutes=9)
        await host.log.append([encoded(ORDERED, ThingChanged(thing="x"), host.clock.now())])
        await host.settle()
        assert len(crm.lonely) == 1
        await host.advance(minutes=1)
        crm.down = False
        recovered = host.clock.monotonic()
        sent_while_down = [thing for _, thing, _ in crm.sent if thing != "probe"]
        await host.advance(minutes=20)

        # every failure that was counted is a call that was really sent
        failures = Counter(
            entry.entity_id
            for thing in things
            for entry in host.journal(thing)
            if entry.outcome == "retry"
        )
        assert failures == Counter(sent_while_down)
        assert 5 <= len(sent_while_down) <= 12
        assert set(crm.done) == set(things)
        assert host.dead_letters("fire") == []

        # and it comes back slowly: 1, 2, 4, ... at once
        after = [width for at, width in crm.widths if at > recovered]
        assert after[0] == 1
        assert all(width <= 2 ** (number + 1) for number, width in enumerate(after))


async def test_one_record_that_always_fails_dies_by_the_ladder_and_opens_nothing() -> None:
    async with crm_world() as (host, crm):
        crm.bad = frozenset({"bad"})
        await host.log.append([encoded(CHANGED, ThingChanged(thing="bad"), host.clock.now())])
        for number in range(100):
            event = ThingChanged(thing=f"t{number}")
            await host.log.append([encoded(CHANGED, event, host.clock.now())])
            await host.advance(minutes=6)
            assert [state.state for state in crm.circuits.states()] == [State.CLOSED]

        (letter,) = host.dead_letters("fire")
        assert (letter.entity_id, letter.attempts) == ("bad", 6)
        assert len(crm.done) == 100
        assert {entry.outcome for entry in host.journal("bad")} == {"retry", "rejected"}


# -- crons -------------------------------------------------------------------------------------------

CRON = toy_cron.function_id()
QUARTER = timedelta(minutes=15)


class CronStory(Story):
    """Three members, one cron; its runs take ten virtual seconds.

    Attributes:
        finished: the instants whose handler came to its end, in order; `begun` those it began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[Tick] = []
        self.finished: list[Tick] = []
        self.app = replace(self.app, steps=[self._step()])

    def _step(self) -> Any:
        @step(
            name="Toy Cron",
            description="Takes its time",
            flows=["toy"],
            triggers=[cron("0 */15 * * * *")],
        )
        async def slow(tick: Tick, ctx: Context[Ledger]) -> Outcome:
            self.begun.append(tick)
            await self.host.clock.sleep(10)
            self.finished.append(tick)
            return Done("tick noted")

        return slow

    def owner(self) -> str:
        """Return the member that has the cron."""
        number = codec.partition_of(CRON.encode())
        (found,) = (m for m in self.host.members("toy") if number in self.host.worker(m).partitions)
        return found

    def done(self) -> list[JournalEntry]:
        """Return the ends of the cron's runs."""
        return self.ends(CRON)

    async def go_to(self, instant: datetime) -> None:
        """Let time pass until an instant, in runs too."""
        while (left := (instant - self.host.clock.now()).total_seconds()) > 0:
            if not await self.host.go_on():
                step = self.host.next_event()
                self.host.clock.move(left if step is None else min(step, left))
        while await self.host.go_on():
            continue


@pytest.mark.parametrize("seed", range(3))
async def test_each_of_a_hundred_ticks_finishes_once_whoever_dies(seed: int) -> None:
    chance = random.Random(seed)
    story = CronStory()
    await story.host.start(story.app)
    await story.host.join("toy")
    await story.host.join("toy")
    first = story.host.clock.now() + QUARTER
    interrupted = 0
    for number in range(100):
        instant = first + number * QUARTER
        within = chance.random() < 0.3
        if within or chance.random() < 0.3:
            before = len(story.begun)
            offset = timedelta(seconds=5) if within else timedelta(minutes=-7)
            await story.go_to(instant + offset)
            interrupted += len(story.begun) - before
            victim = story.owner()
            await story.host.crash(victim)
            if chance.random() < 0.5:
                await story.go_to(story.host.clock.now() + timedelta(seconds=45))
            await story.host.start_again(victim, "toy")
        await story.go_to(instant + timedelta(minutes=2))

    instants = [first + number * QUARTER for number in range(100)]
    ends = [entry for entry in story.done() if entry.outcome == "done"]
    assert [tick.due for tick in story.finished] == instants
    assert len(ends) == 100
    assert interrupted >= 10
    assert len(story.begun) == 100 + interrupted
    await story.host.stop()


async def test_an_interrupted_tick_is_resumed_as_the_same_run() -> None:
    story = CronStory()
    await story.host.start(story.app)
    await story.go_to(story.host.clock.now() + QUARTER + timedelta(seconds=5))
    await story.host.restart("toy")
    await story.host.settle()

    assert [tick.due for tick in story.begun] == [story.begun[0].due] * 2
    assert len({tick.run_id for tick in story.begun}) == 1
    (end,) = story.done()
    assert end.run_id == story.begun[0].run_id
    assert "resumed" in end.reason
    await story.host.stop()


async def test_what_was_missed_while_nobody_was_there_runs_once_and_is_listed() -> None:
    story = CronStory()
    await story.host.start(story.app)
    began = story.host.clock.now()
    await story.go_to(began + timedelta(minutes=20))
    await story.host.crash("toy")
    story.host.clock.move(3600)
    await story.host.start(story.app)
    await story.host.settle()

    assert [tick.due - began for tick in story.finished] == [QUARTER, 5 * QUARTER]
    assert "3 instants missed" in story.done()[-1].reason
    await story.host.stop()


async def test_a_manual_run_never_comes_again_at_a_restart_and_moves_no_tick() -> None:
    story = CronStory()
    await story.host.start(story.app)
    await story.go_to(story.host.clock.now() + timedelta(minutes=3))
    asked = RunRequested(function_id=CRON, run_id="f" * 32, subject=CRON)
    request = encoded(topics.requests("toy"), asked, story.host.clock.now())
    await story.host.log.append([request])
    await story.host.settle()
    for _ in range(5):
        await story.host.restart("toy")
        await story.host.settle()
    assert [tick.manual for tick in story.finished] == [True]
    await story.host.advance(minutes=30)

    assert [tick.manual for tick in story.finished] == [True, False, False]
    await story.host.stop()


async def test_a_manual_run_whose_commit_was_lost_does_not_come_again() -> None:
    story = CronStory()
    await story.host.start(story.app)
    asked = RunRequested(function_id=CRON, run_id="f" * 32, subject=CRON)
    request = encoded(topics.requests("toy"), asked, story.host.clock.now())
    await story.host.log.append([request])
    while not story.done():
        story.host.round("toy", commit=False)
        await story.host.let_run()
        story.host.clock.move(1)
    await story.host.restart("toy")
    await story.host.settle()

    assert [tick.manual for tick in story.finished] == [True]
    await story.host.stop()
