"""`bbl coverage`: since when no change can have been missed, and what is not in line yet."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.covering import FINDINGS, Coverage, coverage
from bitbylaw_cli.output import AsJson, Exit, run, show, table
from bitbylaw_cli.records import instant, relative, span
from bitbylaw_common.clock import SystemClock

_COLUMNS = ("document", "state", "age", "checks", "what a run would do")


def register(cli: typer.Typer) -> None:
    """Add the verb."""
    cli.command("coverage")(show_coverage)


def show_coverage(*, env: EnvFile = None, json: AsJson = False) -> None:
    """Say until when every change of the CRM was seen, whether or not a webhook told of it.

    Ends with 1 where that is too long ago, where lists cannot be read, or where documents are not
    in line and nothing stands for them.
    """
    result = run(_coverage(environment(env)))
    now = SystemClock().now()
    show(result, json=json, render=lambda found: rendered(found, now))
    if result.state in FINDINGS:
        raise typer.Exit(Exit.FINDING)


async def _coverage(env: Environment) -> Coverage:
    async with open_log(env) as log:
        return await coverage(log, SystemClock().now())


def rendered(result: Coverage, now: datetime) -> Iterable[RenderableType]:
    """Yield it for people: the verdict, the facts, then the gaps by age."""
    colour = "red" if result.state in FINDINGS else "green"
    yield Text(f"{result.entity}: {result.verdict}", style=colour)
    if result.complete_until is not None:
        since = instant(result.complete_since)
        yield (
            f"complete from {since} to {instant(result.complete_until)} "
            f"({relative(result.complete_until, now)}); {result.documents} documents judged then"
        )
    if result.compared is not None:
        words = ", ".join(
            f"{number} {name.replace('_', ' ')}"
            for name, number in result.compared.counts.items()
            if number
        )
        began = result.compared.began
        yield f"all compared {relative(began, now)} ({instant(began)}): {words or 'no document'}"
    for why in result.uncovered:
        yield Text(f"not covered: {why}", style="red")
    if result.gaps:
        rows = [
            (
                gap.entity_id,
                Text(gap.state, style="red" if gap.state in ("overdue", "given up") else ""),
                span(timedelta(seconds=gap.age_seconds)),
                gap.told,
                gap.rule,
            )
            for gap in result.gaps
        ]
        yield table(_COLUMNS, rows, right=("age", "checks"))
    if result.more_gaps:
        yield f"and {result.more_gaps} more"
