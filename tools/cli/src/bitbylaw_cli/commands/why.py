"""`bbl why`: one record's story, verdict first."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.chronicle import FINDINGS, Moment, State, Story, entity_of, why
from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.output import AsJson, Exit, guarded, run, show, table
from bitbylaw_cli.records import instant
from bitbylaw_common.clock import SystemClock

_LAST = 30
_COLOURS: dict[State, str] = {
    "in line": "green",
    "dead": "red",
    "failing": "red",
    "interrupted": "red",
    "never seen": "yellow",
}


def register(cli: typer.Typer) -> None:
    """Add the verb."""
    cli.command("why")(show_why)


def show_why(
    entity: Annotated[
        str, typer.Argument(help="What kind: document, beteiligte, CDokumente and so on.")
    ],
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="Its id in EspoCRM.")],
    last: Annotated[
        int, typer.Option("--last", min=0, help="How many of the last moments; 0 shows all.")
    ] = _LAST,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Tell a record's story: what came in, what each run decided and did, what is planned.

    The first line is the verdict. Ends with 1 where something failed and waits, was interrupted,
    or was given up.
    """
    kind = guarded(lambda: entity_of(entity))
    story = run(_why(environment(env), kind, entity_id))
    show(story, json=json, render=lambda told: rendered(told, last=last))
    if story.state in FINDINGS:
        raise typer.Exit(int(Exit.FINDING))


async def _why(env: Environment, entity: str, entity_id: str) -> Story:
    async with open_log(env) as log:
        return await why(log, entity, entity_id, SystemClock().now())


def rendered(story: Story, *, last: int = _LAST) -> Iterable[RenderableType]:
    """Yield the story for people: the verdict, then the last moments in the order of time."""
    yield Text(story.verdict, style=f"bold {_COLOURS.get(story.state, '')}".strip())
    moments = story.moments[-last:] if last else story.moments
    if moments:
        yield ""
    if len(moments) < len(story.moments):
        yield Text(f"{len(story.moments) - len(moments)} earlier moments; --last 0", style="dim")
    if moments:
        rows = [(instant(moment.at), _took(moment), _words(moment)) for moment in moments]
        yield table(("when", "ms", "what"), rows, right=("ms",))
    for plan in story.planned:
        yield Text(f"{instant(plan.due)}  planned: {plan.step} looks at it again ({plan.reason})")
    if story.unreadable:
        yield f"{story.unreadable} records about it cannot be read by this version."


def _took(moment: Moment) -> Text:
    return Text("" if moment.milliseconds is None else str(moment.milliseconds))


def _words(moment: Moment) -> Text:
    style = {"interrupted": "red", "unreadable": "yellow"}.get(moment.kind, "")
    words = Text(moment.words, style=style)
    for detail in moment.details:
        words.append(f"\n  {detail}", style="dim")
    return words
