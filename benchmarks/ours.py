"""Our side: apps of one step, each run as every service is: `python -m benchmarks.ours KIND ...`."""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks import things
from benchmarks.ledger import Handled, Ledger
from benchmarks.outside import Outside
from benchmarks.things import ThingChanged
from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.outcomes import Done, Outcome, Skipped
from bitbylaw_common.runtime import App, Context, queue, step
from bitbylaw_common.runtime.hosting import topics_of
from bitbylaw_common.runtime.run import run
from bitbylaw_common.topics import Topic

NAME = "bench"
"""The app, and its consumer group."""


def sleeping(topic: str, ledger: Ledger) -> App[Ledger]:
    """Return the app that sleeps as long as each thing on `topic` says."""

    @step(
        name="Bench Sleep",
        description="Sleeps as long as the event says",
        flows=["bench"],
        triggers=[queue(things.topic(topic))],
    )
    async def sleep(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        began = time.time_ns()
        await asyncio.sleep(event.sleep_ms / 1000)
        if ctx.deps.note(Handled(event.thing, event.number, began, time.time_ns())):
            await asyncio.to_thread(ctx.deps.write)
        return Done("slept")

    return App(NAME, [sleep], _opening(ledger))


def entering(ledger: Ledger, *, first: int) -> App[Ledger]:
    """Return the app that notes when it hears of a webhook about record `first` or a later one."""

    @step(
        name="Bench Enter",
        description="Notes when a webhook's event arrives",
        flows=["bench"],
        triggers=[queue(topics.DOCUMENT_UPDATE)],
    )
    async def enter(event: EntityChanged, ctx: Context[Ledger]) -> Outcome:
        began = time.time_ns()
        number = int(event.entity_id, 16)
        if number < first:
            return Skipped("of an earlier run")
        if ctx.deps.note(Handled(event.entity_id, number, began, time.time_ns())):
            await asyncio.to_thread(ctx.deps.write)
        return Done("noted")

    return App(NAME, [enter], _opening(ledger))


def writing(topic: str, outside: Outside) -> App[Outside]:
    """Return the app that brings the outside to where each thing says, if it is not there."""

    @step(
        name="Bench Write",
        description="Looks at the outside and writes what is missing",
        flows=["bench"],
        triggers=[queue(things.topic(topic))],
    )
    async def write(event: ThingChanged, ctx: Context[Outside]) -> Outcome:
        seen = ctx.deps.begin(event.number)
        already = ctx.deps.holds(event.thing, event.number)
        await asyncio.sleep(event.sleep_ms / 1000)
        if already:
            ctx.deps.end(seen)
            return Skipped("already there")
        async with ctx.effect("outside", "write", target=event.thing):
            ctx.deps.write(seen, event.thing, event.number)
        ctx.deps.end(seen)
        return Done("written")

    return App(NAME, [write], _opening(outside))


def touched() -> tuple[Topic[Any], ...]:
    """Return the topics that hosting one of these apps touches, beside the things it reads."""
    return topics_of(entering(Ledger(Path(), 0), first=0))


def _opening(deps: Any) -> Any:
    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Any]:
        yield deps

    return open_deps


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    sleeps = kinds.add_parser("sleep")
    sleeps.add_argument("topic")
    sleeps.add_argument("records", type=int)
    sleeps.add_argument("ledger", type=Path)
    enters = kinds.add_parser("enter")
    enters.add_argument("records", type=int)
    enters.add_argument("ledger", type=Path)
    enters.add_argument("first", type=int)
    writes = kinds.add_parser("write")
    writes.add_argument("topic")
    writes.add_argument("outside", type=Path)
    given = parser.parse_args()
    match given.kind:
        case "sleep":
            run(sleeping(given.topic, Ledger(given.ledger, given.records)))
        case "enter":
            run(entering(Ledger(given.ledger, given.records), first=given.first))
        case _:
            run(writing(given.topic, Outside.open(given.outside)))


if __name__ == "__main__":
    main()
