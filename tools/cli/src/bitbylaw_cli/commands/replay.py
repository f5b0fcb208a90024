"""`bbl replay`: a range of records asked for again; how far replays are; calling one off."""

import asyncio
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text
from typer.core import TyperGroup

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
from bitbylaw_cli.records import instant, span
from bitbylaw_cli.replaying import (
    RATE,
    Cancellation,
    Range,
    Replay,
    ReplayList,
    cancel,
    moment,
    plan,
    send,
    stands,
)
from bitbylaw_common.clock import SystemClock

_INTERRUPTED = 130
_HELP = ("-h", "--help")


class _Topics(TyperGroup):
    """Takes what is no verb of its own for a topic: `bbl replay vmh.document.update`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Let `run` be left out."""
        if args and args[0] not in self.commands and args[0] not in _HELP:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(
        cls=_Topics,
        help="Records asked for again: `bbl replay TOPIC --since 2h --plan` shows which. "
        "`run` may be left out.",
        no_args_is_help=True,
    )
    nouns.command("run")(replay_topic)
    nouns.command("list")(list_replays)
    nouns.command("cancel")(cancel_replay)
    cli.add_typer(nouns, name="replay")


def replay_topic(
    topic: Annotated[str, typer.Argument(help="Its name, such as vmh.document.update.")],
    *,
    since: Annotated[
        str | None,
        typer.Option(
            help="Records stored then or later: 2026-03-02T09:00 (UTC), or how long ago: 30min, "
            "2h, 3d. By default from the first that is kept."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Records stored before then. By default to the last.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Only records of this key, or of the record with this id.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="Who is to work on them, where several take the topic.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Requests a second, at most.")
    ] = RATE,
    by: Annotated[
        str, typer.Option(help="Who asks, for the record; no person's name.")
    ] = "operator",
    plan_only: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Ask the service that takes a topic to work on its records again, in their order.

    Instants are when the broker stored a record. No offset moves, and no other service sees it.
    Progress goes to standard error; Ctrl-C stops between two requests and says where. What was
    asked for is called off with `bbl replay cancel`.
    """
    write = guarded(lambda: may_write(plan_only, yes))
    wanted = guarded(lambda: _range(topic, since, until, key))
    result = run(_replay(environment(env), wanted, service, rate, by, write=write))
    show(result, json=json, render=rendered)
    if result.stopped:
        interrupted = result.stopped == "it was interrupted"
        raise typer.Exit(_INTERRUPTED if interrupted else Exit.FINDING)


def list_replays(*, env: EnvFile = None, json: AsJson = False) -> None:
    """List the replays of the last month: how much was sent, how much of it runs answered."""
    result = run(_stands(environment(env)))
    show(result, json=json, render=rendered_list)


def cancel_replay(
    replay_id: Annotated[str, typer.Argument(metavar="ID", help="As `bbl replay list` shows it.")],
    by: Annotated[
        str, typer.Option(help="Who asks, for the record; no person's name.")
    ] = "operator",
    *,
    plan_only: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Call a replay off: the worker skips what it asked for and has not begun.

    One that is still being sent stops within seconds.
    """
    write = guarded(lambda: may_write(plan_only, yes))
    result = run(_cancel(environment(env), replay_id, by, write=write))
    show(result, json=json, render=_rendered_cancellation)


def _range(topic: str, since: str | None, until: str | None, key: str | None) -> Range:
    now = SystemClock().now()
    begin = moment(since, now, option="--since")
    end = moment(until, now, option="--until")
    if begin is not None and end is not None and begin >= end:
        raise CommandError(Exit.USAGE, "--since must lie before --until")
    return Range(topic, begin, end, key)


async def _replay(
    env: Environment, wanted: Range, service: str | None, rate: float, by: str, *, write: bool
) -> Replay:
    stopping = asyncio.Event()
    async with open_log(env) as log:
        planned, selection = await plan(log, wanted, service=service, rate=rate)
        if not write or not planned.count:
            return planned
        loop = asyncio.get_running_loop()
        # not on every system, and in the main thread only; elsewhere Ctrl-C ends it as usual
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGINT, stopping.set)
        try:
            return await send(
                log,
                SystemClock(),
                planned,
                selection,
                stopping=stopping,
                progress=_progress,
                by=by,
            )
        finally:
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(signal.SIGINT)


def _progress(replay: Replay) -> None:
    left = replay.count - replay.sent
    ahead = f", {_seconds(left / replay.rate)} to go" if left else ""
    err().print(
        Text(f"replay {replay.replay_id}: {replay.sent} of {replay.count} sent{ahead}"),
        soft_wrap=True,
    )


async def _stands(env: Environment) -> ReplayList:
    async with open_log(env) as log:
        return await stands(log, SystemClock().now())


async def _cancel(env: Environment, replay_id: str, by: str, *, write: bool) -> Cancellation:
    async with open_log(env) as log:
        return await cancel(log, SystemClock(), replay_id, write=write, by=by)


def _seconds(length: float) -> str:
    return f"about {length:.0f} s" if length < 120 else f"about {length / 60:.0f} min"


def rendered(result: Replay) -> Iterable[RenderableType]:
    """Yield a replay, or its plan, for people."""
    of_key = f" of {result.key}" if result.key else ""
    if not result.count:
        yield f"{result.topic} holds no record{of_key} in that range."
    else:
        records = "1 record" if result.count == 1 else f"{result.count} records"
        yield (
            f"{records}{of_key} on {result.topic}, stored {instant(result.first)} to "
            f"{instant(result.last)}"
        )
        yield f"run by {result.service}, step {result.step} ({result.function_id})"
    if result.unreadable:
        more = ", ..." if result.unreadable > len(result.unreadable_places) else ""
        yield Text(
            f"{result.unreadable} records cannot be read and are not sent: "
            f"{', '.join(result.unreadable_places)}{more}",
            style="yellow",
        )
    if not result.count:
        return
    if not result.written:
        length = _seconds(result.count / result.rate)
        yield f"--yes would send them in this order, {result.rate:g} a second: {length}."
        return
    yield f"Replay {result.replay_id}: sent {result.sent} of {result.count}."
    if result.stopped:
        yield Text(f"It ended early: {result.stopped}.", style="yellow")
        if result.reached:
            yield f"The last one sent is {result.reached}."
        if result.resume is not None:
            until = f" --until {result.until.isoformat()}" if result.until else ""
            key = f" --key {result.key}" if result.key else ""
            yield (
                f"To go on: bbl replay {result.topic} --since {result.resume.isoformat()}"
                f"{until}{key} --service {result.service} --plan"
            )
    yield "Next: bbl replay list"


def rendered_list(result: ReplayList) -> Iterable[RenderableType]:
    """Yield the replays for people."""
    if not result.replays:
        yield "There was no replay in the last month."
        return
    rows = [
        (
            one.replay_id,
            _state(one.state),
            f"{one.sent}/{one.count}",
            one.done,
            ", ".join(f"{count} {outcome}" for outcome, count in one.outcomes.items()),
            one.topic,
            instant(one.began),
        )
        for one in result.replays
    ]
    columns = ("replay", "", "sent", "answered", "outcomes", "topic", "began")
    yield table(columns, rows, right=("sent", "answered"))
    for one in result.replays:
        if one.cancelled is not None:
            yield Text(
                f"{one.replay_id} was cancelled {instant(one.cancelled)} by {one.cancelled_by}",
                style="dim",
            )
        elif one.state == "stopped" and one.last_sent is not None and one.began is not None:
            yield Text(
                f"{one.replay_id} stopped at {one.reached}, {span(one.last_sent - one.began)} "
                "after it began",
                style="dim",
            )


def _state(state: str) -> Text:
    colours = {"done": "green", "stopped": "yellow", "cancelled": "yellow"}
    return Text(state, style=colours.get(state, ""))


def _rendered_cancellation(result: Cancellation) -> str:
    requests = "1 request" if result.skipped == 1 else f"{result.skipped} requests"
    if not result.written:
        return (
            f"--yes would call replay {result.replay_id} off: {result.service} would skip "
            f"{requests} that no run has answered yet."
        )
    return (
        f"Called replay {result.replay_id} off: {result.service} skips {requests} that no run has "
        "answered yet. Next: bbl replay list"
    )
