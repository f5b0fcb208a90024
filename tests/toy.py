"""A toy app of its own: what the runtime promises is tested without any domain around it."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from bitbylaw_common.events import Event
from bitbylaw_common.outcomes import Done, Outcome, Skipped
from bitbylaw_common.retry import LADDER
from bitbylaw_common.runtime import (
    ApiRequest,
    ApiResponse,
    App,
    Context,
    Tick,
    cron,
    http,
    queue,
    step,
)
from bitbylaw_common.sync.base import BaseState
from bitbylaw_common.topics import Topic


class ThingChanged(Event):
    """A thing of the toy world changed."""

    type: ClassVar[str] = "toy.thing.changed"
    thing: str
    number: int = 0

    @property
    def key(self) -> str:
        return self.thing

    @property
    def entity(self) -> str:
        return "thing"


class ThingBase(BaseState):
    """What the toy world agreed on."""

    effects: int = 0


CHANGED = Topic("toy.thing.changed", ThingChanged, "toy", "a thing changed")
ORDERED = Topic("toy.thing.ordered", ThingChanged, "toy", "a thing changed, each run alone")
ECHO = Topic("toy.thing.echo", ThingChanged, "toy", "what the toy publishes")

Answer = Callable[[ThingChanged, "Context[Ledger]"], Awaitable[Outcome]]


async def _done(event: ThingChanged, ctx: "Context[Ledger]") -> Outcome:
    return Done(f"number {event.number}")


@dataclass
class Ledger:
    """The outside ledger: who started and ended when; it survives crashes of the app."""

    answer: Answer = _done
    mark: str = ""
    started: list[tuple[str, int]] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    open: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    overlaps: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def numbers(self, thing: str) -> list[int]:
        """Return the numbers of the runs of a thing that ended, in order."""
        return [number for name, number in self.ended if name == thing]


async def _work(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
    ledger = ctx.deps
    if not event.thing.endswith(ledger.mark):
        return Skipped("another test's thing")
    ledger.started.append((event.thing, event.number))
    ledger.open[event.thing] += 1
    ledger.overlaps += ledger.open[event.thing] > 1
    try:
        return await ledger.answer(event, ctx)
    finally:
        ledger.open[event.thing] -= 1
        ledger.ended.append((event.thing, event.number))


@step(
    name="Toy Sync",
    description="Looks at a thing; what waits is answered by one run",
    flows=["toy"],
    triggers=[queue(CHANGED)],
    enqueues=[ECHO],
    lock="thing",
    coalesce=True,
    deadline=timedelta(seconds=30),
)
async def toy_sync(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
    return await _work(event, ctx)


@step(
    name="Toy Order",
    description="Takes every event of a thing by itself, in order",
    flows=["toy"],
    triggers=[queue(ORDERED)],
    deadline=timedelta(seconds=30),
)
async def toy_order(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
    return await _work(event, ctx)


@step(
    name="Toy Cron",
    description="Notes each tick",
    flows=["toy"],
    triggers=[cron("0 */15 * * * *")],
    deadline=timedelta(seconds=30),
)
async def toy_cron(tick: Tick, ctx: Context[Ledger]) -> Outcome:
    ctx.deps.ticks.append(tick)
    return Done("tick noted")


@step(
    name="Toy Post",
    description="Publishes what is posted",
    flows=["toy"],
    triggers=[http("POST", "/toy/{thing}")],
    enqueues=[CHANGED],
)
async def toy_post(request: ApiRequest[bytes], ctx: Context[Ledger]) -> ApiResponse:
    event_id = await ctx.enqueue(CHANGED, ThingChanged(thing=request.path_params["thing"]))
    return ApiResponse(200, {"event_id": event_id})


def toy(
    ledger: Ledger, name: str = "toy", *, ladder: tuple[timedelta, ...] = LADDER
) -> App[Ledger]:
    """Return the app, working on `ledger`; `name` is its group, too."""

    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Ledger]:
        yield ledger

    return App(name, [toy_sync, toy_order, toy_cron, toy_post], open_deps, ladder)


def state(effects: int, run_id: str) -> ThingBase:
    """Return a base that remembers `effects`."""
    return ThingBase(
        key_id="toy",
        written_at=datetime(2026, 1, 1, tzinfo=UTC),
        written_by=run_id,
        effects=effects,
    )
