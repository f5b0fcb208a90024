"""The functions of the whole fleet, asked from a service or read from their topic."""

from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from pydantic import BaseModel, ValidationError

from bitbylaw_cli.connection import Environment, open_log
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common import topics
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.topics import PARTITIONS

ASK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions, and who told: an address, or the topic."""

    source: str
    functions: tuple[FunctionInfo, ...]


class _Answer(BaseModel):
    functions: tuple[FunctionInfo, ...]


async def functions(env: Environment, url: str | None) -> Functions:
    """Return the fleet's functions: from the service at `url`, else from `control.functions`.

    Raises:
        CommandError: the service or Kafka does not answer, or the service asks for another key.
        SettingsError: the environment does not say how to reach Kafka.
    """
    if url is None:
        return await _from_topic(env)
    address = f"{url.rstrip('/')}/_console/functions"
    key = env.values.get("BBL_CONTROL_KEY", "").strip()
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(address, headers={"apikey": key} if key else {}) as answer,
        ):
            status, body = answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        raise CommandError(
            Exit.UNREACHABLE, f"no service answers at {address}: leave --url out to read the topic"
        ) from None
    if status == 401:
        raise CommandError(Exit.REFUSED, f"{address} asks for a key: set BBL_CONTROL_KEY")
    try:
        found = _Answer.model_validate_json(body).functions if status == 200 else None
    except ValidationError:
        found = None
    if found is None:
        raise CommandError(
            Exit.UNREACHABLE, f"{address} answered {status}, and not as a service of ours"
        )
    return Functions(address, _sorted(found))


async def _from_topic(env: Environment) -> Functions:
    name = topics.FUNCTIONS.name
    found: dict[str, FunctionInfo] = {}
    async with open_log(env) as log:
        async for record in log.read({(name, number): 0 for number in range(PARTITIONS)}):
            key = (record.key or b"").decode(errors="replace")
            if record.value is None:
                found.pop(key, None)
                continue
            try:
                found[key] = FunctionInfo.model_validate_json(record.value)
            except ValidationError:
                found.pop(key, None)
    return Functions(f"the topic {name}", _sorted(found.values()))


def _sorted(found: Iterable[FunctionInfo]) -> tuple[FunctionInfo, ...]:
    return tuple(sorted(found, key=lambda info: (info.service, info.function_id)))
