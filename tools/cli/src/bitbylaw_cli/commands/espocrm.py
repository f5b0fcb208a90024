"""`bbl espocrm webhooks`: what EspoCRM posts to us, beside what it should."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import RenderableType
from rich.text import Text

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
from bitbylaw_cli.webhook_records import WebhookPlan, open_office

_MARKS = {"create": "green", "change": "yellow", "deactivate": "yellow", "leave": "red"}

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Where EspoCRM reaches ingest, without the routes. By default ESPOCRM_WEBHOOK_BASE_URL.",
    ),
]


def register(cli: typer.Typer) -> None:
    """Add the noun."""
    nouns = typer.Typer(help="EspoCRM: what it posts to us.", no_args_is_help=True)
    webhooks = typer.Typer(
        help="The nine webhooks in EspoCRM: what differs, and bringing them in line.",
        no_args_is_help=True,
    )
    webhooks.command("plan")(plan)
    webhooks.command("apply")(apply)
    nouns.add_typer(webhooks, name="webhooks")
    cli.add_typer(nouns, name="espocrm")


def plan(url: Url = None, env: EnvFile = None, json: AsJson = False) -> None:
    """Show EspoCRM's nine webhooks, what is wrong with them, and the settings of EspoCRM we advise.

    Ends with 1 if anything is wrong. Our API user sees its own webhooks only, so one that an
    administrator made counts as missing.
    """
    address = guarded(lambda: _address(url))
    result = run(_planned(environment(env), address))
    show(result, json=json, render=_rendered)
    if result.faults:
        raise typer.Exit(int(Exit.FINDING))


def apply(
    *,
    plan_only: PlanOnly = False,
    yes: Confirmed = False,
    secrets_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A new file for the webhooks' secrets, as ESPOCRM_WEBHOOK_SECRETS_FILE takes it; "
            "only this account may read it. Secrets are shown nowhere else.",
        ),
    ] = None,
    url: Url = None,
    env: EnvFile = None,
    json: AsJson = False,
) -> None:
    """Register what is missing, mend what is ours, switch off what was replaced. Deletes nothing.

    A new webhook has a new secret: give ingest the file of --secrets-file within 30 minutes, which
    is how long EspoCRM repeats what ingest refuses. Then call it again: only now it switches off
    what was replaced.
    """
    if not guarded(lambda: may_write(plan_only, yes)):
        plan(url, env, json)
        return
    address = guarded(lambda: _address(url))
    result = run(_applied(environment(env), address, secrets_file))
    show(result, json=json, render=_rendered)
    if result.faults:
        raise typer.Exit(int(Exit.FINDING))


def _address(url: str | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise CommandError(
            Exit.USAGE,
            f"--url {url!r} is no address: it begins with http:// or https://, names a host and "
            "has no query",
        )
    return url.rstrip("/")


async def _planned(env: Environment, url: str | None) -> WebhookPlan:
    async with open_office(env, url) as office:
        return await office.planned()


async def _applied(env: Environment, url: str | None, secrets_file: Path | None) -> WebhookPlan:
    async with open_office(env, url) as office:
        if office.address is None:
            raise CommandError(
                Exit.USAGE,
                "nobody said where EspoCRM reaches ingest: set ESPOCRM_WEBHOOK_BASE_URL, or give "
                "--url https://HOST",
            )
        return await office.applied(secrets_file)


def _rendered(result: WebhookPlan) -> Iterable[RenderableType]:
    rows = [
        (
            Text("well", style="green") if not one.faults else Text("wrong", style="red"),
            one.event,
            one.id,
            one.url,
            one.believed,
            "\n".join(one.faults),
        )
        for one in result.webhooks
    ]
    yield table(("state", "webhook", "id", "posts to", "believed", "what is wrong"), rows)
    if result.mends:
        yield ""
        title = "Done:" if result.written else "`bbl espocrm webhooks apply --yes` does:"
        rows_of_mends = [
            (Text(one.kind, style=_MARKS[one.kind]), one.event, one.id, one.what)
            for one in result.mends
        ]
        yield table(("do", "webhook", "id", "what"), rows_of_mends, title=title)
    yield from _secrets(result)
    if not result.ingest:
        yield ""
        yield (
            "Nobody said where EspoCRM reaches ingest, so only the routes were compared: set "
            "ESPOCRM_WEBHOOK_BASE_URL, or give --url."
        )
    yield ""
    yield table(
        ("setting", "value", "why"),
        [(one.name, one.value, one.why) for one in result.settings],
        title="Advised in EspoCRM's data/config.php:",
    )


def _secrets(result: WebhookPlan) -> Iterable[RenderableType]:
    if result.secrets_file:
        yield ""
        yield (
            f"The secrets are in {result.secrets_file}, readable for this account only: give it to "
            "ingest as ESPOCRM_WEBHOOK_SECRETS_FILE, and restart ingest within 30 minutes."
        )
    elif result.secrets_wanted:
        yield ""
        unset = any(one.believed == "unset" for one in result.webhooks)
        ids = ", ".join(result.secrets_wanted)
        lacking = "is not set" if unset else f"lacks {len(result.secrets_wanted)} of them: {ids}"
        yield (
            f"ESPOCRM_WEBHOOK_SECRETS {lacking}. "
            "`bbl espocrm webhooks apply --secrets-file FILE --yes` writes the secrets to a file."
        )
