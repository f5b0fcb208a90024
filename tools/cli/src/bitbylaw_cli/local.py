"""The whole system on this machine: Kafka, Redis, simulators and services, as long as a block."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn, TypeVar

import aiohttp

from bitbylaw_advoware_proxy import app as advoware_proxy
from bitbylaw_advoware_proxy.settings import ProxySettings
from bitbylaw_cli.connection import (
    STACK_FILE,
    Environment,
    ProcessFacts,
    StackFile,
    open_admin,
    process_environment,
    read_env_file,
)
from bitbylaw_cli.frontdoor import FrontDoor
from bitbylaw_cli.holder import holder_of
from bitbylaw_cli.log_lines import ending
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.services import Child, ServiceChild, Sources, until_ready
from bitbylaw_cli.simulated import Simulated, Told
from bitbylaw_common import logs, topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import LogUnavailableError, SettingsError
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.hosting import Hosting, hosting
from bitbylaw_common.settings import CATALOGUE, PREFIXES, KafkaSettings, secret_values
from bitbylaw_devstack import (
    DevstackError,
    Progress,
    Stack,
    StateInUseError,
    default_cache_dir,
    install_kafka,
    missing_tools,
)
from bitbylaw_devstack.ports import free_port, is_free
from bitbylaw_document_sync import app as document_sync
from bitbylaw_document_sync.settings import DocumentSyncSettings
from bitbylaw_ingest import app as ingest
from bitbylaw_ingest.settings import IngestSettings

T = TypeVar("T")

APPS: tuple[App[Any], ...] = (ingest.app, document_sync.app, advoware_proxy.app)
"""What runs, in the order in which it is started."""

HOST = "127.0.0.1"
DRAIN_SECONDS = 4
"""How long a service finishes what it began, so that everything has ended within ten seconds."""
READY_SECONDS = 60.0
REVIVALS_A_MINUTE = 5
"""A service that is killed more often than this ends everything: something kills it on purpose."""
RELOAD_SECONDS = 0.5
DELIVERY_SECONDS = 0.2
"""How soon the simulated EspoCRM delivers its webhooks; a real one takes up to two minutes."""

_SAMPLE_DIGEST_KEY = "sample digest key of the local stack"
_TAKEN_OVER = ("LOG_LEVEL", "CONCURRENCY", "BBL_VERSION")
"""What the caller's environment may change about the local system."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run the local system.

    Attributes:
        state_dir: holds everything it keeps, its logs and `stack.json`.
        port: where webhooks are posted to; 0 takes a free one.
        keep: begin with what the run before left, and leave what this one has.
        processes: each service is a process of its own, behind a front door.
        reload: start a service again when its source changes; only with `processes`.
        env_file: describes real systems, which stand in for the simulators.
        command: as it is named in `stack.json`.
    """

    state_dir: Path
    port: int = 3111
    keep: bool = False
    processes: bool = False
    reload: bool = False
    env_file: Path | None = None
    command: str = "bbl up"


class LocalSystem:
    """The system while it runs.

    Attributes:
        url: where webhooks are posted to, and the control routes answer.
        env: the environment of the services.
        simulated: the simulators; None with real systems.
        log: Kafka, to read what happens.
        stages: how long each stage took, in seconds.
        download_seconds: of these, what is needed once per machine.
    """

    def __init__(self, options: Options, on_stage: Callable[[Progress], None]) -> None:
        self.options = options
        self.state_dir = options.state_dir.absolute()
        self.logs_dir = self.state_dir / "logs"
        self.url = ""
        self.env: dict[str, str] = {}
        self.simulated: Simulated | None = None
        self.stages: dict[str, float] = {}
        self.download_seconds = 0.0
        self.children: dict[str, ServiceChild] = {}
        self._on_stage = on_stage
        self._stack: Stack | None = None
        self._simulators: Child | None = None
        self._hosting: Hosting | None = None
        self._log: KafkaLog | None = None
        self._session: aiohttp.ClientSession | None = None
        self.started = SystemClock().now()
        self._restarting: set[str] = set()
        self._revived: list[float] = []

    @property
    def log(self) -> KafkaLog:
        """Kafka's log.

        Raises:
            RuntimeError: the system does not run.
        """
        if self._log is None:
            raise RuntimeError("the local system does not run")
        return self._log

    @property
    def session(self) -> aiohttp.ClientSession:
        """An HTTP session for calls on this machine.

        Raises:
            RuntimeError: the system does not run.
        """
        if self._session is None:
            raise RuntimeError("the local system does not run")
        return self._session

    @property
    def accepts_unsigned(self) -> bool:
        """Whether ingest believes webhooks without a signature."""
        return IngestSettings.from_env(self.env).webhooks.accepts_unsigned(HOST)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["LocalSystem"]:
        """Run everything for the length of the block; afterwards nothing of it is left.

        Raises:
            CommandError: the port is taken, a program is missing, or something did not start.
            SettingsError: the file for real systems does not fit.
        """
        given = self._given()
        port = self.options.port
        refuse_taken(port)
        missing = missing_tools(default_cache_dir())
        if missing:
            raise CommandError(Exit.FINDING, "\n".join(missing))
        port = port or free_port()
        try:
            async with AsyncExitStack() as opened:
                self._session = await opened.enter_async_context(aiohttp.ClientSession())
                await self._open_backends(opened, given)
                self._put_logs_aside()
                self.env = self._environment(given, port)
                await self._open_log(opened)
                opened.push_async_callback(self._stop_simulators)
                if self.options.processes:
                    await self._open_children(opened, port)
                else:
                    await self._open_hosting(opened)
                if self.options.env_file is None:
                    await self._start_simulators(port)
                opened.callback((self.state_dir / STACK_FILE).unlink, missing_ok=True)
                self._write_stack_file()
                yield self
        except StateInUseError as used:
            raise CommandError(Exit.REFUSED, str(used)) from None
        except DevstackError as broken:
            raise CommandError(Exit.FINDING, str(broken)) from None

    async def watch(self) -> NoReturn:
        """Wait until something ends without being asked to; starts changed services again.

        Raises:
            CommandError: that happened; the text says which, the end of its log, what to do.
        """
        watches = [asyncio.ensure_future(self._watch_children())]
        if self._stack is not None:
            watches.append(asyncio.ensure_future(self._stack.watch()))
        if self._hosting is not None:
            watches.append(asyncio.ensure_future(self._watch_hosting(self._hosting)))
        if self.options.reload:
            watches.append(asyncio.ensure_future(self._reload()))
        try:
            await asyncio.gather(*watches)
        except DevstackError as died:
            raise CommandError(
                Exit.FINDING, f"{died}\nStart again; `bbl doctor` looks for causes."
            ) from None
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.wait(watches)
        raise AssertionError("a watch ended without a reason")

    def facts(self) -> StackFile:
        """Return what `stack.json` tells."""
        processes: dict[str, ProcessFacts] = {}
        kafka, redis = self.env["KAFKA_BOOTSTRAP_SERVERS"], self.env.get("REDIS_URL", "")
        if self._stack is not None:
            described = self._stack.describe()
            for name in ("kafka", "redis"):
                server = described["kafka"] if name == "kafka" else described["redis"]
                processes[name] = ProcessFacts(
                    pid=server["pid"], url=server["address"], log=server["log"]
                )
            redis = self._stack.redis.url
        if self._simulators is not None:
            processes["simulators"] = ProcessFacts(
                pid=self._simulators.pid, log=str(self._simulators.log)
            )
        for name, child in self.children.items():
            processes[name] = ProcessFacts(pid=child.pid, url=child.url, log=str(child.log))
        simulators = {} if self.simulated is None else self.simulated.told.model_dump(mode="json")
        return StackFile(
            pid=os.getpid(),
            command=self.options.command,
            started=self.started.isoformat(timespec="seconds"),
            state_dir=str(self.state_dir),
            logs=str(self.logs_dir),
            ingest=self.url,
            kafka=kafka,
            redis=redis,
            env=self._told_env(),
            env_file="" if self.options.env_file is None else str(self.options.env_file.absolute()),
            processes=processes,
            simulators=simulators,
        )

    # -- settings

    def _given(self) -> dict[str, str]:
        """Return what the file for real systems says, checked; nothing without one."""
        if self.options.env_file is None:
            return {}
        given = read_env_file(self.options.env_file)
        DocumentSyncSettings.from_env(given)
        if advoware_proxy.app in apps_of(given):
            ProxySettings.from_env(given)
        settings = IngestSettings.from_env(given)
        settings.webhooks.accepts_unsigned(HOST)
        return given

    def _environment(self, given: Mapping[str, str], port: int) -> dict[str, str]:
        caller = process_environment()
        env = {name: caller[name] for name in _TAKEN_OVER if name in caller} | dict(given)
        if self._stack is not None:
            env |= {
                "KAFKA_BOOTSTRAP_SERVERS": self._stack.kafka.bootstrap_servers,
                "REDIS_URL": self._stack.redis.url,
            }
        if self.options.env_file is None:
            crm, xai, advoware = (f"http://{HOST}:{free_port()}" for _ in range(3))
            env |= {
                "ESPOCRM_API_BASE_URL": f"{crm}/api/v1",
                "ESPOCRM_WEBHOOK_BASE_URL": f"http://{HOST}:{port}",
                "XAI_FILES_URL": xai,
                "XAI_MANAGEMENT_URL": xai,
                "ADVOWARE_CONFIGURATOR_URL": f"{advoware}/AdvonetConfigurator/api/Url",
                "ADVOWARE_API_BASE_URL": f"{advoware}/relay",
                "ADVOWARE_SECURITY_GATEWAY_URL": f"{advoware}/security",
                "BBL_DIGEST_KEY": _SAMPLE_DIGEST_KEY,
                "INGEST_UNSIGNED": "accept",
                **SAMPLE_KEYS,
            }
        return env | {
            "HTTP_HOST": HOST,
            "HTTP_PORT": str(port),
            "BBL_DRAIN_SECONDS": str(DRAIN_SECONDS),
            "LOG_FORMAT": "json",
        }

    def _told_env(self) -> dict[str, str]:
        """Return what may stand in a file: of real systems no secret."""
        if self.options.env_file is None:
            return dict(self.env)
        local = {} if self._stack is None else {"REDIS_URL": self._stack.redis.url}
        return {
            name: value
            for name, value in self.env.items()
            if name in CATALOGUE and not CATALOGUE[name].secret
        } | local

    # -- starting, stage by stage

    async def _open_backends(self, opened: AsyncExitStack, given: Mapping[str, str]) -> None:
        if given.get("KAFKA_BOOTSTRAP_SERVERS"):
            return
        await install_kafka(default_cache_dir(), self._tell)
        self._stack = Stack(self.state_dir, keep=self.options.keep, on_event=self._tell)
        await opened.enter_async_context(self._stack)
        if not self.options.keep:
            shutil.rmtree(self.state_dir / "simulators", ignore_errors=True)

    async def _open_log(self, opened: AsyncExitStack) -> None:
        options = KafkaSettings.from_env(self.env).client_options()
        with self._stage("topics", "Making topics") as done:
            source = str(self.options.env_file or self.state_dir)
            async with open_admin(Environment(self.env, source)) as kafka:
                wanted = list(topics.catalogue())
                if self._stack is None:
                    changes = await kafka.plan(wanted)
                    if changes:
                        raise CommandError(
                            Exit.REFUSED,
                            f"{len(changes)} topics at {self.env['KAFKA_BOOTSTRAP_SERVERS']} are not "
                            "as declared: see `bbl topics plan`, then `bbl topics apply --yes`",
                        )
                else:
                    await kafka.apply(wanted)
            done(f"{len(wanted)} topics are there")
        self._log = await opened.enter_async_context(KafkaLog(options, service="bbl"))
        try:
            await self._log.connected(READY_SECONDS)
        except LogUnavailableError as down:
            raise CommandError(Exit.UNREACHABLE, str(down)) from None

    async def _open_hosting(self, opened: AsyncExitStack) -> None:
        apps = apps_of(self.env)
        names = in_words([app.name for app in apps])
        log = self._fresh_log("services")
        stream = opened.enter_context(log.open("a", encoding="utf-8"))
        level: Any = self.env.get("LOG_LEVEL", "info").lower()
        logs.configure("json", level, stream, secrets=secret_values(self.env))
        opened.callback(logs.configure, "console", "error")
        with self._stage("services", f"Starting {names}") as done:
            self._hosting = await opened.enter_async_context(hosting(apps, self.env))
            self.url = self._hosting.url
            host = self._hosting
            await until_ready(
                f"{self.url}/readyz",
                names,
                log,
                self.session,
                seconds=READY_SECONDS,
                ended=host.broken.is_set,
            )
            done(f"{names} are ready, in this process")

    async def _open_children(self, opened: AsyncExitStack, port: int) -> None:
        env = _inherited() | self.env
        apps = apps_of(self.env)
        self.children = {
            app.name: ServiceChild(app, env, self._fresh_log(app.name)) for app in apps
        }
        opened.push_async_callback(self._stop_children)
        names = in_words([*self.children])
        with self._stage("services", f"Starting {names}") as done:
            await asyncio.gather(*(child.start() for child in self.children.values()))
            door = FrontDoor(apps, {name: child.url for name, child in self.children.items()})
            self.url = await opened.enter_async_context(door.listening(HOST, port))
            await asyncio.gather(
                *(child.ready(self.session, READY_SECONDS) for child in self.children.values())
            )
            done(f"{names} are ready, each in its own process")

    async def _start_simulators(self, port: int) -> None:
        log = self._fresh_log("simulators")
        crm = self.env["ESPOCRM_API_BASE_URL"].removesuffix("/api/v1")
        xai = self.env["XAI_FILES_URL"]
        advoware = self.env["ADVOWARE_API_BASE_URL"].removesuffix("/relay")
        folder = self.state_dir / "simulators"
        known = folder.exists()
        kept = ["--state-dir", str(folder)] if self.options.keep else []
        command = [
            str(Path(sys.executable).with_name("bitbylaw-simulators")),
            "--espocrm-port", crm.rpartition(":")[2],
            "--xai-port", xai.rpartition(":")[2],
            "--advoware-port", advoware.rpartition(":")[2],
            "--webhook-base", f"http://{HOST}:{port}",
            "--quirk", f"espocrm.delivery_seconds={DELIVERY_SECONDS}",
            "--quirk", "espocrm.webhook_retry_seconds=5",
            *kept,
        ]  # fmt: skip
        with self._stage("simulators", "Starting EspoCRM, xAI and Advoware as simulators") as done:
            self._simulators = Child("the simulators", command, _inherited(), log)
            await self._simulators.start()
            told = await self._told(self._simulators, log)
            self.simulated = Simulated(told, self.session)
            if known:
                await self.simulated.point_webhooks_at(f"http://{HOST}:{port}")
            done("EspoCRM, xAI and Advoware are ready, simulated")

    async def _told(self, simulators: Child, log: Path) -> Told:
        deadline = monotonic() + READY_SECONDS
        while True:
            told = _first_json(log)
            if told is not None:
                return told
            if simulators.died or monotonic() > deadline:
                raise CommandError(
                    Exit.FINDING,
                    f"the simulators did not start. The end of {log}:\n{ending(log)}",
                )
            await asyncio.sleep(0.02)  # a log tells only who looks

    async def _stop_simulators(self) -> None:
        if self._simulators is not None:
            await self._simulators.stop()

    async def _stop_children(self) -> None:
        await asyncio.gather(*(child.stop() for child in self.children.values()))

    # -- while it runs

    async def _watch_children(self) -> NoReturn:
        while True:
            for child in (*self.children.values(), self._simulators):
                if child is None or not child.died or child.name in self._restarting:
                    continue
                if not (child.killed and child.name in self.children and self._may_revive()):
                    raise child.death()
                await self.restart(child.name, "was killed")
            await asyncio.sleep(0.1)

    def _may_revive(self) -> bool:
        """Say whether a killed service is started again, as a cluster would; not without end."""
        now = monotonic()
        self._revived = [*(then for then in self._revived if now - then < 60), now]
        return len(self._revived) <= REVIVALS_A_MINUTE

    async def _watch_hosting(self, host: Hosting) -> NoReturn:
        await host.broken.wait()
        failure = host.failure
        log = self.logs_dir / "services.log"
        why = str(failure) if isinstance(failure, SettingsError) else type(failure).__name__
        raise CommandError(
            Exit.FINDING,
            f"a consumer ended by itself: {why}. The end of {log}:\n{ending(log)}\n"
            "Everything else is ended too; put right what the log names, then start again.",
        )

    async def _reload(self) -> NoReturn:
        sources = Sources(apps_of(self.env))
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            for name in sorted(await asyncio.to_thread(sources.changed)):
                await self.restart(name)

    async def restart(self, name: str, because: str = "changed") -> None:
        """Let a service drain, start it again, and return once it is ready or died."""
        child = self.children[name]
        self._restarting.add(name)
        try:
            with self._stage("reload", f"{name} {because}, starting it again") as done:
                await child.stop()
                await child.start()
                await child.ready(self.session, READY_SECONDS)
                done(f"{name} is ready again")
            self._write_stack_file()
        except CommandError as broken:
            # the source is being worked on: the next change starts it again
            self._tell(Progress("reload", str(broken)))
            await child.stop()
        finally:
            self._restarting.discard(name)

    # -- files and words

    def _write_stack_file(self) -> None:
        path = self.state_dir / STACK_FILE
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(self.facts().model_dump(mode="json"), indent=2) + "\n", "utf-8")
        draft.replace(path)

    def _fresh_log(self, name: str) -> Path:
        log = self.logs_dir / f"{name}.log"
        log.touch()
        return log

    def _put_logs_aside(self) -> None:
        """Let the logs of the run before end in `.1`, also of programs that do not run this time."""
        self.logs_dir.mkdir(parents=True, exist_ok=True)
        for name in ("services", "simulators", *(app.name for app in APPS)):
            log = self.logs_dir / f"{name}.log"
            if log.exists():
                log.replace(log.with_name(f"{log.name}.1"))

    def _tell(self, progress: Progress) -> None:
        if progress.seconds is not None:
            self.stages[progress.stage] = progress.seconds
            if progress.stage in ("download", "class archive"):
                self.download_seconds += progress.seconds
        self._on_stage(progress)

    def _stage(self, stage: str, begin: str) -> "_Stage":
        return _Stage(self._tell, stage, begin)


class _Stage:
    """Tells the beginning of a stage, and its end with its seconds where it has one."""

    def __init__(self, tell: Callable[[Progress], None], stage: str, begin: str) -> None:
        self._tell = tell
        self._stage = stage
        self._begin = begin
        self._started = 0.0

    def __enter__(self) -> Callable[[str], None]:
        self._started = monotonic()
        self._tell(Progress(self._stage, self._begin))
        return self._done

    def _done(self, text: str) -> None:
        self._tell(Progress(self._stage, text, monotonic() - self._started))

    def __exit__(self, *_: object) -> None:
        """Leave; a stage that failed has no end to tell."""


SAMPLE_KEYS = {
    "ESPOCRM_API_KEY": "7f3c9a5d1e8b4c6fa0d2e9b7c4a1f8e6",
    "XAI_API_KEY": "xai-simulated-api-key",
    "XAI_MANAGEMENT_KEY": "xai-token-simulated-management-key",
    "ADVOWARE_APP_ID": "bitbylaw-simulated-app",
    "ADVOWARE_API_KEY": "c2ltdWxhdGVkLWFkdm93YXJlLWFwaS1rZXk=",
    "ADVOWARE_KANZLEI": "sim+4711",
    "ADVOWARE_DATABASE": "musterkanzlei",
    "ADVOWARE_USER": "SB",
    "ADVOWARE_PASSWORD": "simuliertes-kennwort",
}
"""The keys that the simulators accept; they open nothing else."""


def apps_of(env: Mapping[str, str]) -> tuple[App[Any], ...]:
    """Return what runs with this environment; the proxy only where there is an Advoware to ask."""
    return (
        APPS
        if env.get("ADVOWARE_APP_ID", "").strip()
        else tuple(app for app in APPS if app is not advoware_proxy.app)
    )


def in_words(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def refuse_taken(port: int) -> None:
    """Return when `port` is free.

    Raises:
        CommandError: somebody listens there; the text says who.
    """
    if port == 0 or is_free(port):
        return
    holder = holder_of(port)
    who = "another program" if holder is None else f"process {holder.pid} ({holder.command})"
    raise CommandError(
        Exit.REFUSED,
        f"port {port} is held by {who}: end it first, or give another port with --port",
    )


def _first_json(log: Path) -> Told | None:
    """Return what the simulators printed; None while the line is not whole."""
    lines = log.read_text("utf-8").splitlines(keepends=True)
    line = next((one for one in lines if one.startswith("{") and one.endswith("\n")), None)
    return None if line is None else Told.model_validate_json(line)


def _inherited() -> dict[str, str]:
    """Return what children take from our environment: nothing that a service would read."""
    return {
        name: value
        for name, value in process_environment().items()
        if name not in CATALOGUE and not name.startswith(PREFIXES)
    }


async def until_signalled(work: Awaitable[T], on_signal: Callable[[], None]) -> T | None:
    """Return what `work` returns; None when SIGINT, SIGTERM or SIGHUP ended it, in order.

    A second signal ends the process at once; its children follow within seconds.
    """
    task = asyncio.ensure_future(work)
    signalled = False

    def told() -> None:
        nonlocal signalled
        if signalled:
            os._exit(130)
        signalled = True
        on_signal()
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told)
    try:
        await asyncio.wait([task])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
    return None if task.cancelled() else task.result()
