"""`bbl audit`: compare everything now, and show what is off; nothing is written."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.auditing import Audit, Off, Stray, audit
from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.output import AsJson, Exit, err, run, show, table
from bitbylaw_cli.records import instant, span
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.runtime.overview import Reads
from bitbylaw_document_sync.app import open_deps
from bitbylaw_document_sync.deps import Deps

_LISTED = 50


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(help="Compare both sides of a sync now, read only.", no_args_is_help=True)
    nouns.command("documents")(audit_documents)
    cli.add_typer(nouns, name="audit")


def audit_documents(
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, help="At most so many of a kind; 0 lists all.")
    ] = _LISTED,
    *,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Compare every document, link, collection and file of EspoCRM and xAI, as the nightly run does.

    Reads only. Ends with 1 where something is off that nothing will mend by itself: a document
    that is not in line, a conflict, a file that is nobody's, a list that cannot be read.
    """
    result = run(_audit(environment(env), quiet=json))
    show(result, json=json, render=lambda found: rendered(found, limit=limit))
    if result.wrong:
        raise typer.Exit(Exit.FINDING)


@asynccontextmanager
async def open_sides(env: Environment) -> AsyncIterator[tuple[Reads, Deps]]:
    """Open what the service keeps, and both sides.

    Raises:
        SettingsError: the environment does not say how to reach them.
        CommandError: no broker answers.
    """
    async with open_log(env) as log, open_deps(env.values) as deps:
        yield log, deps


async def _audit(env: Environment, *, quiet: bool) -> Audit:
    console, clock = err(), SystemClock()
    async with open_sides(env) as (log, deps):
        if quiet or not console.is_terminal:
            return await audit(log, deps, clock)
        with console.status("reading") as status:
            return await audit(
                log,
                deps,
                clock,
                part=lambda number: status.update(f"reading: {number} parts so far"),
            )


def rendered(result: Audit, *, limit: int = _LISTED) -> Iterable[RenderableType]:
    """Yield it for people: the verdict, the classes, then what is off."""
    words = ", ".join(
        f"{number} {name.replace('_', ' ')}" for name, number in result.counts.items() if number
    )
    if result.wrong:
        yield Text(f"Something is off: {words}", style="red")
    else:
        yield Text(f"All well: {words or 'there is no document'}", style="green")
    yield f"compared in {span(result.ended - result.began)}, begun {instant(result.began)}"
    for why in result.uncovered:
        yield Text(f"not compared: {why}", style="red")
    yield from _listed(
        ("document", "standing", "rule", "why", "stands for it"),
        [_off(one) for one in result.off],
        limit,
    )
    yield from _listed(
        ("file that is nobody's", "in collection", "uploaded", "looks like the file of"),
        [_stray(one) for one in result.orphans],
        limit,
    )


def _off(one: Off) -> tuple[object, ...]:
    stands = "an entry that waits" if one.waits else ""
    if one.given_up is not None:
        stands = f"a dead letter since {instant(one.given_up)}"
    return one.entity_id, one.standing, one.rule, one.reason, stands


def _stray(one: Stray) -> tuple[object, ...]:
    place = f"{one.collection} (its document is not linked there)" if one.owned else one.collection
    return one.file_id, place, instant(one.created_at), one.twin_of


def _listed(
    columns: tuple[str, ...], rows: list[tuple[object, ...]], limit: int
) -> Iterable[RenderableType]:
    if not rows:
        return
    shown = rows[:limit] if limit else rows
    yield table(columns, shown)
    if len(shown) < len(rows):
        yield f"and {len(rows) - len(shown)} more; --limit 0 lists all"
