"""Whether Advoware lets us in, and one call to it: what `bbl advoware` and `bbl doctor` ask."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from bitbylaw_cli.connection import Environment
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import keep
from bitbylaw_common.clients.advoware import Method, open_advoware, resource_path
from bitbylaw_common.clients.advoware_auth import Kept, Login, redis_tokens
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import HeldBack, Invalid, OutsideError, Unauthorized
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.http.answers import parsed
from bitbylaw_common.settings import AdvowareSettings, RedisSettings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class CachedToken(BaseModel):
    """The token that the services share.

    Attributes:
        where: host, port and database of the Redis that keeps it.
        state: "away" when that Redis does not answer, so that each process has its own.
        since: when it was granted.
        good_until: how long services use it.
        refused: why a service was refused a moment ago; none tries these credentials again before
            `good_until`.
    """

    model_config = ConfigDict(frozen=True)

    where: str
    state: Literal["kept", "none", "refused", "away"]
    since: datetime | None = None
    good_until: datetime | None = None
    refused: str = ""


class TokenReport(BaseModel):
    """Whether a login works. It never holds the token.

    Attributes:
        works: Advoware gave a token, of which nothing was kept.
        refused: why it gave none; empty when it did.
        user: initials of the employee that we log in as.
        api: where the API is.
        security_gateway: where tokens come from.
        source: who said so: the configurator, naming the firm's connector or the relay, or the
            settings.
        expires: when the token that was given ends.
        clock_ahead_seconds: how far Advoware's clock is ahead of ours; None when it does not tell.
        cache: what the services have.
    """

    model_config = ConfigDict(frozen=True)

    works: bool
    refused: str
    user: str
    api: str
    security_gateway: str
    source: Literal["connector", "relay", "settings"]
    expires: datetime | None
    clock_ahead_seconds: float | None
    cache: CachedToken


class CallPlan(BaseModel):
    """A call that would be made.

    Attributes:
        path: below the API's address.
        query: pairs in their order.
        body_bytes: how long its body is; None without one.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    body_bytes: int | None


class CallAnswer(BaseModel):
    """What a call was answered with.

    Attributes:
        path: below the API's address.
        content_type: as Advoware names it; empty when it does not.
        bytes: how long the body is.
        body: of JSON the value, of other text the text; None of anything else, and where it was
            written to a file.
        file: where the body was written to; empty when nowhere.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    path: str
    status: int
    content_type: str
    bytes: int
    body: Any
    file: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One call as it was typed.

    Attributes:
        path: of the resource, as text.
        query: pairs in their order.
        body: the bytes to send; None for none.
        content_type: of the body.
    """

    method: Method
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str = "application/json"


def ask(method: str, path: str, query: list[str], body: Path | None, content_type: str) -> Ask:
    """Return the call that was typed.

    Raises:
        CommandError: there is no such method, a pair is none, or the file cannot be read.
    """
    if method.upper() not in METHODS:
        raise CommandError(
            Exit.USAGE, f"there is no method {method!r}: METHOD is one of {', '.join(METHODS)}"
        )
    pairs = [(name, value) for name, _, value in (pair.partition("=") for pair in query)]
    for pair in query:
        if pair.find("=") < 1:
            raise CommandError(
                Exit.USAGE, f"--query {pair!r} is no pair: write name=value, once for each"
            )
    content = None
    if body is not None:
        try:
            content = body.read_bytes()
        except OSError as unreadable:
            raise CommandError(
                Exit.USAGE, f"{body}: {unreadable.strerror}; --body takes a file to send"
            ) from None
    return Ask(cast("Method", method.upper()), path, tuple(pairs), content, content_type)


def unwritten(into: Path | None) -> Path | None:
    """Return the file, of which there is none yet, so that nothing is asked for in vain.

    Raises:
        CommandError: there is one.
    """
    if into is not None and into.exists():
        raise CommandError(Exit.REFUSED, f"--into {into} is there already; name a file that is not")
    return into


def planned(env: Environment, asked: Ask) -> CallPlan:
    """Return what would be sent; nothing is asked for it.

    Raises:
        SettingsError: the environment does not say how to reach Advoware.
        CommandError: the path is none of a resource.
    """
    settings = AdvowareSettings.from_env(env.values)
    return CallPlan(
        method=asked.method,
        path=_path(settings, asked),
        query=asked.query,
        body_bytes=None if asked.body is None else len(asked.body),
    )


async def called(env: Environment, asked: Ask, into: Path | None) -> CallAnswer:
    """Make the call, with the token that the services share.

    Args:
        into: a new file for the body; else it is in the answer.

    Raises:
        SettingsError: the environment does not say how to reach Advoware.
        CommandError: the path is none, Advoware does not answer or refuses our login, or the file
            cannot be written.
    """
    settings = AdvowareSettings.from_env(env.values)
    redis = RedisSettings.from_env(env.values)
    path = _path(settings, asked)
    headers = {} if asked.body is None else {"Content-Type": asked.content_type}
    clock = SystemClock()
    try:
        async with (
            aiohttp_transport(clock=clock) as transport,
            open_advoware(settings, redis, transport, clock) as client,
            client.call(
                asked.method, asked.path, query=asked.query, headers=headers, body=asked.body
            ) as answer,
        ):
            status, kind = answer.status, answer.headers.get("Content-Type", "")
            content = await answer.read()
    except OutsideError as error:
        raise _given_up(error, settings, env) from None
    if into is not None:
        keep(content, into)
    return CallAnswer(
        method=asked.method,
        path=path,
        status=status,
        content_type=kind,
        bytes=len(content),
        body=None if into is not None else _shown(content),
        file="" if into is None else str(into),
    )


async def token_report(env: Environment) -> TokenReport:
    """Log in, keep nothing of it, and say what came of it and what the services have.

    Raises:
        SettingsError: the environment does not say how to reach Advoware or Redis.
        CommandError: Advoware does not answer, or the firm's server is away.
    """
    settings = AdvowareSettings.from_env(env.values)
    redis = RedisSettings.from_env(env.values)
    clock = SystemClock()
    async with aiohttp_transport(clock=clock) as transport:
        login = Login(transport, settings, clock)
        expires, refused = None, ""
        try:
            addresses = await login.addresses()
            grant = await login.log_in()
            expires = clock.now() + grant.lifetime
        except Unauthorized as error:
            if error.operation != "log_in":
                raise _given_up(error, settings, env) from None
            refused = error.detail
        except OutsideError as error:
            raise _given_up(error, settings, env) from None
        async with redis_tokens(redis, login.credentials, clock) as store:
            kept = await store.read()
    ahead = login.skew
    return TokenReport(
        works=not refused,
        refused=refused,
        user=settings.user,
        api=addresses.api,
        security_gateway=addresses.security_gateway,
        source=addresses.source,
        expires=expires,
        clock_ahead_seconds=None if ahead is None else round(ahead.total_seconds()),
        cache=cached(kept, _where(redis), clock.now()),
    )


def cached(kept: Kept | None, where: str, now: datetime) -> CachedToken:
    """Return what the services have, as it is shown.

    Args:
        kept: as the store tells it; None when it is away.
        where: the store, in words.
        now: to count what is left from.
    """
    if kept is None:
        return CachedToken(where=where, state="away")
    if kept.token:
        until = now + timedelta(seconds=kept.seconds_left)
        return CachedToken(where=where, state="kept", since=kept.since, good_until=until)
    if kept.refused:
        until = now + timedelta(seconds=kept.refused_seconds)
        return CachedToken(where=where, state="refused", good_until=until, refused=kept.refused)
    return CachedToken(where=where, state="none")


def _path(settings: AdvowareSettings, asked: Ask) -> str:
    try:
        return resource_path(settings.path_prefix, asked.path)
    except Invalid:
        raise CommandError(
            Exit.USAGE,
            f"{asked.path!r} is no path of a resource: write it without host and query, such as "
            "Beteiligte/104860; --query takes what follows the question mark",
        ) from None


def _shown(content: bytes) -> Any:
    value = parsed(content)
    if value is not None:
        return value
    try:
        return content.decode() or None
    except UnicodeDecodeError:
        return None


def _where(redis: RedisSettings) -> str:
    address = urlsplit(redis.connection_url(redis.db_advoware_cache).get_secret_value())
    return f"{address.hostname}:{address.port or 6379}, database {address.path.strip('/') or 0}"


def _given_up(error: OutsideError, settings: AdvowareSettings, env: Environment) -> CommandError:
    """Return the one line about a call that came to nothing."""
    if isinstance(error, Unauthorized | HeldBack):
        return CommandError(
            Exit.REFUSED, f"{error} (from {env.source}); `bbl advoware token` looks closer"
        )
    if error.ambiguous:
        return CommandError(
            Exit.UNREACHABLE,
            f"{error} (from {env.source}): it may have been done, so look before sending it again; "
            "`bbl doctor` says what is reachable",
        )
    where = {
        "find_addresses": f"{settings.configurator_url}, the configurator",
        "log_in": "its security gateway",
    }.get(error.operation, "the address that the configurator names")
    return CommandError(
        Exit.UNREACHABLE,
        f"Advoware does not answer as it should at {where} (from {env.source}; {error}): correct "
        "the ADVOWARE names, or wait until it does; `bbl doctor` tells more",
    )
