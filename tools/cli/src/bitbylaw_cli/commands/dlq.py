"""`bbl dlq`: what services gave up on, by cause, one by one, and asked for again."""

import json as json_module
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.json import JSON

from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.letters import Letter, LetterList, Redrive, letter, letters, redrive
from bitbylaw_cli.output import (
    AsJson,
    CommandError,
    Confirmed,
    Exit,
    PlanOnly,
    guarded,
    may_write,
    run,
    show,
    table,
)
from bitbylaw_cli.records import consumer, instant, keep
from bitbylaw_common.clock import SystemClock

Service = Annotated[str, typer.Argument(help="The service that gave up, such as document-sync.")]
Which = Annotated[
    str,
    typer.Argument(
        help="The record's id, or the letter's place or origin (topic:partition:offset), or an "
        "event id or run id. Of several the last dead is meant."
    ),
]


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(help="Dead letters: what a service gave up on.", no_args_is_help=True)
    nouns.command("list")(list_letters)
    nouns.command("show")(show_letter)
    nouns.command("redrive")(redrive_letter)
    cli.add_typer(nouns, name="dlq")


def list_letters(
    service: Service,
    open_only: Annotated[
        bool,
        typer.Option(
            "--open",
            help="Leave out letters whose record was brought in line since. Reads the journal, "
            "which takes longer.",
        ),
    ] = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """List a service's dead letters, grouped by error and reason."""
    guarded(lambda: consumer(service))
    result = run(_letters(environment(env), service, open_only=open_only))
    show(result, json=json, render=rendered)


def show_letter(
    service: Service,
    which: Which,
    raw: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the bytes of an unreadable record to this new file. They may be "
            "personal data, so this needs --personal.",
        ),
    ] = None,
    personal: Annotated[
        bool, typer.Option("--personal", help="You may see personal data.")
    ] = False,
    *,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Show one dead letter: where it came from, how often it was tried, and its event."""
    guarded(lambda: _asked_for(service, raw, personal=personal))
    result = run(_letter(environment(env), service, which, raw))
    show(result, json=json, render=_rendered_letter)


def redrive_letter(
    service: Service,
    which: Which,
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Ask the service to run a dead letter's event again, once its cause is gone.

    The event only says "look at this record", so asking twice does no harm. The letter stays; a
    good run resolves it.
    """
    guarded(lambda: consumer(service))
    write = guarded(lambda: may_write(plan, yes))
    result = run(_redrive(environment(env), service, which, write=write))
    show(result, json=json, render=_rendered_redrive)


def _asked_for(service: str, raw: Path | None, *, personal: bool) -> None:
    consumer(service)
    if raw is not None and not personal:
        raise CommandError(
            Exit.REFUSED,
            "--raw writes bytes that may be personal data; if you may see them, add --personal",
        )


async def _letters(env: Environment, service: str, *, open_only: bool) -> LetterList:
    async with open_log(env) as log:
        return await letters(log, service, open_only=open_only)


async def _letter(env: Environment, service: str, which: str, raw: Path | None) -> Letter:
    async with open_log(env) as log:
        found, content = await letter(log, service, which)
    if raw is not None:
        if content is None:
            raise CommandError(
                Exit.REFUSED, f"{found.place} could be read, so it keeps no bytes; see its event"
            )
        keep(content, raw)
    return found


async def _redrive(env: Environment, service: str, which: str, *, write: bool) -> Redrive:
    async with open_log(env) as log:
        return await redrive(log, SystemClock(), service, which, write=write)


def rendered(result: LetterList) -> Iterable[RenderableType]:
    """Yield the list for people."""
    resolved = "" if result.resolved is None else f" ({result.resolved} resolved since)"
    if not result.groups:
        yield f"{result.service} has no dead letters{resolved}."
    else:
        rows = [
            (
                group.count,
                group.error,
                group.reason,
                group.step,
                instant(group.first),
                instant(group.last),
                ", ".join(group.examples),
            )
            for group in result.groups
        ]
        columns = ("count", "error", "reason", "step", "first died", "last died", "records")
        yield table(columns, rows, right=("count",))
        yield (
            f"{result.count} dead letters{resolved}; `bbl dlq show {result.service} RECORD` shows "
            "one."
        )
    if result.unreadable:
        yield f"{result.unreadable} letters cannot be read by this version."


def _rendered_letter(found: Letter) -> Iterable[RenderableType]:
    rows = [
        ("place", found.place),
        ("origin", found.origin),
        ("record", f"{found.entity} {found.entity_id}".strip()),
        ("step", found.step),
        ("error", found.error),
        ("reason", found.reason),
        ("attempts", found.attempts),
        ("first seen", instant(found.first_seen)),
        ("died", instant(found.died)),
        ("event id", found.event_id),
        ("run id", found.run_id),
        ("trace id", found.trace_id),
        ("code version", found.code_version),
    ]
    yield table(("", ""), rows)
    if found.event is not None:
        yield f"event on {found.event_topic}:"
        yield JSON(json_module.dumps(found.event), ensure_ascii=False)
    if found.raw_bytes is not None:
        yield (
            f"It could not be read; its {found.raw_bytes} bytes are kept. They may be personal "
            "data: --raw FILE --personal writes them to a file."
        )


def _rendered_redrive(result: Redrive) -> str:
    what = f"a run of {result.function_id} for {result.entity} {result.entity_id}"
    if not result.written:
        return f"--yes would ask {result.service} for {what}, from {result.letter}."
    return f"Asked {result.service} for {what}. Next: bbl why {result.entity} {result.entity_id}"
