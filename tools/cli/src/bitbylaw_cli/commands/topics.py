"""`bbl topics`: Kafka's topics beside the catalogue, brought in line, and as a page."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli import topic_page
from bitbylaw_cli.connection import EnvFile, Environment, environment, open_admin
from bitbylaw_cli.output import (
    AsJson,
    Confirmed,
    Exit,
    PlanOnly,
    as_json,
    guarded,
    may_write,
    run,
    show,
    table,
)
from bitbylaw_cli.topic_plan import TopicPlan, applied, planned

_MARKS = {"create": "green", "configure": "yellow", "refuse": "red"}


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(
        help="Kafka's topics: what differs from the catalogue, and bringing it in line.",
        no_args_is_help=True,
    )
    nouns.command("plan")(plan)
    nouns.command("apply")(apply)
    nouns.command("docs")(docs)
    cli.add_typer(nouns, name="topics")


def plan(env: EnvFile = None, json: AsJson = False) -> None:
    """Show what differs between Kafka's topics and the catalogue. Ends with 1 if anything does."""
    result = run(_planned(environment(env)))
    show(result, json=json, render=_rendered)
    if result.changes:
        raise typer.Exit(int(Exit.FINDING))


def apply(
    plan_only: PlanOnly = False,
    yes: Confirmed = False,
    replication: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Copies of each new topic. By default three, or as many as there are brokers.",
        ),
    ] = None,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Create missing topics and set differing settings. Nothing is ever deleted.

    A topic with another number of partitions is refused, and the command ends with 4: its keys
    would move.
    """
    if not guarded(lambda: may_write(plan_only, yes)):
        plan(env, json)
        return
    result = run(_applied(environment(env), replication))
    show(result, json=json, render=_rendered)
    if result.refused:
        raise typer.Exit(int(Exit.REFUSED))


def docs(json: AsJson = False) -> None:
    """Print docs/topics.md, or the catalogue as JSON. Asks no Kafka."""
    print(as_json(topic_page.rows()) if json else topic_page.markdown().rstrip("\n"))


async def _planned(env: Environment) -> TopicPlan:
    async with open_admin(env) as kafka:
        return await planned(kafka)


async def _applied(env: Environment, replication: int | None) -> TopicPlan:
    async with open_admin(env) as kafka:
        return await applied(kafka, replication=replication)


def _rendered(result: TopicPlan) -> Iterable[RenderableType]:
    if not result.changes:
        yield f"All {result.declared} topics are as declared."
        return
    rows = [
        (Text(change.kind, style=_MARKS.get(change.kind, "")), change.topic, change.detail)
        for change in result.changes
    ]
    yield table(("change", "topic", "what"), rows)
    if result.written:
        done = len(result.changes) - result.refused
        yield f"{done} of {result.declared} topics changed, {result.refused} refused."
    else:
        yield (
            f"{len(result.changes)} of {result.declared} topics differ; "
            "`bbl topics apply --yes` brings them in line."
        )
