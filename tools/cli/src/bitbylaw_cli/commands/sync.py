"""`bbl sync`, `bbl plan`, `bbl apply`: what a sync would do about records, and having it done now."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from bitbylaw_cli.commands.audit import open_sides
from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.output import (
    AsJson,
    CommandError,
    Confirmed,
    Exit,
    PlanOnly,
    err,
    guarded,
    may_write,
    run,
    show,
    table,
)
from bitbylaw_cli.syncing import SyncPlan, apply, chosen, plan
from bitbylaw_common.clock import SystemClock

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="Documents, by EspoCRM's ids.", show_default=False),
]
AuditFile = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        metavar="FILE",
        help="Take what an audit found off: the answer of `bbl audit documents --json`; - reads it "
        "from standard input.",
        allow_dash=True,
    ),
]


def register(cli: typer.Typer) -> None:
    """Add the verbs."""
    syncs = typer.Typer(help="Have a record brought in line now.", no_args_is_help=True)
    syncs.command("document")(sync_document)
    cli.add_typer(syncs, name="sync")
    plans = typer.Typer(help="What a sync would do now, read only.", no_args_is_help=True)
    plans.command("documents")(plan_documents)
    cli.add_typer(plans, name="plan")
    applies = typer.Typer(help="Have many records brought in line now.", no_args_is_help=True)
    applies.command("documents")(apply_documents)
    cli.add_typer(applies, name="apply")


def sync_document(
    document_id: Annotated[
        str, typer.Argument(metavar="ID", help="The document, by EspoCRM's id.")
    ],
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Ask for one run about a document now; with --plan read both sides and say what it would do.

    The run ends as `bbl why document ID` tells. A retry or a wait of the document is answered too.
    """
    write = guarded(lambda: may_write(plan, yes))
    _show(environment(env), (document_id,), write=write, json=json)


def plan_documents(
    ids: Ids = None,
    audit: AuditFile = None,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Say what runs about these documents would do now; both sides are read, nothing is written.

    Ends with 1 where anything would be done, or cannot be told.
    """
    wanted = guarded(lambda: chosen(ids or (), _text(audit)))
    result = _show(environment(env), wanted, write=False, json=json)
    if not result.quiet:
        raise typer.Exit(int(Exit.FINDING))


def apply_documents(
    ids: Ids = None,
    audit: AuditFile = None,
    *,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Ask for one run about each of these documents now; with --plan say what they would do."""
    write = guarded(lambda: may_write(plan, yes))
    wanted = guarded(lambda: chosen(ids or (), _text(audit)))
    _show(environment(env), wanted, write=write, json=json)


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as unfit:
        raise CommandError(Exit.USAGE, f"{path}: cannot be read: {unfit}") from None


def _show(env: Environment, ids: Sequence[str], *, write: bool, json: bool) -> SyncPlan:
    result = run(_applied(env, ids) if write else _planned(env, ids, quiet=json))
    show(result, json=json, render=rendered)
    return result


async def _applied(env: Environment, ids: Sequence[str]) -> SyncPlan:
    async with open_log(env) as log:
        return await apply(log, SystemClock(), ids)


async def _planned(env: Environment, ids: Sequence[str], *, quiet: bool) -> SyncPlan:
    console = err()
    async with open_sides(env) as (log, deps):
        if quiet or not console.is_terminal:
            return await plan(log, deps, SystemClock(), ids)
        with console.status("reading") as status:

            def part(number: int) -> None:
                status.update(f"reading: {number} of {len(ids)}")

            return await plan(log, deps, SystemClock(), ids, part=part)


def rendered(result: SyncPlan) -> Iterable[RenderableType]:
    """Yield it for people."""
    if result.written:
        yield f"Asked {result.service} for {len(result.records)} runs."
        for one in result.records[:20]:
            yield f"{one.entity_id}: `bbl why {result.entity} {one.entity_id}` tells how it ended"
        return
    if not result.records:
        yield "Nothing is off; nothing to do."
        return
    rows = [
        (
            one.entity_id,
            one.rule,
            "\n".join(
                line
                for line in (
                    one.error,
                    one.reason,
                    *(f"- {action}" for action in one.actions),
                    "- and what is left to do after that" if one.more else "",
                    f"replaces what a person wrote: {', '.join(one.overwrites)}"
                    if one.overwrites
                    else "",
                    f"ends: {one.ends}" if one.ends else "",
                )
                if line
            ),
        )
        for one in result.records
    ]
    yield table((result.entity, "rule", "what a run would do now"), rows)
