"""How every command answers: tables for people, stable JSON with --json, one line when it fails."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import IntEnum
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import TypeAdapter
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bitbylaw_common.errors import LogUnavailableError, OutsideError, SettingsError

T = TypeVar("T")

PIPED_WIDTH = 240
"""Columns of a table that nobody's terminal limits, so that `grep` finds whole values."""


class Exit(IntEnum):
    """What a command's exit code means; the same in every command, for scripts."""

    OK = 0
    FINDING = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4


class CommandError(Exception):
    """A command cannot do what it was asked; `str()` is one line: what, where, what to do.

    Attributes:
        exit: the code the command ends with.
    """

    def __init__(self, exit: Exit, text: str) -> None:  # noqa: A002 - reads as `exit=Exit.REFUSED`
        super().__init__(text)
        self.exit = exit


AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs.")]
"""The option that every command takes."""

PlanOnly = Annotated[bool, typer.Option("--plan", help="Only show what would be done.")]
Confirmed = Annotated[bool, typer.Option("--yes", help="Do it.")]
"""The options of every command that writes; see `may_write`."""


def may_write(plan: bool, yes: bool) -> bool:
    """Return True for --yes, False for --plan.

    Raises:
        CommandError: neither or both were given.
    """
    if plan == yes:
        both = "--plan and --yes exclude each other" if plan else "this writes"
        raise CommandError(Exit.USAGE, f"{both}: give --plan to see what it would do, or --yes")
    return yes


def out() -> Console:
    """Return the console for answers, as wide as the terminal; wide where there is none."""
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def err() -> Console:
    """Return the console for errors and progress."""
    console = Console(stderr=True, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
) -> Table:
    """Return a table of plain text; None shows as a dash.

    Args:
        columns: their headings.
        rows: cells in the order of the columns; a rich `Text` keeps its colours.
        title: one line above it.
        right: the headings of the columns of numbers.
    """
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        made.add_column(
            Text(column),
            justify="right" if column in right else "left",
            overflow="fold",
            header_style="dim",
        )
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    return Text("-" if value is None or value == "" else str(value))


def as_json(result: Any, *, indent: int | None = 2) -> str:
    """Return a pydantic model, a dataclass, or a list of them as JSON; the same in, the same out."""
    return TypeAdapter(type(result)).dump_json(result, indent=indent).decode()


def show(
    result: T, *, json: bool, render: Callable[[T], RenderableType | Iterable[RenderableType]]
) -> None:
    """Print a result: as JSON for programs, else as `render` words it for people."""
    if json:
        print(as_json(result))
        return
    words = render(result)
    console = out()
    if isinstance(words, Iterable) and not isinstance(words, str | Text | Table):
        for part in words:
            console.print(part)
    else:
        console.print(words)


def fail(code: Exit, text: str) -> NoReturn:
    """Print one line to standard error and end the command."""
    console = err()
    console.print(Text(text), soft_wrap=True)
    raise typer.Exit(int(code))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work and return its result; what is known to go wrong ends it in one line.

    Ctrl-C ends it with 130, as shells say; a command that follows something catches
    `KeyboardInterrupt` around this, because there it is the usual end.
    """
    try:
        return asyncio.run(work)
    except CommandError as refused:
        fail(refused.exit, str(refused))
    except SettingsError as unfit:
        fail(Exit.USAGE, str(unfit))
    except LogUnavailableError as down:
        fail(Exit.UNREACHABLE, f"{down}; `bbl doctor` says what is reachable")
    except OutsideError as outside:
        fail(Exit.UNREACHABLE, f"{outside}; `bbl doctor` says what is reachable")


def guarded(work: Callable[[], T]) -> T:
    """Do what needs no event loop, with the same answers to what is known to go wrong."""

    async def asked() -> T:
        return work()

    return run(asked())


def flush() -> None:
    """Hand everything printed to whoever reads it."""
    sys.stdout.flush()
