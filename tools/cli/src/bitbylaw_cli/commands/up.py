"""bbl up: run the whole system on this machine and show what it does."""

from pathlib import Path
from typing import Annotated

import typer

from bitbylaw_cli.connection import STATE_DIR
from bitbylaw_cli.output import AsJson, Confirmed, PlanOnly, err, guarded, may_write, out, run


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("up")(up)


def up(
    *,
    processes: Annotated[
        bool, typer.Option("--processes", help="Each service in a process of its own.")
    ] = False,
    env_file: Annotated[
        Path | None,
        typer.Option(
            "--env",
            metavar="FILE",
            help="Real systems from a .env file instead of the simulators; needs --yes.",
        ),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload", help="Start a service again when its source changes; implies --processes."
        ),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what Kafka, Redis and the simulators store.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where webhooks are posted to; 0: a free one.")
    ] = 3111,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    json: AsJson = False,
) -> None:
    """Run everything on this machine: Kafka, Redis, simulated outside systems, and the services.

    Shows the main job on sample documents, then where everything is. Ends with Ctrl-C and leaves
    nothing running.
    """
    # what runs the system takes a second to import; commands that only ask need not wait for it
    from bitbylaw_cli.local import Options, until_signalled  # noqa: PLC0415 - see above
    from bitbylaw_cli.showing import Showing, serve, show_plan  # noqa: PLC0415 - see above

    options = Options(
        STATE_DIR,
        port=port,
        keep=keep,
        processes=processes or reload,
        reload=reload,
        env_file=env_file,
    )
    if (env_file is not None or plan) and not guarded(lambda: may_write(plan, yes)):
        guarded(lambda: show_plan(options, json=json))
        return
    showing = Showing(err() if json else out(), json=json)
    showing.begin(options)
    run(until_signalled(serve(options, showing), showing.ending))
    showing.ended()
