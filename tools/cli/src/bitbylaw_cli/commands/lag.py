"""`bbl lag`: does a service keep up, and if not, since when, why, and what helps?"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live

from bitbylaw_cli.connection import EnvFile, Environment, environment
from bitbylaw_cli.lag_model import LagReport
from bitbylaw_cli.lag_page import rendered
from bitbylaw_cli.lag_reading import open_looks
from bitbylaw_cli.lagging import judge
from bitbylaw_cli.output import (
    AsJson,
    CommandError,
    Exit,
    as_json,
    err,
    flush,
    guarded,
    out,
    run,
    show,
)
from bitbylaw_cli.records import consumer
from bitbylaw_common.clock import Clock, SystemClock
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.topics import CONSUMERS

AGAIN_SECONDS = 2.0


def register(cli: typer.Typer) -> None:
    """Add the verb."""
    cli.command("lag")(lag)


def lag(
    service: Annotated[
        str | None, typer.Argument(help="A consuming service; by default all of them.")
    ] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="With --watch: how often. By default no end."),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.5, metavar="SECONDS", help="With --watch: the pause between.")
    ] = AGAIN_SECONDS,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Say whether a service keeps up; if not, why, since when, and which command helps next.

    Looks beside all services: joins no group, moves no offset. Ends with 1 where something was
    found, with 3 where Kafka does not answer; with --count by the last answer. With --watch and
    --json each line is one answer.
    """
    services = CONSUMERS if service is None else (guarded(lambda: consumer(service)),)
    meant = guarded(lambda: environment(env))
    clock = SystemClock()
    if not watch:
        report = run(_once(meant, services, clock))
        _show(report, json=json)
        _end(report)
        return
    try:
        last = run(_watched(meant, services, clock, every=every, count=count, as_lines=json))
    except KeyboardInterrupt:
        return
    _end(last)


def _show(report: LagReport, *, json: bool) -> None:
    if json or not report.unreachable:
        show(report, json=json, render=rendered)
    else:
        err().print(report.unreachable, soft_wrap=True)


def _end(report: LagReport) -> None:
    if report.unreachable:
        raise typer.Exit(int(Exit.UNREACHABLE))
    if not report.well:
        raise typer.Exit(int(Exit.FINDING))


async def _once(env: Environment, services: Sequence[str], clock: Clock) -> LagReport:
    async with aclosing(_reports(env, services, clock)) as reports:
        return await anext(reports)


async def _watched(
    env: Environment,
    services: Sequence[str],
    clock: Clock,
    *,
    every: float,
    count: int | None,
    as_lines: bool,
) -> LagReport:
    """Show one answer after the other; return the last of `count`."""
    console = out()
    shown = 0
    in_place = console.is_terminal and not as_lines
    async with aclosing(_reports(env, services, clock)) as reports:
        with Live(console=console, auto_refresh=False) if in_place else nullcontext() as live:
            async for report in reports:
                if as_lines:
                    print(as_json(report, indent=None))
                elif live is not None:
                    live.update(Group(*rendered(report)), refresh=True)
                else:
                    for part in rendered(report):
                        console.print(part)
                flush()
                shown += 1
                if shown == count:
                    return report
                await asyncio.sleep(every)
    raise AssertionError("the answers have no end")


async def _reports(
    env: Environment, services: Sequence[str], clock: Clock
) -> AsyncGenerator[LagReport, None]:
    """Yield one answer after the other, without end, over one connection while it holds."""
    while True:
        try:
            async with open_looks(env, clock) as looks:
                while True:
                    seen = await looks.at(services)
                    yield LagReport(at=clock.now(), services=tuple(judge(one) for one in seen))
        except LogUnavailableError as down:
            yield LagReport(at=clock.now(), unreachable=f"{down}; `bbl doctor` says what answers")
        except CommandError as refused:
            if refused.exit is not Exit.UNREACHABLE:
                raise
            yield LagReport(at=clock.now(), unreachable=str(refused))
