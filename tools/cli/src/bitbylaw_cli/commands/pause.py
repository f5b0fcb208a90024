"""`bbl pause`, `bbl resume`, `bbl paused`: what starts no run, why, and letting it run again."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.fleet_functions import functions
from bitbylaw_cli.output import (
    AsJson,
    CommandError,
    Confirmed,
    Exit,
    PlanOnly,
    guarded,
    may_write,
    run,
    show,
    table,
)
from bitbylaw_cli.pausing import Change, Stand, StandList, pause, resume, standing
from bitbylaw_cli.records import OWNERS, instant, one_of, relative
from bitbylaw_common.clock import SystemClock

_COLOURS = {"halted": "red", "paused": "yellow"}

Service = Annotated[
    str, typer.Argument(metavar="SERVICE", help="The service, as `bbl functions` names it.")
]
StepName = Annotated[
    str,
    typer.Argument(
        metavar="STEP",
        help="One step of it, by its name in quotes; by default all that take records.",
        show_default=False,
    ),
]


def register(cli: typer.Typer) -> None:
    """Add the verbs."""
    cli.command("pause")(pause_steps)
    cli.command("resume")(resume_steps)
    cli.command("paused")(list_paused)


def pause_steps(
    service: Service,
    step: StepName = "",
    reason: Annotated[
        str,
        typer.Option(help="Why, for whoever asks later; name nobody.", show_default=False),
    ] = "",
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Let no run of a service's steps start, until `bbl resume`. What runs may end.

    Records, retries and ticks wait; nothing is lost, no attempt is counted. A restart or a new
    version changes nothing about it.
    """
    write = guarded(lambda: may_write(plan, yes))
    why = guarded(lambda: _reason(reason))
    result = run(_pause(environment(env), service, step, why, write=write))
    show(result, json=json, render=_rendered_change)


def resume_steps(
    service: Service,
    step: StepName = "",
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Let a service's steps run again: ends pauses, and halts of every version.

    A step that was halted ramps up: 1 run at once, then 2, 4, 8. Ends with 1 where the step stays
    paused because its whole service is.
    """
    write = guarded(lambda: may_write(plan, yes))
    result = run(_resume(environment(env), service, step, write=write))
    show(result, json=json, render=_rendered_change)
    if result.still:
        raise typer.Exit(int(Exit.FINDING))


def list_paused(
    service: Annotated[
        str | None, typer.Argument(help="A service; by default all of them.")
    ] = None,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """List what is halted and paused: since when, by whom, why, and what ends it."""
    result = run(_standing(environment(env), service))
    now = SystemClock().now()
    show(result, json=json, render=lambda found: rendered(found, now))


def _reason(text: str) -> str:
    words = " ".join(text.split())
    if not words:
        raise CommandError(Exit.USAGE, "say why with --reason TEXT: whoever is on call will ask")
    return words


async def _pause(env: Environment, service: str, step: str, reason: str, *, write: bool) -> Change:
    fleet = await functions(env, None)
    async with open_log(env) as log:
        return await pause(
            log, SystemClock(), fleet.functions, service, step, reason=reason, write=write
        )


async def _resume(env: Environment, service: str, step: str, *, write: bool) -> Change:
    fleet = await functions(env, None)
    async with open_log(env) as log:
        return await resume(log, SystemClock(), fleet.functions, service, step, write=write)


async def _standing(env: Environment, service: str | None) -> StandList:
    async with open_log(env) as log:
        found = await standing(log, service)
    if service is not None and not found.entries:
        one_of(service, OWNERS, "service")
    return found


def rendered(result: StandList, now: datetime) -> Iterable[RenderableType]:
    """Yield the list for people."""
    if result.entries:
        rows = [
            (Text(one.kind.replace("_", " "), style=_COLOURS.get(one.kind, "")), _told(one, now))
            for one in result.entries
        ]
        yield table(("state", "what, since when, why, and what ends it"), rows)
        if any(one.kind == "halted" for one in result.entries):
            yield "A halt holds for its version alone; another version starts with a ramp."
    else:
        yield "Nothing is paused or halted."
    if result.unknown:
        yield f"{result.unknown} commands are of a kind that this version does not know."
    if result.unreadable:
        yield f"{result.unreadable} commands cannot be read; the services pass over them."


def _told(one: Stand, now: datetime) -> str:
    lines = [
        _subject(one),
        f"{instant(one.since)} ({relative(one.since, now)}) by {one.by}",
        one.reason,
        one.ends_with,
    ]
    return "\n".join(line for line in lines if line)


def _subject(one: Stand) -> str:
    if one.kind == "replay_cancelled":
        return f"replay {one.replay_id}"
    what = f"{one.step or 'every step'} of {one.service}"
    return f"{what}, version {one.code_version}" if one.code_version else what


def _rendered_change(result: Change) -> Iterable[RenderableType]:
    done = result.written
    for one in result.sets:
        verb = "Paused" if done else "--yes pauses"
        yield f"{verb} {_subject(one)}: {one.reason}."
        yield f"It ends with: {one.ends_with}"
    for one in result.ends:
        verb = "Ended" if done else "--yes ends"
        yield (
            f"{verb}: {_subject(one)}, {one.kind} since {instant(one.since)} by {one.by}: "
            f"{one.reason}."
        )
    if not result.sets and not result.ends:
        what = f"{result.step} of {result.service}" if result.step else result.service
        yield (
            f"{what} is paused for this reason already; nothing to do."
            if result.verb == "pause"
            else f"Nothing of {what} itself is paused or halted; nothing to do."
        )
    for one in result.still:
        yield f"It stays paused, because {_subject(one)} is: {one.reason}."
        yield f"That ends with: {one.ends_with}"
