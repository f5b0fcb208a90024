"""`bbl schema`: what programs may rely on, as a page and as JSON schemas."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from bitbylaw_cli.output import (
    AsJson,
    CommandError,
    Confirmed,
    Exit,
    PlanOnly,
    as_json,
    guarded,
    may_write,
    show,
    table,
)

if TYPE_CHECKING:
    from bitbylaw_cli.reference_model import ReferenceFiles


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(help="What programs may rely on.", no_args_is_help=True)
    nouns.command("cli")(cli_schema)
    cli.add_typer(nouns, name="schema")


def cli_schema(
    context: typer.Context,
    *,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the page, cli.md, and the schemas, cli/*.json, into this folder; needs "
            "--yes.",
        ),
    ] = None,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    json: AsJson = False,
) -> None:
    """Print docs/cli.md: every verb, what it answers with --json, and how it ends. Asks nobody.

    With --json the JSON schemas of all answers as well. With --into and --plan it lists the files
    that differ from the commands, and ends with 1 if any does.
    """
    # every verb's answer is imported for it; commands that only ask need not wait for them
    from bitbylaw_cli.reference import bring_in_line, page, reference  # noqa: PLC0415 - see above

    root: Any = context.find_root()
    if into is None:
        guarded(lambda: _needs_into(plan, yes))
        found = reference(root)
        print(as_json(found) if json else page(found).rstrip("\n"))
        return
    folder = into
    write = guarded(lambda: may_write(plan, yes))
    result = guarded(lambda: bring_in_line(root, folder, write=write))
    show(result, json=json, render=_rendered)
    if result.changes and not write:
        raise typer.Exit(int(Exit.FINDING))


def _needs_into(plan: bool, yes: bool) -> None:
    if plan or yes:
        raise CommandError(
            Exit.USAGE, "--plan and --yes are about files: name their folder with --into DIR"
        )


def _rendered(result: "ReferenceFiles") -> Iterable[RenderableType]:
    if not result.changes:
        yield f"The files in {result.folder} are as the commands say."
        return
    yield table(("change", "file"), [(one.change, one.path) for one in result.changes])
    count = "1 file" if len(result.changes) == 1 else f"{len(result.changes)} files"
    yield f"{count} written." if result.written else f"{count} differ; --yes writes them."
