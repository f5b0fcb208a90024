"""`bbl locks`: which records are worked on, by whom, and how to free one whose holder is gone."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import RenderableType

from bitbylaw_cli.connection import EnvFile, Environment, environment
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
from bitbylaw_cli.record_locks import LockList, RecordLock, Release, held_locks, release
from bitbylaw_cli.records import instant, relative
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import Transient
from bitbylaw_common.locks import LockBook, lock_book
from bitbylaw_common.settings import RedisSettings

_COLUMNS = ("record", "service", "process", "taken", "", "frees itself", "holder")


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(
        help="Locks: which records are worked on, and by whom.", invoke_without_command=True
    )
    nouns.callback()(list_locks)
    nouns.command("release")(release_lock)
    cli.add_typer(nouns, name="locks")


def list_locks(context: typer.Context, env: EnvFile = None, json: AsJson = False) -> None:
    """List which records are worked on, by whom and since when.

    A lock is held around each run and freed at its end; a dead holder's frees itself, and workers
    of the same service take it over at once.
    """
    if context.invoked_subcommand is not None:
        return
    meant = guarded(lambda: environment(env))
    result = run(_listed(meant))
    now = SystemClock().now()
    show(result, json=json, render=lambda found: rendered(found, now))


def release_lock(
    entity: Annotated[str, typer.Argument(help="The kind of record, such as document.")],
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="The record's id.")],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also where its holder seems to be at work.")
    ] = False,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Free the lock on a record whose holder is gone.

    A holder that lives takes a freed lock again within ten seconds, unless another has it then;
    if so, its run ends without another write.
    """
    write = guarded(lambda: may_write(plan, yes))
    meant = guarded(lambda: environment(env))
    result = run(_released(meant, entity, entity_id, write=write, force=force))
    show(result, json=json, render=_rendered_release)


@asynccontextmanager
async def _opened(env: Environment) -> AsyncIterator[LockBook]:
    """Open the locks for the block.

    Raises:
        SettingsError: the environment does not say how to reach Redis.
        CommandError: it does not answer.
    """
    settings = RedisSettings.from_env(env.values)
    address = urlsplit(settings.connection_url(0).get_secret_value())  # shown without the login
    try:
        async with lock_book(settings) as book:
            yield book
    except Transient as down:
        raise CommandError(
            Exit.UNREACHABLE,
            f"Redis does not answer at {address.hostname}:{address.port or 6379} (from "
            f"{env.source}; {down}): correct REDIS_URL or REDIS_HOST, or start it; `bbl doctor` "
            "tells more",
        ) from None


async def _listed(env: Environment) -> LockList:
    async with _opened(env) as book:
        return await held_locks(book)


async def _released(
    env: Environment, entity: str, entity_id: str, *, write: bool, force: bool
) -> Release:
    async with _opened(env) as book:
        return await release(book, entity, entity_id, write=write, force=force)


def rendered(result: LockList, now: datetime) -> Iterable[RenderableType]:
    """Yield the list for people."""
    if not result.locks:
        yield "No record is locked."
        return
    rows = [
        (
            f"{lock.entity} {lock.entity_id}",
            lock.service or "none of ours",
            lock.process,
            instant(lock.taken),
            "" if lock.taken is None else relative(lock.taken, now),
            "never" if lock.seconds_left is None else f"in {lock.seconds_left:.0f} s",
            _holder(lock),
        )
        for lock in result.locks
    ]
    yield table(_COLUMNS, rows)


def _holder(lock: RecordLock) -> str:
    if not lock.service:
        return "unknown"
    return "at work" if lock.renewed else "gone, or stands still"


def _rendered_release(result: Release) -> str:
    lock = result.lock
    holder = f"{lock.service} ({lock.process})" if lock.service else "none of our services"
    what = f"the lock on {lock.entity} {lock.entity_id}, held by {holder}"
    return f"Freed {what}." if result.written else f"--yes would free {what}."
