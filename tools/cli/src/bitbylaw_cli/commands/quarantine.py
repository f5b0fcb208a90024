"""`bbl quarantine`: webhooks that could not be read, looked at, released and dropped."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.held import Held, HeldList, Release, drop, entry, held, raw_of, release
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
from bitbylaw_cli.records import instant, keep
from bitbylaw_common.clock import SystemClock

EntryId = Annotated[
    str, typer.Argument(metavar="ID", help="The entry, as `bbl quarantine list` names it.")
]


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(
        help="Webhooks that were authentic and could not be read.", no_args_is_help=True
    )
    nouns.command("list")(list_entries)
    nouns.command("show")(show_entry)
    nouns.command("release")(release_entry)
    nouns.command("drop")(drop_entry)
    cli.add_typer(nouns, name="quarantine")


def list_entries(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that were released or dropped.")
    ] = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """List the entries that wait for a decision; never what they hold."""
    result = run(_held(environment(env), everything=everything))
    show(result, json=json, render=rendered)


def show_entry(
    quarantine_id: EntryId,
    raw: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the exact bytes to this new file, readable by you alone. They may be "
            "personal data.",
        ),
    ] = None,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Show one entry: route, reason, size, and what was decided about it."""
    result = run(_entry(environment(env), quarantine_id, raw))
    show(result, json=json, render=_rendered_entry)


def release_entry(
    quarantine_id: EntryId,
    ids: Annotated[
        str | None,
        typer.Option(
            metavar="ID,ID",
            help="The records that the entry is about, where it cannot be read: each becomes one "
            "event. By default the entry is read again by today's rules.",
        ),
    ] = None,
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Publish what an entry says, and close it.

    Parts that cannot be read even now keep the entry open.
    """
    write = guarded(lambda: may_write(plan, yes))
    named = guarded(lambda: _ids(ids))
    result = run(_release(environment(env), quarantine_id, named, write=write))
    show(result, json=json, render=_rendered_release)


def drop_entry(
    quarantine_id: EntryId,
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Close an entry without publishing anything. Its bytes stay until they expire."""
    write = guarded(lambda: may_write(plan, yes))
    result = run(_drop(environment(env), quarantine_id, write=write))
    show(result, json=json, render=_rendered_release)


def _ids(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    named = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not named:
        raise CommandError(Exit.USAGE, "--ids names no record: give ids separated by commas")
    return named


async def _held(env: Environment, *, everything: bool) -> HeldList:
    async with open_log(env) as log:
        return await held(log, everything=everything)


async def _entry(env: Environment, quarantine_id: str, raw: Path | None) -> Held:
    async with open_log(env) as log:
        found, content = await entry(log, quarantine_id)
    if raw is not None:
        keep(raw_of(content), raw)
    return found


async def _release(
    env: Environment, quarantine_id: str, ids: tuple[str, ...], *, write: bool
) -> Release:
    async with open_log(env) as log:
        return await release(log, SystemClock(), quarantine_id, ids=ids, write=write)


async def _drop(env: Environment, quarantine_id: str, *, write: bool) -> Release:
    async with open_log(env) as log:
        return await drop(log, SystemClock(), quarantine_id, write=write)


def rendered(result: HeldList) -> Iterable[RenderableType]:
    """Yield the list for people."""
    if result.entries:
        rows = [
            (
                one.quarantine_id,
                instant(one.last),
                one.times,
                one.route,
                "whole body" if one.item is None else f"item {one.item}",
                one.raw_bytes,
                one.reason,
                _state(one),
            )
            for one in result.entries
        ]
        columns = ("id", "received", "times", "route", "part", "bytes", "reason", "state")
        yield table(columns, rows, right=("times", "bytes"))
        yield (
            f"{result.open} open, {result.resolved} decided; `bbl quarantine show ID`, then "
            "release or drop it."
        )
    else:
        yield f"Nothing waits in the quarantine ({result.resolved} entries were decided)."
    if result.unreadable:
        yield f"{result.unreadable} records cannot be read by this version."


def _state(one: Held) -> str:
    if one.open:
        return "open again" if one.how else "open"
    if one.how == "dropped":
        return f"dropped {instant(one.resolved)}"
    return f"released {instant(one.resolved)}, {one.events} events"


def _rendered_entry(one: Held) -> RenderableType:
    rows = [
        ("id", one.quarantine_id),
        ("route", one.route),
        ("webhook", one.webhook_id or "unsigned"),
        ("part", "whole body" if one.item is None else f"item {one.item} of the array"),
        ("reason", one.reason),
        ("bytes", one.raw_bytes),
        ("first received", instant(one.first)),
        ("last received", instant(one.last)),
        ("times", one.times),
        ("state", _state(one)),
        ("decided by", one.by),
        ("place", one.place),
    ]
    return table(("", ""), rows)


def _rendered_release(result: Release) -> Iterable[RenderableType]:
    if result.publishes:
        rows = [(one.topic, one.entity_type, one.entity_id, one.action) for one in result.publishes]
        yield table(("event on", "entity", "record", "action"), rows)
    for fault in result.still:
        yield f"Still unreadable: {fault}"
    closes = "closes the entry" if result.resolves else "leaves the entry open"
    if result.written:
        closed = "closed" if result.resolves else "left open"
        yield f"{len(result.publishes)} events published, entry {result.quarantine_id} {closed}."
    else:
        yield f"--yes publishes {len(result.publishes)} events and {closes}."
