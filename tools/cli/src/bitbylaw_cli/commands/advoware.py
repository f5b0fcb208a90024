"""`bbl advoware`: whether Advoware lets us in, and any one call to it."""

import json as json_format
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, environment
from bitbylaw_cli.output import (
    AsJson,
    Confirmed,
    Exit,
    PlanOnly,
    guarded,
    may_write,
    run,
    show,
    table,
)
from bitbylaw_cli.records import instant, relative
from bitbylaw_common.clock import SystemClock

if TYPE_CHECKING:
    from bitbylaw_cli.advoware_access import CachedToken, CallAnswer, CallPlan, TokenReport


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(
        help="Advoware: whether it lets us in, and one call to it.", no_args_is_help=True
    )
    nouns.command("token")(token)
    nouns.command("call")(call)
    cli.add_typer(nouns, name="advoware")


def token(*, env: EnvFile = None, json: AsJson = False) -> None:
    """Log in to Advoware and say whether that works, and which token the services have.

    The token that it gets is thrown away, and none is ever shown.
    """
    # the clients; commands that do not ask Advoware need not wait for them
    from bitbylaw_cli.advoware_access import token_report  # noqa: PLC0415 - see above

    meant = guarded(lambda: environment(env))
    result = run(token_report(meant))
    now = SystemClock().now()
    show(result, json=json, render=lambda found: _rendered_token(found, now))
    if not result.works:
        raise typer.Exit(int(Exit.FINDING))


def call(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="GET, POST, PUT, PATCH or DELETE.")
    ],
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="The resource, such as employees or Beteiligte/104860. One that begins with api/ "
            "is taken as it is, else ADVOWARE_PATH_PREFIX goes before it.",
        ),
    ],
    *,
    query: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A parameter of the query; once for each."),
    ] = None,
    body: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Send the bytes of this file.")
    ] = None,
    content_type: Annotated[
        str, typer.Option(metavar="TYPE", help="What the bytes are.")
    ] = "application/json",
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the answer to this new file, readable by you alone, instead of showing it.",
        ),
    ] = None,
    plan: PlanOnly = False,
    yes: Confirmed = False,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Make one call to Advoware and show what it answers. All but GET wants --plan or --yes.

    Ends with 1 when Advoware answers that it did not do it. Answers may be personal data.
    """
    # the clients; commands that do not ask Advoware need not wait for them
    from bitbylaw_cli.advoware_access import ask, called, planned, unwritten  # noqa: PLC0415 - see above

    asked = guarded(lambda: ask(method, path, query or [], body, content_type))
    send = guarded(lambda: _may_send(asked.method, plan, yes))
    target = guarded(lambda: unwritten(into))
    meant = guarded(lambda: environment(env))
    if not send:
        show(guarded(lambda: planned(meant, asked)), json=json, render=_rendered_plan)
        return
    result = run(called(meant, asked, target))
    show(result, json=json, render=_rendered_answer)
    if result.status >= 400:
        raise typer.Exit(int(Exit.FINDING))


def _may_send(method: str, plan: bool, yes: bool) -> bool:
    """Return whether to send: a GET without being told to, all else only with --yes."""
    if method != "GET" or (plan and yes):
        return may_write(plan, yes)
    return not plan


def _rendered_token(found: "TokenReport", now: datetime) -> Iterator[RenderableType]:
    verdict = f"A login works as {found.user}" if found.works else f"Refused: {found.refused}"
    yield Text(f"{verdict}.", style="green" if found.works else "red")
    rows = [
        ("API", f"{found.api}  (as the {_SOURCES[found.source]})"),
        ("tokens from", found.security_gateway),
    ]
    if found.expires is not None:
        ends = f"ends {instant(found.expires)} ({relative(found.expires, now)}), was thrown away"
        rows.append(("the token just given", ends))
    rows.append(("the services' token", _cache(found.cache, now)))
    if found.clock_ahead_seconds is not None:
        rows.append(("Advoware's clock", f"{found.clock_ahead_seconds:+.0f} s from ours"))
    yield table(("", ""), rows)


_SOURCES = {
    "connector": "configurator names the firm's connector",
    "relay": "configurator names the relay",
    "settings": "settings say",
}


def _cache(cache: "CachedToken", now: datetime) -> str:
    until = "" if cache.good_until is None else relative(cache.good_until, now)
    match cache.state:
        case "away":
            return f"each process has its own, because Redis does not answer at {cache.where}"
        case "none":
            return f"none yet in Redis at {cache.where}"
        case "refused":
            return f"refused a moment ago, tried again {until}: {cache.refused}"
        case "kept":
            since = "" if cache.since is None else f"since {instant(cache.since)}, "
            return f"{since}replaced {until}, in Redis at {cache.where}"


def _rendered_plan(plan: "CallPlan") -> str:
    query = "".join(f"{'&' if at else '?'}{n}={v}" for at, (n, v) in enumerate(plan.query))
    body = "" if plan.body_bytes is None else f" with {plan.body_bytes} bytes"
    who = "Would" if plan.method == "GET" else "--yes would"
    return f"{who} send {plan.method} {plan.path}{query}{body}."


def _rendered_answer(answer: "CallAnswer") -> Iterator[RenderableType]:
    style = "green" if answer.status < 400 else "red"
    where = f", written to {answer.file}" if answer.file else ""
    yield Text(f"{answer.status}  {answer.bytes} bytes {answer.content_type}{where}", style=style)
    if isinstance(answer.body, str):
        yield Text(answer.body)
    elif answer.body is not None:
        yield Text(json_format.dumps(answer.body, indent=2, ensure_ascii=False))
