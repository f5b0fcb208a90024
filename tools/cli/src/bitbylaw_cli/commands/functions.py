"""bbl functions: what the fleet declares, and how it went."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bitbylaw_cli.connection import EnvFile, environment
from bitbylaw_cli.fleet_functions import Functions
from bitbylaw_cli.fleet_functions import functions as fleet_functions
from bitbylaw_cli.output import AsJson, guarded, run, show, table
from bitbylaw_cli.records import one_of
from bitbylaw_common.runtime.control import FunctionInfo


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("functions")(functions)


def functions(
    *,
    env: EnvFile = None,
    url: Annotated[
        str | None,
        typer.Option(help="Ask this service instead of Kafka, as http://127.0.0.1:3111."),
    ] = None,
    service: Annotated[str | None, typer.Option(help="Only of this service.")] = None,
    json: AsJson = False,
) -> None:
    """List the functions of all services: what starts each, and how it went last."""
    meant = guarded(lambda: environment(env))
    found = run(fleet_functions(meant, url))
    if service is not None:
        declared = {info.service for info in found.functions}
        if declared:  # without any the table says what to do
            guarded(lambda: one_of(service, declared, "service that declared functions"))
        chosen = tuple(info for info in found.functions if info.service == service)
        found = Functions(found.source, chosen)
    show(found, json=json, render=_words)


def _words(found: Functions) -> Iterator[RenderableType]:
    columns = ("service", "function", "started by", "may publish to", "lag", "succeeded", "failed")
    rows = [
        (
            info.service,
            info.name,
            _trigger(info),
            ", ".join(info.enqueues),
            info.lag,
            _instant(info.last_success),
            _instant(info.last_failure),
        )
        for info in found.functions
    ]
    yield table(columns, rows, right=("lag",))
    told = f"\n{len(found.functions)} functions, told by {found.source}."
    yield Text(told if rows else f"{told} Does a service run? bbl up starts all.", style="dim")


def _trigger(info: FunctionInfo) -> str:
    config = info.trigger.config
    match info.trigger.type:
        case "http":
            return f"{config.get('method', '')} {config.get('path', '')}"
        case "queue":
            return f"topic {config.get('topic', '')}"
        case "cron":
            return f"cron {config.get('expression', '')}"


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone().strftime("%Y-%m-%d %H:%M:%S")
