"""The command `bbl`: one typer app over an explicit list of nouns."""

import logging
from typing import Any

import typer
from typer.core import TyperGroup

from bitbylaw_cli.commands import (
    advoware,
    audit,
    brake,
    coverage,
    cron,
    demo,
    dlq,
    doctor,
    env,
    espocrm,
    functions,
    lag,
    locks,
    logs,
    pause,
    quarantine,
    replay,
    schema,
    sync,
    tail,
    topics,
    up,
    waiting,
    why,
)
from bitbylaw_cli.output import CommandError, fail
from bitbylaw_common.logs import configure

COMMANDS = (
    up,
    demo,
    doctor,
    why,
    waiting,
    coverage,
    audit,
    sync,
    lag,
    pause,
    brake,
    cron,
    dlq,
    replay,
    quarantine,
    locks,
    advoware,
    functions,
    topics,
    espocrm,
    tail,
    logs,
    env,
    schema,
)
"""What `bbl --help` lists, in this order."""


class _Telling(TyperGroup):
    """Ends a command in one line also where it is refused before its work begins."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except CommandError as refused:
            fail(refused.exit, str(refused))


def build() -> typer.Typer:
    """Return the command with everything it can do."""
    cli = typer.Typer(
        name="bbl",
        cls=_Telling,
        help="BitByLaw for operators and developers: run it, look into it, put it right.",
        epilog="Exit codes: 0 all well, 1 a finding, 2 wrong usage or settings, "
        "3 a system cannot be reached, 4 refused.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for noun in COMMANDS:
        noun.register(cli)
    return cli


def main() -> None:
    """Run the command that was typed."""
    # what goes wrong is told by the command itself, in one line; a library's lines would hide it
    configure("console", "error")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    build()()
