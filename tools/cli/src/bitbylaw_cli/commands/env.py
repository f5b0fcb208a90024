"""bbl env: every name of the environment."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, environment
from bitbylaw_cli.environment_names import Names, example, names_of
from bitbylaw_cli.output import AsJson, Exit, guarded, show, table
from bitbylaw_cli.records import one_of
from bitbylaw_common.settings import ENV


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("env")(env)


def env(
    *,
    env_file: EnvFile = None,
    group: Annotated[
        str | None, typer.Option(help="Only this group: kafka, redis, espocrm, xai and so on.")
    ] = None,
    only_set: Annotated[bool, typer.Option("--set", help="Only what is set.")] = False,
    as_example: Annotated[
        bool, typer.Option("--example", help="Print a .env.example with every name.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List every environment name: its meaning, its default, and what is set (secrets as ***).

    Ends with 1 when a name is set that looks like ours and is read by nobody.
    """
    if as_example:
        print(example(), end="")
        return
    if group is not None:
        guarded(lambda: one_of(group, {row.group for row in ENV}, "group of names"))
    source = guarded(lambda: environment(env_file))
    everything = names_of(source.values, source.source)
    chosen = tuple(
        name
        for name in everything.names
        if (group is None or name.group == group) and (not only_set or name.value is not None)
    )
    shown = Names(everything.source, chosen, everything.problems)
    show(shown, json=json, render=_words)
    if shown.problems:
        raise typer.Exit(int(Exit.FINDING))


def _words(names: Names) -> Iterator[RenderableType]:
    columns = ("name", "group", "set to", "default", "secret", "meaning")
    rows = [
        (
            one.name,
            one.group,
            None if one.value is None else Text(one.value, style="green"),
            one.default,
            "secret" if one.secret else None,
            one.description,
        )
        for one in names.names
    ]
    yield table(columns, rows)
    yield Text(f"\nValues from {names.source}.", style="dim")
    for problem in names.problems:
        yield Text(problem, style="red")
