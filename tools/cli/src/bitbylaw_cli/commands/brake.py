"""`bbl brake`: what a sync holds back because it would change too much, and letting it go on."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.braking import Braked, BrakedList, Released, braked, release
from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.output import (
    AsJson,
    Confirmed,
    Exit,
    PlanOnly,
    guarded,
    may_write,
    run,
    show,
    table,
)
from bitbylaw_cli.records import consumer, instant, one_of, relative
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.sync.brake import DELETE, DETACH, OVERWRITE, RECORD, UPLOAD

_EFFECTS = {
    UPLOAD: "uploads",
    DELETE: "deletes",
    DETACH: "detaches",
    OVERWRITE: "values overwritten",
    RECORD: "records changed at all",
}


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(
        help="What a sync holds back because it would change too much.", no_args_is_help=True
    )
    nouns.command("show")(show_brakes)
    nouns.command("release")(release_brake)
    cli.add_typer(nouns, name="brake")


def show_brakes(
    service: Annotated[
        str | None, typer.Argument(help="A consuming service; by default all of them.")
    ] = None,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Show what is held back: since when, why, how much waits, and what lets it go on.

    Ends with 1 while anything is. Look at a few of the records first: `bbl waiting` names them,
    `bbl plan documents` says what would be done.
    """
    name = None if service is None else guarded(lambda: consumer(service))
    result = run(_braked(environment(env), name))
    now = SystemClock().now()
    show(result, json=json, render=lambda found: rendered(found, now))
    if result.held:
        raise typer.Exit(int(Exit.FINDING))


def release_brake(
    service: Annotated[
        str, typer.Argument(metavar="SERVICE", help="The service, as `bbl brake show` names it.")
    ],
    effect: Annotated[
        str,
        typer.Argument(
            metavar="EFFECT",
            help="What to let go on: upload, delete, detach, overwrite, record; by default all.",
            show_default=False,
        ),
    ] = "",
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Let what waits for a brake go on: as much as waits now, for a day, beyond the budget.

    Not for ever: what goes beyond the budget and that trips the brake again.
    """
    write = guarded(lambda: may_write(plan, yes))
    if effect:
        guarded(lambda: one_of(effect, list(_EFFECTS), "kind of effect"))
    result = run(_release(environment(env), service, effect, write=write))
    show(result, json=json, render=_rendered_release)


async def _braked(env: Environment, service: str | None) -> BrakedList:
    async with open_log(env) as log:
        return await braked(log, SystemClock(), service)


async def _release(env: Environment, service: str, effect: str, *, write: bool) -> Released:
    async with open_log(env) as log:
        return await release(log, SystemClock(), service, effect, write=write)


def rendered(result: BrakedList, now: datetime) -> Iterable[RenderableType]:
    """Yield the list for people."""
    if not result.entries:
        yield "No brake is on."
    else:
        rows = [
            (
                Text("held back" if one.held else "released", style="red" if one.held else "green"),
                _told(one, now),
            )
            for one in result.entries
        ]
        yield table(("state", "what, since when, why, how much waits, and what to press"), rows)
    if result.unreadable:
        yield f"{result.unreadable} waiting entries cannot be read by this version."


def _told(one: Braked, now: datetime) -> str:
    lines = [
        f"{_EFFECTS.get(one.effect, one.effect)} of {one.service}",
        f"{instant(one.since)} ({relative(one.since, now)}) by {one.by}",
        one.reason,
        f"{one.records} records wait with {one.waiting}" if one.held or one.records else "",
        f"{one.allowed} more than the budget until {instant(one.until)}" if one.until else "",
        one.press,
    ]
    return "\n".join(line for line in lines if line)


def _rendered_release(result: Released) -> Iterable[RenderableType]:
    if not result.releases:
        yield f"Nothing of {result.service} is held back; nothing to do."
        return
    verb = "Released" if result.written else "--yes releases"
    for one in result.releases:
        yield (
            f"{verb} {_EFFECTS.get(one.effect, one.effect)}: {one.records} records wait with "
            f"{one.waiting}; held back since {instant(one.since)}: {one.reason}."
        )
    asked = "looked at now" if result.written else "to be looked at"
    yield f"{result.asked} records {asked}; the allowance ends {instant(result.until)}."
