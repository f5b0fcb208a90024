"""`bbl cron`: what is due when, whether it is on time, what each instant came to, a run by hand."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.crons import (
    FINDINGS,
    CronHistory,
    CronRun,
    CronStand,
    CronStandList,
    Triggered,
    history,
    stands,
    trigger,
)
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
from bitbylaw_cli.records import instant, span
from bitbylaw_common.clock import SystemClock

Function = Annotated[
    str,
    typer.Argument(
        metavar="FUNCTION",
        help="The function id, as `steps::VMH Beteiligte Sync Cron::trigger::0`, or the step's "
        "name where it has one cron.",
    ),
]

_COLOURS = {"on time": "green", "due": "green", "running": "green", "waiting": "yellow"}


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(
        help="Crons: what is due next, what they did, run one now.", no_args_is_help=True
    )
    nouns.command("list")(list_crons)
    nouns.command("history")(show_history)
    nouns.command("trigger")(trigger_cron)
    cli.add_typer(nouns, name="cron")


def list_crons(*, env: EnvFile = None, json: AsJson = False) -> None:
    """List the crons of all services: next instant, last run, and whether they are on time.

    Ends with 1 when one is late, failing, or known to no worker.
    """
    result = run(_stands(environment(env)))
    now = SystemClock().now()
    show(result, json=json, render=lambda found: rendered(found, now))
    if any(one.state in FINDINGS for one in result.crons):
        raise typer.Exit(Exit.FINDING)


def show_history(
    function: Function,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="At most the last so many runs.")
    ] = 20,
    *,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Show a cron's last runs: instant, run id, outcome, what was missed, what was run by hand."""
    result = run(_history(environment(env), function, limit))
    show(result, json=json, render=rendered_history)


def trigger_cron(
    function: Function,
    by: Annotated[
        str, typer.Option(help="Who asks, for the record; no person's name.")
    ] = "operator",
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Run a cron now; its schedule stays as it is.

    The same as POST /_console/cron/trigger.
    """
    write = guarded(lambda: may_write(plan, yes))
    result = run(_trigger(environment(env), function, by, write=write))
    show(result, json=json, render=_rendered_trigger)


async def _stands(env: Environment) -> CronStandList:
    async with open_log(env) as log:
        return await stands(log, SystemClock().now())


async def _history(env: Environment, function: str, limit: int) -> CronHistory:
    async with open_log(env) as log:
        return await history(log, function, SystemClock().now(), limit=limit)


async def _trigger(env: Environment, function: str, by: str, *, write: bool) -> Triggered:
    async with open_log(env) as log:
        return await trigger(log, SystemClock(), function, write=write, by=by)


def rendered(result: CronStandList, now: datetime) -> Iterable[RenderableType]:
    """Yield the list for people."""
    if not result.crons:
        yield "No service declares a cron here. Does one run? `bbl up` starts all."
        return
    for service in dict.fromkeys(one.service for one in result.crons):
        rows = [
            (one.name, one.expression, _verdict(one), instant(one.next), _last(one, now), one.owner)
            for one in result.crons
            if one.service == service
        ]
        columns = ("cron", "expression", "verdict", "next", "last run", "owner")
        yield table(columns, rows, title=service)
    yield Text("\nInstants are UTC; expressions go by the clock in Berlin.", style="dim")


def _verdict(one: CronStand) -> Text:
    return Text(one.verdict, style=_COLOURS.get(one.state, "red"))


def _last(one: CronStand, now: datetime) -> str:
    if one.outcome is None or one.ended is None:
        return "never"
    return f"{one.outcome}, {span(now - one.ended)} ago"


def rendered_history(result: CronHistory) -> Iterable[RenderableType]:
    """Yield a cron's runs for people."""
    stand = result.stand
    yield Text.assemble(
        (stand.name, "bold"), f" ({stand.service}, {stand.expression}): ", _verdict(stand)
    )
    if not result.runs:
        yield "It has not run yet."
        return
    rows = [
        (
            "by hand" if one.manual else instant(one.instant),
            instant(one.began),
            one.outcome,
            one.attempts,
            _told(one),
            one.run_id,
        )
        for one in result.runs
    ]
    columns = ("instant", "began", "outcome", "attempts", "what happened", "run id")
    yield table(columns, rows, right=("attempts",))
    if result.more:
        yield Text(f"\nThere are older ones: --limit {2 * len(result.runs)}", style="dim")


def _told(one: CronRun) -> str:
    return "; ".join(words for words in (one.summary, one.reason) if words)


def _rendered_trigger(result: Triggered) -> str:
    if not result.written:
        return f"--yes would ask {result.service} for a run of {result.name} now."
    return (
        f"Asked {result.service} for a run of {result.name}: run {result.run_id}. "
        f"Next: bbl cron history '{result.function_id}'"
    )
