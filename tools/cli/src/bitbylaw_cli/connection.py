"""Which system a command means: its environment, and the way to its Kafka."""

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.kafka.admin import Admin, admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.settings import CATALOGUE, KafkaSettings

STATE_DIR = Path(".devstack")
STACK_FILE = "stack.json"
CONNECT_SECONDS = 5.0
"""How long a command waits for a broker before it says that none answers."""

EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env",
        metavar="FILE",
        help="A .env file that describes the system. Else the environment counts where it names "
        "Kafka, else what `bbl up` runs here.",
    ),
]
"""The option of every command that asks a running system."""

_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")


class ProcessFacts(BaseModel):
    """One process of the local system: its pid, what it answers on, and its log."""

    model_config = ConfigDict(frozen=True)

    pid: int | None
    url: str = ""
    log: str = ""


class StackFile(BaseModel):
    """What `.devstack/stack.json` tells about the system that `bbl up` or `bbl demo` runs.

    Attributes:
        pid: the process of `bbl` itself; with it everything else ends.
        ingest: the address that webhooks are posted to, and of the control routes.
        env: the environment of the services. Keys are the simulators' sample keys; of a real
            system (--env) only the names without secrets are here.
        env_file: the file that describes a real system, where one was given.
        processes: by name: kafka, redis, simulators, and the services.
        simulators: addresses and sample keys, as the simulators print them; empty for a real one.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    pid: int
    command: str
    started: str
    state_dir: str
    logs: str
    ingest: str
    kafka: str
    redis: str
    env: Mapping[str, str]
    env_file: str = ""
    processes: Mapping[str, ProcessFacts]
    simulators: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class Environment:
    """Names and values, and where they come from, as an operator says it."""

    values: Mapping[str, str]
    source: str


def process_environment() -> dict[str, str]:
    """Return the environment that this command was called with."""
    return dict(os.environ)  # noqa: TID251 - the command line's edge


def environment(
    env_file: Path | None = None,
    *,
    process: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Environment:
    """Return the environment that a command means.

    The file where one is named; else the process environment where it says which Kafka; else the
    local system that runs in this folder or one above it; else the process environment as it is.

    Args:
        env_file: the option `--env`.
        process: stands in for this process's environment.
        folder: where to look for a local system; by default the current folder.

    Raises:
        CommandError: the file cannot be read.
    """
    if env_file is not None:
        return Environment(read_env_file(env_file), str(env_file))
    values = process_environment() if process is None else dict(process)
    if values.get("KAFKA_BOOTSTRAP_SERVERS", "").strip():
        return Environment(values, "the environment")
    stack = running_stack(folder)
    if stack is None:
        return Environment(values, "the environment")
    if stack.env_file:
        return Environment(read_env_file(Path(stack.env_file)) | dict(stack.env), stack.env_file)
    foreign = {name: value for name, value in values.items() if name not in CATALOGUE}
    return Environment(foreign | dict(stack.env), str(Path(stack.state_dir) / STACK_FILE))


def running_stack(folder: Path | None = None) -> StackFile | None:
    """Return the local system that runs in `folder` or one above it; None when there is none."""
    start = (Path.cwd() if folder is None else folder).absolute()
    for place in (start, *start.parents):
        stack = read_stack(place / STATE_DIR)
        if stack is not None and alive(stack.pid):
            return stack
    return None


def read_stack(state_dir: Path) -> StackFile | None:
    """Return what `stack.json` of a state folder tells; None without one that can be read."""
    try:
        return StackFile.model_validate_json((state_dir / STACK_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValidationError):
        return None


def alive(pid: int) -> bool:
    """Say whether a process has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_env_file(path: Path) -> dict[str, str]:
    """Return the names and values of a .env file.

    Lines are `NAME=value` or `export NAME=value`; values may stand in quotes; a `#` begins a
    comment at the beginning of a line, or after a space behind an unquoted value.

    Raises:
        CommandError: it cannot be read, or a line is none; the text shows no value.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as unreadable:
        why = unreadable.strerror if isinstance(unreadable, OSError) else "it is not UTF-8 text"
        raise CommandError(
            Exit.USAGE, f"{path}: {why}; --env takes a file of NAME=value lines (see .env.example)"
        ) from None
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.match(line)
        if found is None:
            raise CommandError(Exit.USAGE, f"{path}:{number}: a line must be NAME=value")
        name, value = found.groups()
        if value[:1] in ("'", '"'):
            quote = value[0]
            closing = value.find(quote, 1)
            if closing < 0:
                raise CommandError(Exit.USAGE, f"{path}:{number}: {name} lacks its closing {quote}")
            value = value[1:closing]
        else:
            value = re.split(r"(?:^|\s)#", value, maxsplit=1)[0].rstrip()
        values[name] = value
    return values


@asynccontextmanager
async def open_log(env: Environment) -> AsyncIterator[KafkaLog]:
    """Open Kafka's log for reading and appending; a broker answered when the block begins.

    Raises:
        SettingsError: the environment does not say how to reach Kafka.
        CommandError: no broker answers.
    """
    settings = KafkaSettings.from_env(env.values)
    async with KafkaLog(settings.client_options(), service="bbl") as log:
        try:
            await log.connected(CONNECT_SECONDS)
        except LogUnavailableError:
            raise _unreachable(settings, env) from None
        yield log


@asynccontextmanager
async def open_admin(env: Environment) -> AsyncIterator[Admin]:
    """Open Kafka's administration.

    Raises:
        SettingsError: the environment does not say how to reach Kafka.
        CommandError: no broker answers.
    """
    settings = KafkaSettings.from_env(env.values)
    began = False
    try:
        async with admin(settings.client_options()) as kafka:
            began = True
            yield kafka
    except LogUnavailableError:
        if began:
            raise
        raise _unreachable(settings, env) from None


def _unreachable(settings: KafkaSettings, env: Environment) -> CommandError:
    return CommandError(
        Exit.UNREACHABLE,
        f"Kafka does not answer at {settings.bootstrap_servers} (from {env.source}): "
        "start it, or `bbl up` for a local one; `bbl doctor` tells more",
    )
