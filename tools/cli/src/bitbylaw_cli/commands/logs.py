"""bbl logs: the log files of the local system."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import RenderableType

from bitbylaw_cli.connection import STATE_DIR, running_stack
from bitbylaw_cli.log_lines import BACKENDS, Filter, LogLine, follow, read, worded
from bitbylaw_cli.output import AsJson, CommandError, Exit, as_json, flush, guarded, out, run, show
from bitbylaw_cli.records import OWNERS, one_of


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("logs")(logs)


def logs(
    *,
    service: Annotated[
        str | None,
        typer.Option(help="Only of this service; also: simulators, kafka, redis."),
    ] = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="This level and worse.")
    ] = "debug",
    grep: Annotated[
        str, typer.Option(metavar="TEXT", help="Only lines that hold this, whatever its case.")
    ] = "",
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")
    ] = False,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="At most the last so many; 0: all.")
    ] = 200,
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="State folder; `.devstack/demo` is that of bbl demo."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show what the services, and on request Kafka and Redis, wrote to their logs.

    With --json and --follow each line is one JSON object.
    """
    wanted = Filter(service, level, grep)
    folder = guarded(lambda: folder_of(state))
    lines = guarded(lambda: _lines(folder, wanted))[-count if count else 0 :]
    if not following:
        show(lines, json=json, render=_words)
        return
    for line in lines:
        _print(line, json=json)
    with suppress(KeyboardInterrupt):
        run(_follow(folder, wanted, json=json))


def _lines(folder: Path, wanted: Filter) -> list[LogLine]:
    found = read(folder, wanted)
    if not found and wanted.service is not None:
        seen = {name for line in read(folder, Filter()) for name in line.service.split("+")}
        files = {path.stem for path in folder.glob("*.log")}
        # a service that is silent so far may write its first line later
        one_of(wanted.service, seen | files | OWNERS | BACKENDS, "service or log")
    return found


def folder_of(state: Path | None) -> Path:
    """Return the log folder of a state folder, of the running system, or of the last one here.

    Raises:
        CommandError: there is none.
    """
    stack = running_stack() if state is None else None
    folder = Path(stack.logs) if stack is not None else (state or STATE_DIR) / "logs"
    if not folder.is_dir():
        raise CommandError(
            Exit.USAGE, f"{folder} does not exist: `bbl up` writes it, or name one with --state"
        )
    return folder


def _words(lines: list[LogLine]) -> Iterator[RenderableType]:
    return (worded(line) for line in lines)


async def _follow(folder: Path, wanted: Filter, *, json: bool) -> None:
    async for line in follow(folder, wanted):
        _print(line, json=json)
        flush()


def _print(line: LogLine, *, json: bool) -> None:
    if json:
        print(as_json(line, indent=None))
    else:
        out().print(worded(line), soft_wrap=True)
