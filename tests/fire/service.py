"""A toy service for tests under fire: a process of its own, told by its records what to do.

`python -m fire.service SETUP` with the setup as JSON. Every run writes to the outside ledger.
"""

import asyncio
import functools
import os
import signal
import sys
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from aiokafka import AIOKafkaConsumer
from pydantic import BaseModel, ConfigDict

from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import Event
from bitbylaw_common.outcomes import Done, Outcome, Retry, Wait
from bitbylaw_common.runtime import App, Context, hosting, queue, step
from bitbylaw_common.runtime.hosts import kafka_host
from bitbylaw_common.runtime.run import run
from bitbylaw_common.runtime.step import Step
from bitbylaw_common.sync.base import BaseState
from bitbylaw_common.topics import Topic
from fire.ledger import Ledger

Deed = Literal["work", "hold", "poll", "fail", "block", "effects", "gap", "base", "later"]
POLL_SECONDS = 0.1
EFFECT_SECONDS = 0.3
DEADLINE = timedelta(minutes=10)
"""Longer than any run is held; the drain has its own time."""

GAP_SECONDS = 3.0


class Setup(BaseModel):
    """How one process of the toy service is.

    Attributes:
        name: of the app, hence of its group and topics.
        folder: of the ledger, the gate and what the outside world holds.
        release: 2 knows a topic and a step more than 1.
        ladder: seconds between attempts.
        clock_shift: how far this machine's clock is from the broker's, in seconds.
        lock: whether runs hold a Redis lock.
        slow_ms: a handler takes 0 to so many milliseconds.
        failing: the share of records whose first attempt fails; as many of these fail again.
        stuck_seconds: a consumer that has not moved for so long makes the process unhealthy; it is
            looked for eight times as often.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: Path
    seed: int = 1
    release: int = 1
    ladder: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    clock_shift: float = 0.0
    lock: bool = False
    slow_ms: int = 20
    failing: float = 0.05
    stuck_seconds: float = hosting.STUCK_SECONDS

    @property
    def ledger(self) -> Path:
        """The file of the ledger."""
        return self.folder / "ledger.jsonl"

    @property
    def gate(self) -> Path:
        """While this file is missing, runs that hold go on holding."""
        return self.folder / "gate"

    @property
    def silenced(self) -> Path:
        """This file is there once the consumer's fetches hang."""
        return self.folder / "silenced"


class ThingChanged(Event):
    """A thing changed; `deed` says what its run shall do, `count` how often or how long."""

    type: ClassVar[str] = "fire.thing.changed"

    thing: str
    number: int
    deed: Deed = "work"
    count: float = 0

    @property
    def key(self) -> str:
        return self.thing

    @property
    def entity(self) -> str:
        return "thing"


class ThingBase(BaseState):
    """What the toy world agreed on: which record's run, in which process, wrote last."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one app: of runs one by one, of coalesced runs, of the next release."""

    ordered: Topic[ThingChanged]
    changed: Topic[ThingChanged]
    added: Topic[ThingChanged]


def topics_of(name: str) -> Topics:
    """Return the topics of the app called `name`."""
    words = {
        "ordered": "a thing changed, each run alone",
        "changed": "a thing changed, what waits is answered by one run",
        "added": "a thing changed, as only the next release knows",
    }
    return Topics(
        **{word: Topic(f"{name}.{word}", ThingChanged, name, text) for word, text in words.items()}
    )


def chance(seed: int, what: str) -> float:
    """Return a number in [0, 1) that only seed and words decide, in every process the same."""
    return zlib.crc32(f"{seed}|{what}".encode()) / 2**32


def failures(setup: Setup, thing: str, number: int) -> int:
    """Return how many attempts of a record fail before one succeeds."""
    drawn = chance(setup.seed, f"fail {thing} {number}")
    return (drawn < setup.failing) + (drawn < setup.failing**2)


@dataclass
class World:
    """What a run reaches: the setup and the ledger."""

    setup: Setup
    ledger: Ledger

    def outside(self, name: str) -> Path:
        """Return the file that stands for something in an outside system."""
        return self.setup.folder / "outside" / name


async def _work(step_name: str, event: ThingChanged, ctx: Context[World]) -> Outcome:
    """Do the record's deed between two lines of the ledger."""
    ledger = ctx.deps.ledger
    note = functools.partial(
        ledger.note,
        step=step_name,
        key=event.thing,
        number=event.number,
        attempt=ctx.attempt,
        run=ctx.run_id,
    )
    note("start")
    try:
        outcome = await _DEEDS[event.deed](event, ctx)
    except BaseException as error:
        note("end", word=type(error).__name__)
        raise
    note("end", word=type(outcome).__name__.lower())
    return outcome


async def _simply(event: ThingChanged, ctx: Context[World]) -> Outcome:
    setup = ctx.deps.setup
    pause = chance(setup.seed, f"pause {event.thing} {event.number}") * setup.slow_ms / 1000
    await asyncio.sleep(pause)
    if ctx.attempt <= failures(setup, event.thing, event.number):
        return Retry("the toy world is out of sorts")
    return Done("looked")


async def _hold(event: ThingChanged, ctx: Context[World]) -> Outcome:
    while not ctx.deps.setup.gate.exists():  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.02)
    return Done("the gate is open")


async def _poll(event: ThingChanged, ctx: Context[World]) -> Outcome:
    """Wait until the outside was asked `count` times."""
    asked = ctx.deps.outside(f"{event.thing}.polls")
    with asked.open("ab") as file:
        file.write(b".")
    if asked.stat().st_size < event.count:
        return Wait("not indexed yet", timedelta(seconds=POLL_SECONDS))
    return Done("indexed")


async def _fail(event: ThingChanged, ctx: Context[World]) -> Outcome:
    if ctx.attempt <= event.count:
        return Retry("as told")
    return Done("at last")


async def _block(event: ThingChanged, ctx: Context[World]) -> Outcome:
    """Hold up the whole loop once, as a bug would; then write without looking, if allowed to."""
    blocked = ctx.deps.outside(f"{event.thing}.blocked")
    if not blocked.exists():
        blocked.touch()
        time.sleep(event.count)  # noqa: ASYNC251 - this very mistake is what is tested
    async with ctx.effect("toy", "write", target=event.thing):
        _note_effect(event, ctx, "after the block")
    return Done("written")


async def _effects(event: ThingChanged, ctx: Context[World]) -> Outcome:
    """Write twice; the first process freezes in the middle of its first write."""
    frozen = ctx.deps.outside(f"{event.thing}.frozen")
    async with ctx.effect("toy", "write", target=event.thing):
        if not frozen.exists():
            frozen.touch()
            _freeze(ctx.deps.ledger)
        await asyncio.sleep(EFFECT_SECONDS)
        _note_effect(event, ctx, "first")
    await _write_once(event, ctx, "second")
    return Done("written twice")


async def _gap(event: ThingChanged, ctx: Context[World]) -> Outcome:
    """Look outside, take a while, write; whoever sleeps meanwhile knows only what it saw before."""
    await asyncio.sleep(GAP_SECONDS)
    async with ctx.effect("toy", "write", target=event.thing):
        _note_effect(event, ctx, "after the gap")
    return Done("written")


async def _base(event: ThingChanged, ctx: Context[World]) -> Outcome:
    """Write the base; the first process freezes `count` milliseconds after it began to."""
    frozen = ctx.deps.outside(f"{event.thing}.frozen")
    value = ThingBase(
        key_id="fire",
        written_at=datetime.now(UTC),  # noqa: TID251 - a label, nothing is decided by it
        written_by=ctx.run_id,
        number=event.number,
        pid=os.getpid(),
    )
    if not frozen.exists():
        frozen.touch()
        loop = asyncio.get_running_loop()
        loop.call_later(event.count / 1000, _freeze, ctx.deps.ledger)
    await ctx.agree(value)
    ctx.deps.ledger.note("base", key=event.thing, number=event.number, run=ctx.run_id)
    return Done("agreed")


async def _later(event: ThingChanged, ctx: Context[World]) -> Outcome:
    return Wait("for a long time", timedelta(seconds=event.count))


async def _write_once(event: ThingChanged, ctx: Context[World], word: str) -> None:
    """Look whether the outside has it, and write it if not; both facts go into the ledger."""
    written = ctx.deps.outside(f"{event.thing}.{word.replace(' ', '-')}")
    if written.exists():
        return
    async with ctx.effect("toy", "write", target=event.thing):
        _note_effect(event, ctx, word)
        written.touch()


def _note_effect(event: ThingChanged, ctx: Context[World], word: str) -> None:
    ctx.deps.ledger.note("effect", key=event.thing, number=event.number, run=ctx.run_id, word=word)


def _freeze(ledger: Ledger) -> None:
    ledger.note("frozen")
    os.kill(os.getpid(), signal.SIGSTOP)


_DEEDS = {
    "work": _simply,
    "hold": _hold,
    "poll": _poll,
    "fail": _fail,
    "block": _block,
    "effects": _effects,
    "gap": _gap,
    "base": _base,
    "later": _later,
}


def fire(setup: Setup) -> App[World]:
    """Return the app."""
    names = topics_of(setup.name)
    lock = "thing" if setup.lock else None

    @step(
        name="Fire Order",
        description="Takes every record of a thing by itself, in order",
        flows=["fire"],
        triggers=[queue(names.ordered)],
        lock=lock,
        deadline=DEADLINE,
    )
    async def order(event: ThingChanged, ctx: Context[World]) -> Outcome:
        return await _work("Fire Order", event, ctx)

    @step(
        name="Fire Sync",
        description="Looks at a thing; what waits is answered by one run",
        flows=["fire"],
        triggers=[queue(names.changed)],
        lock=lock,
        coalesce=True,
    )
    async def sync(event: ThingChanged, ctx: Context[World]) -> Outcome:
        return await _work("Fire Sync", event, ctx)

    @step(
        name="Fire Addition",
        description="Takes what only the next release knows",
        flows=["fire"],
        triggers=[queue(names.added)],
    )
    async def addition(event: ThingChanged, ctx: Context[World]) -> Outcome:
        return await _work("Fire Addition", event, ctx)

    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[World]:
        ledger = Ledger(setup.ledger)
        try:
            yield World(setup, ledger)
        finally:
            ledger.close()

    steps: list[Step[Any, Any, World]] = [order, sync]
    if setup.release > 1:
        steps.append(addition)
    ladder = tuple(timedelta(seconds=seconds) for seconds in setup.ladder)
    return App(setup.name, steps, open_deps, ladder)


def shift_clock(seconds: float) -> None:
    """Let this process's clock be off, as one of a machine whose time nobody keeps."""
    shift = timedelta(seconds=seconds)

    class ShiftedClock(SystemClock):
        """A clock that is off."""

        def now(self) -> datetime:
            return super().now() + shift

    host: Any = hosting
    host.SystemClock = ShiftedClock


def look_for_stuck(seconds: float) -> None:
    """Let this process count as stuck after so long, and let it look as often as that asks for."""
    process, consumer = hosting, kafka_host
    consumer.WATCH_SECONDS *= seconds / process.STUCK_SECONDS
    process.STUCK_SECONDS = seconds


def stop_fetching_on_signal(silenced: Path) -> None:
    """Let SIGUSR1 silence the consumer's fetches for ever, as a fault in the client would.

    Args:
        silenced: is there once a fetch hangs, and every later one with it.
    """
    silent = False
    getmany = AIOKafkaConsumer.getmany

    def silence(*_: object) -> None:
        nonlocal silent
        silent = True

    async def fetched(self: AIOKafkaConsumer, *places: Any, **options: Any) -> Any:
        if silent:
            silenced.touch()  # noqa: ASYNC240 - a file of no length
            await asyncio.Event().wait()
        return await getmany(self, *places, **options)

    signal.signal(signal.SIGUSR1, silence)
    AIOKafkaConsumer.getmany = fetched


def main() -> None:
    """Serve until told to stop."""
    setup = Setup.model_validate_json(sys.argv[1])
    setup.folder.joinpath("outside").mkdir(parents=True, exist_ok=True)
    shift_clock(setup.clock_shift)
    look_for_stuck(setup.stuck_seconds)
    stop_fetching_on_signal(setup.silenced)
    run(fire(setup))


if __name__ == "__main__":
    main()
