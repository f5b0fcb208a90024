"""What `bbl doctor` checks: programs, settings, and everything outside that must answer."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from urllib.parse import unquote, urlsplit

import aiohttp

from bitbylaw_advoware_proxy.settings import ProxySettings
from bitbylaw_cli.connection import Environment, open_admin
from bitbylaw_cli.output import CommandError
from bitbylaw_common import topics
from bitbylaw_common.clients.advoware import Advoware
from bitbylaw_common.clients.advoware_auth import Login, NoStore, Tokens
from bitbylaw_common.clients.espocrm import EspoCRM
from bitbylaw_common.clients.espocrm_webhooks import EspoWebhooks
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import (
    LogUnavailableError,
    NotFound,
    OutsideError,
    SettingsError,
    Transient,
    Unauthorized,
)
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.http.answers import date_of
from bitbylaw_common.http.transport import Request, Response, Transport
from bitbylaw_common.registrations import GRAVE, Wanted, findings
from bitbylaw_common.settings import (
    AdvowareSettings,
    EnvModel,
    EspoSettings,
    KafkaSettings,
    RedisSettings,
    RuntimeSettings,
    WebhookSettings,
    misspelt,
)
from bitbylaw_common.webhooks import WEBHOOKS
from bitbylaw_devstack import default_cache_dir, missing_tools
from bitbylaw_document_sync.settings import DocumentSyncSettings
from bitbylaw_document_sync.xai import Xai
from bitbylaw_ingest.settings import IngestSettings

State = Literal["ok", "finding", "unknown"]

CLOCK_SECONDS = 5.0
"""How far a clock may be off, the second that a Date header leaves out included."""

ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the check-up.

    Attributes:
        state: "unknown" where it cannot be asked from here.
        found: what was found, in words.
        remedy: what to do; empty where nothing is to be done.
    """

    what: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Checkup:
    """All checks, and where the environment came from."""

    source: str
    checks: tuple[Check, ...]

    @property
    def findings(self) -> int:
        """How many checks found something."""
        return sum(check.state == "finding" for check in self.checks)


async def checkup(env: Environment) -> Checkup:
    """Return the check-up of the environment's system; it writes nothing."""
    wrong = {problem.name for problem in misspelt(env.values)}
    # a name that nobody reads is told of, and keeps nothing else from being asked
    read = Environment({n: v for n, v in env.values.items() if n not in wrong}, env.source)
    outside = await asyncio.gather(
        _kafka(read), _redis(read), _espocrm(read), _xai(read), _advoware(read), _ingest(read)
    )
    return Checkup(
        env.source,
        (*_programs(), *_settings(env), *(check for checks in outside for check in checks)),
    )


# -- on this machine ------------------------------------------------------------------------------


def _programs() -> Iterator[Check]:
    missing = missing_tools(default_cache_dir())
    for line in missing:
        found, _, remedy = line.partition(": ")
        yield Check("programs", "finding", found, remedy or "only `bbl up` and the tests need it")
    if not missing:
        yield Check("programs", "ok", "Java and what brings Kafka are there, for `bbl up`")


_MODELS: tuple[type[EnvModel], ...] = (
    RuntimeSettings,
    KafkaSettings,
    RedisSettings,
    IngestSettings,
    DocumentSyncSettings,
)


def _settings(env: Environment) -> Iterator[Check]:
    told: dict[str, None] = {}
    models = _MODELS
    if _uses_advoware(env):
        models += (ProxySettings,)
    for model in models:
        try:
            model.from_env(env.values)
        except SettingsError as unfit:
            told |= dict.fromkeys(_problems(str(unfit)))
    for problem in told:
        found, _, remedy = problem.partition(": ")
        yield Check("settings", "finding", found, remedy)
    if told:
        return
    yield Check("settings", "ok", "all that the services read fits")
    yield _unsigned(IngestSettings.from_env(env.values))
    if _uses_advoware(env):
        yield _proxy(ProxySettings.from_env(env.values))


def _uses_advoware(env: Environment) -> bool:
    """Say whether any of Advoware's names is set: a system without it is complete, too."""
    return any(name.startswith("ADVOWARE_") and value for name, value in env.values.items())


def _problems(text: str) -> list[str]:
    return [line.removeprefix("  - ") for line in text.splitlines() if line.startswith("  - ")]


def _proxy(settings: ProxySettings) -> Check:
    try:
        is_open = settings.is_open
    except SettingsError as unfit:
        return Check("proxy", "finding", *str(unfit).split(": ", 1))
    if is_open:
        return Check(
            "proxy",
            "ok",
            f"open to everybody on this machine, at {settings.runtime.http_host}",
            "set ADVOWARE_PROXY_CALLERS before anybody else can reach it",
        )
    return Check("proxy", "ok", f"programs with a key: {len(settings.callers)}")


def _unsigned(settings: IngestSettings) -> Check:
    try:
        accepted = settings.accepts_unsigned
    except SettingsError as unfit:
        return Check("webhooks", "finding", *str(unfit).split(": ", 1))
    if accepted:
        return Check(
            "webhooks",
            "ok" if settings.runtime.loopback else "finding",
            f"accepted without a signature, at {settings.runtime.http_host}",
            "set ESPOCRM_WEBHOOK_SECRETS before anybody else can reach it",
        )
    count = len(settings.secrets)
    if not count:
        return Check(
            "webhooks",
            "finding",
            "all are refused: none has a secret",
            "set ESPOCRM_WEBHOOK_SECRETS",
        )
    return Check("webhooks", "ok", f"signed, with secrets for {count} of the nine")


# -- our own backends -----------------------------------------------------------------------------


async def _kafka(env: Environment) -> list[Check]:
    try:
        where = KafkaSettings.from_env(env.values).bootstrap_servers
    except SettingsError:
        return [_not_asked("Kafka")]
    try:
        async with asyncio.timeout(ASK_SECONDS), open_admin(env) as kafka:
            changes = await kafka.plan(topics.catalogue())
    except SettingsError as unfit:
        return [Check("Kafka", "finding", str(unfit), "correct the named files")]
    except (CommandError, LogUnavailableError, TimeoutError):
        return [
            Check(
                "Kafka",
                "finding",
                f"does not answer at {where}",
                "start it, or correct KAFKA_BOOTSTRAP_SERVERS; `bbl up` runs a local one",
            )
        ]
    answers = Check("Kafka", "ok", f"answers at {where}")
    if not changes:
        return [answers, Check("topics", "ok", "all are as declared")]
    first = changes[0]
    return [
        answers,
        Check(
            "topics",
            "finding",
            f"{len(changes)} are not as declared, such as {first.topic} ({first.kind}: "
            f"{first.detail})",
            "look with `bbl topics plan`, then `bbl topics apply --yes`",
        ),
    ]


async def _redis(env: Environment) -> list[Check]:
    try:
        settings = RedisSettings.from_env(env.values)
    except SettingsError:
        return [_not_asked("Redis")]
    remedy = "correct REDIS_URL or REDIS_HOST, or start it; without it work goes on, without locks"
    url = settings.connection_url(0).get_secret_value()
    where = f"{urlsplit(url).hostname}:{urlsplit(url).port or 6379}"
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            answer = await _pinged(url, settings)
    except (OSError, TimeoutError, ssl.SSLError, asyncio.IncompleteReadError):
        return [Check("Redis", "finding", f"does not answer at {where}", remedy)]
    if answer.startswith(b"+PONG"):
        return [Check("Redis", "ok", f"answers at {where}")]
    said = answer.decode("utf-8", "replace").strip()[:80]
    return [Check("Redis", "finding", f"refuses at {where}: {said}", "correct user and password")]


async def _pinged(url: str, settings: RedisSettings) -> bytes:
    """Return Redis' answer to PING, or to the login where that was refused."""
    parts = urlsplit(url)
    context = None
    if parts.scheme == "rediss":
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 6379, ssl=context)
    try:
        if parts.password:
            login = [unquote(part) for part in (parts.username or "", parts.password) if part]
            writer.write(_command("AUTH", *login))
            answer = await reader.readuntil(b"\r\n")
            if not answer.startswith(b"+OK"):
                return answer
        writer.write(_command("PING"))
        return await reader.readuntil(b"\r\n")
    finally:
        writer.close()


def _command(*words: str) -> bytes:
    parts = [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words]
    return b"*%d\r\n" % len(words) + b"".join(parts)


async def _ingest(env: Environment) -> list[Check]:
    try:
        runtime = RuntimeSettings.from_env(env.values)
    except SettingsError:
        return [_not_asked("ingest")]
    host = "127.0.0.1" if runtime.http_host in ("0.0.0.0", "::") else runtime.http_host  # noqa: S104 - compared, not bound
    url = f"http://{host}:{runtime.http_port}/readyz"
    try:
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return [
            Check("ingest", "unknown", f"nothing answers at {url}", "does it run on another host?")
        ]
    if status == 200:
        return [Check("ingest", "ok", f"ready at {url}")]
    return [Check("ingest", "finding", f"not ready: {url} answers {status}", "see `bbl logs`")]


# -- outside systems ------------------------------------------------------------------------------


class _Dated:
    """A transport that notes how far the other side's clock is from ours."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.off: timedelta | None = None

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Send, and note the Date of the answer."""
        return self._sent(request)

    @asynccontextmanager
    async def _sent(self, request: Request) -> AsyncIterator[Response]:
        async with self._inner.send(request) as response:
            told = date_of(response.headers)
            if told is not None:
                self.off = told - SystemClock().now()
            yield response


async def _espocrm(env: Environment) -> list[Check]:
    try:
        settings = DocumentSyncSettings.from_env(env.values).espocrm
    except SettingsError:
        return [_not_asked("EspoCRM")]
    clock = SystemClock()
    async with aiohttp_transport(clock=clock) as transport:
        over = _Dated(transport)
        client = EspoCRM(
            over,
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value(),
            clock=clock,
            timeout_seconds=ASK_SECONDS,
        )
        try:
            await client.app_user()
        except Unauthorized:
            check = Check(
                "EspoCRM",
                "finding",
                f"{settings.base_url} refuses ESPOCRM_API_KEY",
                "set the key of our API user; ten wrong ones in a minute ban this address",
            )
        except OutsideError as error:
            check = _outside("EspoCRM", settings.base_url, error, "correct ESPOCRM_API_BASE_URL")
        else:
            check = Check("EspoCRM", "ok", f"{settings.base_url} accepts the key")
        webhooks = await _webhooks(client, settings, env) if check.state == "ok" else None
    return [check, *_clock("EspoCRM", over.off), *([] if webhooks is None else [webhooks])]


async def _webhooks(client: EspoCRM, settings: EspoSettings, env: Environment) -> Check:
    what = "webhooks of EspoCRM"
    try:
        found = await EspoWebhooks(client).registrations()
    except OutsideError as error:
        return Check(
            what,
            "unknown",
            f"not seen: {error}",
            'let the role of our API user allow "Webhooks"',
        )
    try:
        secrets = WebhookSettings.from_env(env.values).secrets
    except SettingsError:
        secrets = {}
    wanted = Wanted(settings.webhook_base_url, secrets=secrets.keys() if secrets else None)
    grave = [str(one) for one in findings(found, wanted) if one.fault in GRAVE]
    if not grave:
        return Check(what, "ok", f"all {len(WEBHOOKS)} are registered, active and post to us")
    more = f", and {len(grave) - 1} more" if len(grave) > 1 else ""
    return Check(what, "finding", f"{grave[0]}{more}", "look with `bbl espocrm webhooks plan`")


async def _xai(env: Environment) -> list[Check]:
    try:
        settings = DocumentSyncSettings.from_env(env.values).xai
    except SettingsError:
        return [_not_asked("xAI")]
    clock = SystemClock()
    async with aiohttp_transport(clock=clock) as transport:
        over = _Dated(transport)
        client = Xai(
            over,
            files_url=settings.files_url,
            management_url=settings.management_url,
            api_key=settings.api_key.get_secret_value(),
            management_key=settings.management_key.get_secret_value(),
            clock=clock,
            timeout_seconds=ASK_SECONDS,
            upload_timeout_seconds=ASK_SECONDS,
        )
        try:
            await client.check_keys()
        except Unauthorized as refused:
            files = refused.operation == "check_api_key"
            name = "XAI_API_KEY" if files else "XAI_MANAGEMENT_KEY"
            where = settings.files_url if files else settings.management_url
            check = Check(
                "xAI", "finding", f"{where} refuses {name}", "set a key of the team's console"
            )
        except OutsideError as error:
            check = _outside("xAI", settings.files_url, error, "correct XAI_FILES_URL")
        else:
            check = Check("xAI", "ok", f"{settings.files_url} and the management accept the keys")
    return [check, *_clock("xAI", over.off)]


async def _advoware(env: Environment) -> list[Check]:
    if not _uses_advoware(env):
        return [
            Check(
                "Advoware",
                "unknown",
                "not asked: none of its names is set",
                "set them where a service uses it; `bbl env --group advoware` lists them",
            )
        ]
    try:
        settings = AdvowareSettings.from_env(env.values)
    except SettingsError:
        return [_not_asked("Advoware")]
    clock = SystemClock()
    async with aiohttp_transport(clock=clock) as transport:
        login = Login(transport, settings, clock)
        checks = await _entrance(login, settings)
        if checks[-1].state == "ok":
            tokens = Tokens(login, NoStore(), clock)
            client = Advoware(
                transport,
                tokens=tokens,
                path_prefix=settings.path_prefix,
                clock=clock,
                timeout_seconds=ASK_SECONDS,
            )
            checks.append(await _connector(client, (await login.addresses()).api))
    return [*checks, *_clock("Advoware", login.skew)]


async def _entrance(login: Login, settings: AdvowareSettings) -> list[Check]:
    """Return what is found on the way to a token."""
    what = "Advoware's addresses"
    try:
        addresses = await login.addresses()
    except OutsideError as error:
        where = settings.configurator_url
        return [_outside(what, where, error, "correct ADVOWARE_CONFIGURATOR_URL, or its network")]
    who = "the settings name" if addresses.source == "settings" else "the configurator names"
    checks = [Check(what, "ok", f"{who} {addresses.api}")]
    if addresses.source == "settings" and settings.configurator_url != "off":
        checks = [
            Check(
                what,
                "finding",
                f"{settings.configurator_url} tells none; ADVOWARE_API_BASE_URL stands in for it",
                "correct ADVOWARE_CONFIGURATOR_URL and ADVOWARE_KANZLEI, or set the first to off",
            )
        ]
    what = "Advoware's login"
    try:
        await login.log_in()
    except Unauthorized as refused:
        found, _, remedy = refused.detail.partition(": ")
        remedy = remedy or "correct what is named"
        checks.append(Check(what, "finding", f"refused, because {found}", remedy))
    except OutsideError as error:
        remedy = "let the firm look at its server; services go on by themselves once it is back"
        checks.append(_outside(what, addresses.security_gateway, error, remedy))
    else:
        checks.append(Check(what, "ok", f"{addresses.security_gateway} lets {settings.user} in"))
    return checks


async def _connector(client: Advoware, where: str) -> Check:
    try:
        await client.check()
    except NotFound:
        return Check(
            "Advoware",
            "finding",
            f"{where} answers, but has no employees there",
            "correct ADVOWARE_PATH_PREFIX",
        )
    except Unauthorized as refused:
        found, _, remedy = refused.detail.partition(": ")
        return Check("Advoware", "finding", f"{where} refuses: {found}", remedy or "ask the vendor")
    except OutsideError as error:
        remedy = "let the firm look at its server; services go on by themselves once it is back"
        return _outside("Advoware", where, error, remedy)
    return Check("Advoware", "ok", f"{where} answers")


def _outside(what: str, where: str, error: OutsideError, remedy: str) -> Check:
    if isinstance(error, Transient) and error.status is None:
        return Check(what, "finding", f"does not answer at {where}", remedy)
    return Check(what, "finding", f"{where}: {error}", remedy)


def _clock(what: str, off: timedelta | None) -> Iterator[Check]:
    if off is None:
        return
    seconds = off.total_seconds()
    if abs(seconds) <= CLOCK_SECONDS:
        yield Check(f"clock of {what}", "ok", "as ours")
        return
    word = "ahead of" if seconds > 0 else "behind"
    yield Check(
        f"clock of {what}",
        "finding",
        f"{abs(seconds):.0f} s {word} ours",
        "let both machines take their time from NTP",
    )


def _not_asked(what: str) -> Check:
    return Check(what, "unknown", "not asked: the settings do not fit", "correct them first")
