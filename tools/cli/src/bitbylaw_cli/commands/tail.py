"""`bbl tail`: a topic's records, the last ones or as they come."""

import json as json_module
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.json import JSON
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, Environment, environment, open_log
from bitbylaw_cli.output import (
    AsJson,
    CommandError,
    Exit,
    as_json,
    flush,
    guarded,
    out,
    run,
    show,
)
from bitbylaw_cli.records import instant
from bitbylaw_cli.tailing import Tailed, TailedList, first, following, last, named, starts_of
from bitbylaw_common.topics import PARTITIONS

_COUNT = 10


def register(cli: typer.Typer) -> None:
    """Add the verb."""
    cli.command("tail")(tail)


def tail(
    topic: Annotated[str, typer.Argument(help="Its name, such as vmh.document.update.")],
    *,
    key: Annotated[
        str | None, typer.Option(help="Only records of this key, or of the record with this id.")
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="beginning|end|OFFSET",
            help="Where to begin. An offset needs --key or --partition. By default the last "
            "records are shown, with --follow those to come.",
        ),
    ] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, max=PARTITIONS - 1, help="Only this partition.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="How many. By default 10; --follow has no end."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    personal: Annotated[
        bool, typer.Option("--personal", help="Show a topic that may hold personal data.")
    ] = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Show records of a topic: place, time, key, headers and value.

    Reads beside all services: no offset moves. With --follow and --json each line is one record.
    """
    guarded(lambda: named(topic, personal=personal))
    starts = guarded(lambda: _starts(topic, key, begin, partition, follow=follow))
    system = environment(env)
    if follow:
        try:
            run(_follow(system, starts, key, count, as_lines=json))
        except KeyboardInterrupt:
            return
    else:
        from_end = begin in (None, "end")
        result = run(_shown(system, topic, starts, key, count or _COUNT, from_end=from_end))
        show(result, json=json, render=_rendered)


def _starts(
    topic: str, key: str | None, begin: str | None, partition: int | None, *, follow: bool
) -> dict[tuple[str, int], int]:
    words = begin or ("end" if follow else "beginning")
    if words in ("beginning", "end"):
        start = -1 if words == "end" and follow else 0
    elif not (words.isascii() and words.isdigit()):
        raise CommandError(
            Exit.USAGE, f"--from {words!r} is neither beginning nor end nor an offset"
        )
    elif key is None and partition is None:
        raise CommandError(
            Exit.USAGE,
            "an offset counts within one partition: name it with --partition, or a key with --key",
        )
    else:
        start = int(words)
    return starts_of(topic, key=key, start=start, partition=partition)


async def _shown(
    env: Environment,
    topic: str,
    starts: dict[tuple[str, int], int],
    key: str | None,
    count: int,
    *,
    from_end: bool,
) -> TailedList:
    async with open_log(env) as log:
        take = last if from_end else first
        records = await take(log, starts, key=key, count=count)
        return TailedList(topic=topic, records=tuple(records))


async def _follow(
    env: Environment,
    starts: dict[tuple[str, int], int],
    key: str | None,
    count: int | None,
    *,
    as_lines: bool,
) -> None:
    console = out()
    async with open_log(env) as log:
        async for record in following(log, starts, key=key, count=count):
            if as_lines:
                print(as_json(record, indent=None))
            else:
                for part in _record(record):
                    console.print(part)
            flush()


def _rendered(result: TailedList) -> Iterable[RenderableType]:
    if not result.records:
        yield f"{result.topic} holds no such record."
    for record in result.records:
        yield from _record(record)


def _record(record: Tailed) -> Iterable[RenderableType]:
    yield Text.assemble(
        (f"{record.topic}:{record.partition}:{record.offset}", "bold"),
        f"  {instant(record.time)}  ",
        (record.key or "(no key)", "cyan"),
    )
    for name, value in record.headers.items():
        yield Text(f"  {name}: {value}", style="dim")
    if record.raw_bytes is None:
        yield Text("  (tombstone)", style="yellow")
    elif not record.readable:
        yield Text(f"  (no JSON, {record.raw_bytes} bytes, not shown)", style="yellow")
    else:
        yield JSON(json_module.dumps(record.value), ensure_ascii=False)
