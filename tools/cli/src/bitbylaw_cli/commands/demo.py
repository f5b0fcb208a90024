"""bbl demo: show in a few minutes what the system does, and check it."""

from pathlib import Path
from typing import Annotated

import typer

from bitbylaw_cli.output import AsJson, Exit, err, guarded, run, show


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("demo")(demo)


def demo(
    *,
    documents: Annotated[
        Path | None,
        typer.Option(
            "--documents", metavar="DIR", help="Take the files of this folder instead of samples."
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the state: a second run shows that nothing is repeated."),
    ] = False,
    json: AsJson = False,
) -> None:
    """Run the main job from beginning to end, on free ports beside anything else, and check it.

    New, unchanged, moved, changed and deleted documents go from a simulated EspoCRM to a simulated
    xAI. Ends with 0 when all is as it should be, with 1 otherwise.
    """
    # what runs the system takes a second to import; commands that only ask need not wait for it
    from bitbylaw_cli.demo_words import Telling, demonstrate, words  # noqa: PLC0415 - see above
    from bitbylaw_cli.demonstration import files_of  # noqa: PLC0415 - see above
    from bitbylaw_cli.local import until_signalled  # noqa: PLC0415 - see above

    if documents is not None:
        folder = documents
        guarded(lambda: files_of(folder))
    telling = Telling(err())
    result = run(until_signalled(demonstrate(documents, telling, keep=keep), telling.ending))
    if result is None:
        raise typer.Exit(130)
    show(result, json=json, render=words)
    if not result.as_expected:
        raise typer.Exit(int(Exit.FINDING))
