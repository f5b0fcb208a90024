"""`bbl dlq`: what services gave up on, by cause, one by one, and asked for again."""

import json as json_module
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.json import JSON
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.letters import (
    Issue,
    IssueList,
    Letter,
    LetterList,
    Redrive,
    RedriveList,
    issues,
    letter,
    letters,
    redrive,
    redrive_all,
)
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
    nouns.command("issues")(list_issues)
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


def list_issues(service: Service, *, env: EnvFile = None, json: AsJson = False) -> None:
    """List the causes of a service's dead letters, how far each is put right, and what helps.

    Reads the journal. Ends with 1 while a cause has letters that no good run resolved.
    """
    guarded(lambda: consumer(service))
    result = run(_issues(environment(env), service))
    show(result, json=json, render=rendered_issues)
    if not all(issue.settled for issue in result.issues):
        raise typer.Exit(Exit.FINDING)


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
    which: Annotated[
        str | None,
        typer.Argument(
            help="One letter: the record's id, or the letter's place or origin "
            "(topic:partition:offset), or an event id or run id. Of several the last dead is "
            "meant. By default all that are open."
        ),
    ] = None,
    issue: Annotated[
        str | None,
        typer.Option(
            metavar="N|CAUSE",
            help="All open letters of one cause: its number in `bbl dlq issues`, or words of its "
            "error or reason.",
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Who asks, for the record; no person's name.")
    ] = "operator",
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Ask the service to run dead letters' events again, once their cause is gone.

    They are asked for in the order in which they came, each letter once: a second time is refused
    with 4, unless its record died anew. The letters stay; a good run resolves them.
    """
    guarded(lambda: consumer(service))
    write = guarded(lambda: may_write(plan, yes))
    system = environment(env)
    if which is not None:
        guarded(lambda: _one_or_many(issue))
        one = run(_redrive(system, service, which, by, write=write))
        show(one, json=json, render=_rendered_redrive)
        return
    many = run(_redrive_all(system, service, issue, by, write=write))
    show(many, json=json, render=_rendered_redrives)


def _one_or_many(issue: str | None) -> None:
    if issue is not None:
        raise CommandError(Exit.USAGE, "name one letter or an --issue, not both")


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


async def _issues(env: Environment, service: str) -> IssueList:
    async with open_log(env) as log:
        return await issues(log, service)


async def _redrive(env: Environment, service: str, which: str, by: str, *, write: bool) -> Redrive:
    async with open_log(env) as log:
        return await redrive(log, SystemClock(), service, which, write=write, by=by)


async def _redrive_all(
    env: Environment, service: str, cause: str | None, by: str, *, write: bool
) -> RedriveList:
    async with open_log(env) as log:
        return await redrive_all(log, SystemClock(), service, cause=cause, write=write, by=by)


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


def rendered_issues(result: IssueList) -> Iterable[RenderableType]:
    """Yield the causes for people."""
    if not result.issues:
        yield f"{result.service} has no dead letters."
    else:
        for issue in result.issues:
            yield from _issue(issue)
    if result.unreadable:
        yield f"{result.unreadable} letters cannot be read by this version."


def _issue(issue: Issue) -> Iterable[RenderableType]:
    """Yield one cause: its words, how far it is put right, which records, what helps."""
    style = "green" if issue.settled else "bold"
    yield Text(f"issue {issue.number}  {issue.error}: {issue.reason}", style=style)
    counted = (
        (issue.open, "open"),
        (issue.redriven, "asked for again"),
        (issue.resolved, "resolved since"),
        (issue.unreadable, "without an event"),
    )
    counts = ", ".join(f"{count} {words}" for count, words in counted if count)
    letters_ = "1 letter" if issue.count == 1 else f"{issue.count} letters"
    step = f"{issue.step}: " if issue.step else ""
    yield f"  {step}{letters_}, {counts}"
    to_last = f" to {instant(issue.last)}" if issue.last != issue.first else ""
    yield f"  died {instant(issue.first)}{to_last}"
    more = ", ..." if issue.count > len(issue.examples) else ""
    yield f"  {', '.join(issue.examples)}{more}"
    if issue.command:
        yield Text(f"  {issue.command}", style="cyan")


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
        ("redriven", f"{instant(found.redriven)} by {found.redriven_by}" if found.redriven else ""),
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
    how = "An earlier redrive had asked" if result.found else "Asked"
    return f"{how} {result.service} for {what}. Next: bbl why {result.entity} {result.entity_id}"


def _rendered_redrives(result: RedriveList) -> Iterable[RenderableType]:
    counted = (
        (result.redriven, "asked for before"),
        (result.resolved, "in line since"),
        (result.unreadable, "without an event"),
    )
    others = ", ".join(f"{count} {words}" for count, words in counted if count)
    passed_over = f" Passed over: {others}." if others else ""
    if not result.redrives:
        yield f"{result.service} has no open letter there.{passed_over}"
        return
    rows = [
        (number, one.letter, f"{one.entity} {one.entity_id}", one.function_id)
        for number, one in enumerate(result.redrives, start=1)
    ]
    yield table(("", "letter", "record", "function"), rows, right=("",))
    count = len(result.redrives)
    runs = "1 run" if count == 1 else f"{count} runs"
    if not result.written:
        yield f"--yes would ask {result.service} for {runs}, in this order.{passed_over}"
        return
    found = sum(one.found for one in result.redrives)
    before = f" {found} had been asked for by an earlier redrive that died." if found else ""
    yield (
        f"Asked {result.service} for {runs}, in this order.{before}{passed_over} "
        f"Next: bbl dlq issues {result.service}"
    )
