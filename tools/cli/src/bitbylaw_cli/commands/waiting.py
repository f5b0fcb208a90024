"""`bbl waiting`: what is looked at again later, when, and why."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer
from rich.console import RenderableType

from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.output import AsJson, guarded, run, show, table
from bitbylaw_cli.records import consumer, instant, relative
from bitbylaw_cli.waits import WaitingList, waiting
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.topics import CONSUMERS

_COLUMNS = ("due", "", "kind", "record", "step", "failures", "reason", "since")


def register(cli: typer.Typer) -> None:
    """Add the verb."""
    cli.command("waiting")(show_waiting)


def show_waiting(
    service: Annotated[
        str | None, typer.Argument(help="A consuming service; by default all of them.")
    ] = None,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """List what waits for its time: retries after a failure, waits without one, ticks of crons."""
    services = CONSUMERS if service is None else (guarded(lambda: consumer(service)),)
    result = run(_waiting(environment(env), services))
    now = SystemClock().now()
    show(result, json=json, render=lambda found: rendered(found, now))


async def _waiting(env: Environment, services: tuple[str, ...]) -> WaitingList:
    async with open_log(env) as log:
        return await waiting(log, services)


def rendered(result: WaitingList, now: datetime) -> Iterable[RenderableType]:
    """Yield the list for people."""
    if not result.entries:
        yield f"Nothing waits in {', '.join(result.services)}."
    else:
        rows = [
            (
                instant(entry.due),
                relative(entry.due, now),
                entry.kind,
                f"{entry.entity} {entry.entity_id}",
                entry.step,
                entry.attempt or "",
                entry.reason,
                instant(entry.since),
            )
            for entry in result.entries
        ]
        yield table(_COLUMNS, rows, right=("failures",))
    if result.unreadable:
        yield f"{result.unreadable} entries cannot be read by this version."
