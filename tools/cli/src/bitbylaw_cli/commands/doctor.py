"""bbl doctor: is everything there, set, and answering?"""

from collections.abc import Iterator

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, environment
from bitbylaw_cli.output import AsJson, Exit, guarded, run, show, table

_COLOURS = {"ok": "green", "finding": "red", "unknown": "yellow"}


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("doctor")(doctor)


def doctor(*, env: EnvFile = None, json: AsJson = False) -> None:
    """Check programs, settings, Kafka and its topics, Redis, EspoCRM, xAI and Advoware; writes nothing.

    Ends with 1 when something is found.
    """
    # the clients of all outside systems; commands that do not ask them need not wait for them
    from bitbylaw_cli.checkup import Checkup, checkup  # noqa: PLC0415 - see above

    def words(found: Checkup) -> Iterator[RenderableType]:
        rows = [
            (
                Text(check.state, style=_COLOURS[check.state]),
                check.what,
                check.found,
                check.remedy if check.state != "ok" else "",
            )
            for check in found.checks
        ]
        yield table(("", "what", "found", "what to do"), rows)
        count = found.findings
        verdict = "Nothing found" if not count else f"{count} to put right"
        yield Text(f"\n{verdict}. Settings from {found.source}.", style="red" if count else "green")

    meant = guarded(lambda: environment(env))
    result = run(checkup(meant))
    show(result, json=json, render=words)
    if result.findings:
        raise typer.Exit(int(Exit.FINDING))
