"""Hosts apps in one process: routes and control on one port, a Kafka member per consuming app."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bitbylaw_common import metrics, topics, tracing
from bitbylaw_common.clock import Clock, SystemClock
from bitbylaw_common.errors import LogUnavailableError, SettingsError
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.locks import redis_locks
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.commands import Commands, Obeys
from bitbylaw_common.runtime.control import FunctionInfo, functions_of
from bitbylaw_common.runtime.desk import StepHealth, WorkerOptions
from bitbylaw_common.runtime.fleet import Fleet
from bitbylaw_common.runtime.gates import Gates
from bitbylaw_common.runtime.gathering import Gathering
from bitbylaw_common.runtime.hosts.http_host import HttpHost, Route
from bitbylaw_common.runtime.hosts.kafka_host import KafkaHost
from bitbylaw_common.runtime.http_run import RunRequest, http_run
from bitbylaw_common.runtime.loop_watch import watching
from bitbylaw_common.runtime.ports import Appends
from bitbylaw_common.runtime.status import StatusReports, WorkerStatus
from bitbylaw_common.runtime.triggers import ApiRequest, ApiResponse
from bitbylaw_common.settings import (
    KafkaSettings,
    RedisSettings,
    RuntimeSettings,
    TraceSettings,
)
from bitbylaw_common.sync.brake import Brake
from bitbylaw_common.topics import Topic

JOURNAL_SECONDS = 0.1
"""Well below the time between two commits, which wait for the journal; one append serves all runs that
ended meanwhile, and each costs the broker as much as taking a webhook."""

LAST_WORDS_SECONDS = 5.0
"""How long a process that stops tries to write a halt that Kafka has not acknowledged yet."""

STUCK_SECONDS = 40.0
"""A consumer that has not moved for so long should be restarted; noticed within a minute."""


@dataclass
class _Hosted:
    """One app in this process.

    Attributes:
        http_health: of the steps that requests start, by step name.
        consumer: its Kafka member, once it is open; None for an app of routes only.
        gates: which of its steps may start.
        brake: what holds back too many changes; None where it syncs nothing.
    """

    app: App[Any]
    http_health: dict[str, StepHealth] = field(default_factory=dict)
    consumer: KafkaHost[Any] | None = None
    gates: Gates | None = None
    brake: Brake | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Hosting:
    """The process as its control endpoints see it.

    Attributes:
        url: where routes and control are served.
        broken: set when a consumer ended by itself; `failure` says why.
    """

    def __init__(self, apps: Sequence[App[Any]], instance: str) -> None:
        self.url = ""
        self.broken = asyncio.Event()
        self.failure: BaseException | None = None
        self.draining = False
        self.hosted = [_Hosted(app) for app in apps]
        self.fleet: Fleet | None = None
        self.reports: StatusReports | None = None
        self.commands: Commands | None = None
        self._instance = instance

    def healthy(self) -> list[str]:
        """Return why this process should be restarted; nothing while it moves."""
        reasons = [
            f"{hosted.app.name} stopped moving {seconds:.0f} s ago"
            for hosted in self.hosted
            if hosted.consumer is not None
            and (seconds := hosted.consumer.stuck_for()) > STUCK_SECONDS
        ]
        if self.failure is not None:
            reasons.append(f"a consumer ended: {type(self.failure).__name__}")
        return reasons

    def ready(self) -> list[str]:
        """Return why nothing should be sent here now."""
        if self.draining:
            return ["draining"]
        return [
            f"{hosted.app.name} has not joined its group yet"
            for hosted in self.hosted
            if hosted.app.works_on_records
            and (hosted.consumer is None or not hosted.consumer.joined)
        ]

    def functions(self) -> list[FunctionInfo]:
        """Return the fleet's functions."""
        return self.own_functions() if self.fleet is None else self.fleet.functions()

    async def trigger(self, function_id: str) -> str:
        """See `Fleet.trigger`."""
        if self.fleet is None:
            raise LogUnavailableError("this process is not connected to Kafka yet")
        return await self.fleet.trigger(function_id)

    def statuses(self) -> list[WorkerStatus]:
        """Return how each worker of this process stands."""
        return [
            hosted.consumer.worker.status(hosted.gates.states() if hosted.gates else ())
            for hosted in self.hosted
            if hosted.consumer is not None
        ]

    def own_functions(self) -> list[FunctionInfo]:
        """Return what this process declares, with how its steps went."""
        found: list[FunctionInfo] = []
        for hosted in self.hosted:
            consumer = hosted.consumer
            health = dict(hosted.http_health) | dict(consumer.worker.health if consumer else {})
            for info in functions_of(hosted.app, owner=self._instance):
                went = health.get(info.name, StepHealth())
                found.append(
                    info.model_copy(
                        update={
                            "last_success": went.last_success,
                            "last_failure": went.last_failure,
                            "lag": consumer.lag
                            if consumer is not None and info.trigger.type == "queue"
                            else None,
                        }
                    )
                )
        return found

    def watch(self, task: asyncio.Task[None]) -> None:
        """Take note when a task that should last for ever ends."""
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.failure = error
            self.broken.set()


def topics_of(app: App[Any]) -> tuple[Topic[Any], ...]:
    """Return every topic that hosting `app` touches."""
    enqueued = tuple(topic for step in app.steps for topic in step.enqueues)
    kept = topics.of_service(app.name) if app.works_on_records else ()
    unique = {t.name: t for t in (*app.consumes, *enqueued, *kept, topics.FUNCTIONS)}
    if app.works_on_records:
        unique |= {topic.name: topic for topic in (topics.JOURNAL, topics.COMMANDS, topics.WORKERS)}
    return tuple(unique.values())


@asynccontextmanager
async def hosting(
    apps: Sequence[App[Any]], env: Mapping[str, str], *, clock: Clock | None = None
) -> AsyncIterator[Hosting]:
    """Host the apps while the block lasts; leaving drains and commits.

    The port answers from the first moment, with 503 where Kafka is needed and away, because
    EspoCRM loses an event when a connection is refused.

    Raises:
        SettingsError: the environment does not fit, the port is taken, or a topic is missing.
    """
    clock = clock or SystemClock()
    runtime = RuntimeSettings.from_env(env)
    connect = KafkaSettings.from_env(env).client_options()
    redis = RedisSettings.from_env(env)
    instance = runtime.instance or f"{socket.gethostname()}-{os.getpid()}"
    options = WorkerOptions(
        instance=instance,
        concurrency=runtime.concurrency,
        code_version=runtime.version,
        journal_seconds=JOURNAL_SECONDS,
    )
    hosting = Hosting(apps, instance)
    names = "+".join(app.name for app in apps)
    traces = TraceSettings.from_env(env)
    async with AsyncExitStack() as opened:
        # First in, last out: what stopping does is exported too.
        await opened.enter_async_context(
            tracing.export(traces, service=names, version=runtime.version, instance=instance)
        )
        routes: list[Route] = []
        tasks: list[asyncio.Task[None]] = []
        await opened.enter_async_context(watching(names))
        opened.push_async_callback(_cancel, tasks)
        starting = []
        log = await opened.enter_async_context(KafkaLog(connect, service=names))
        for hosted in hosting.hosted:
            metrics.build_info(hosted.app.name, runtime.version)
            deps = await opened.enter_async_context(hosted.app.open_deps(env))
            routes += _routes(hosted, deps, log, clock)
            if not hosted.app.works_on_records:
                continue
            locks = await opened.enter_async_context(redis_locks(redis, service=hosted.app.name))
            hosted.brake = getattr(deps, "brake", None)
            hosted.gates = Gates(
                hosted.app.name,
                [step.name for step in hosted.app.steps if not step.http_triggers],
                clock=clock,
                code_version=runtime.version,
                instance=instance,
            )
            hosted.consumer = KafkaHost(
                hosted.app,
                deps,
                gates=hosted.gates,
                connect=connect,
                log=log,
                clock=clock,
                locks=locks,
                options=options,
                instance=runtime.instance,
                session_seconds=runtime.session_seconds,
                drain_seconds=runtime.drain_seconds,
            )
            opened.push_async_callback(hosted.consumer.close)
            _check_times(hosted.app.name, hosted.consumer.drain_seconds, runtime)
            starting.append(hosted)
        http = await opened.enter_async_context(
            HttpHost(
                routes,
                hosting,
                host=runtime.http_host,
                port=runtime.http_port,
                control_key=runtime.control_key,
            )
        )
        hosting.url = http.url
        hosting.fleet = Fleet(hosting.own_functions, log, clock, source=names)
        hosting.reports = StatusReports(hosting.statuses, log, clock, source=names)
        opened.push_async_callback(_drain, hosting)
        begin = asyncio.create_task(
            _begin(hosting, starting, log=log, connect=connect, clock=clock, tasks=tasks)
        )
        begin.add_done_callback(hosting.watch)
        tasks.append(begin)
        yield hosting


def _check_times(name: str, drain_seconds: float, runtime: RuntimeSettings) -> None:
    """Refuse a platform that kills the process before what runs can end and be committed.

    Raises:
        SettingsError: BBL_GRACE_SECONDS is shorter than the drain plus 30 s, the time that a
            rebalance and the last commits may take.
    """
    grace = runtime.grace_seconds
    if grace is not None and grace < drain_seconds + 30:
        raise SettingsError(
            f"BBL_GRACE_SECONDS={grace:g} is too short: {name} drains for up to "
            f"{drain_seconds:g} s and needs 30 s more; set it, and the platform's grace period, "
            f"to at least {drain_seconds + 30:g}"
        )


async def _begin(
    hosting: Hosting,
    starting: Sequence[_Hosted],
    *,
    log: KafkaLog,
    connect: Mapping[str, Any],
    clock: Clock,
    tasks: list[asyncio.Task[None]],
) -> None:
    """Wait for Kafka, check the topics, then start the consumers."""
    logger = step_logger(service="+".join(hosted.app.name for hosted in hosting.hosted))
    while True:
        try:
            await log.connected(30)
            await _check_topics(hosting, connect)
            break
        except LogUnavailableError as down:
            logger.warning("waiting for Kafka", error=str(down))

    def lasting(*works: Coroutine[Any, Any, None]) -> None:
        for work in works:
            task = asyncio.create_task(work)
            task.add_done_callback(hosting.watch)
            tasks.append(task)

    if hosting.fleet is not None:
        lasting(hosting.fleet.publish(), hosting.fleet.follow())
    if hosting.reports is not None and starting:
        lasting(hosting.reports.publish())
    obeying: list[Obeys] = [
        one for hosted in starting for one in (hosted.gates, hosted.brake) if one is not None
    ]
    if obeying:
        source = "+".join(hosted.app.name for hosted in starting)
        commands = hosting.commands = Commands(log, clock, obeying, source=source)
        lasting(commands.follow(log), commands.publish())
        # What is paused, halted or braked must not start for a moment.
        await commands.loaded.wait()
    for hosted in starting:
        if hosted.consumer is not None and not hosting.draining:
            hosted.task = asyncio.create_task(hosted.consumer.run(hosted.stopping))
            hosted.task.add_done_callback(hosting.watch)


async def _check_topics(hosting: Hosting, connect: Mapping[str, Any]) -> None:
    wanted = {t.name: t for hosted in hosting.hosted for t in topics_of(hosted.app)}
    async with admin(connect) as kafka:
        missing = [c.topic for c in await kafka.plan(wanted.values()) if c.kind == "create"]
    if missing:
        raise SettingsError(
            f"Kafka at KAFKA_BOOTSTRAP_SERVERS lacks {len(missing)} topics, the first is "
            f"{min(missing)}; create them with: bbl topics apply --yes"
        )


async def _drain(hosting: Hosting) -> None:
    """Let every consumer finish what it began, commit and leave."""
    hosting.draining = True
    running = [hosted for hosted in hosting.hosted if hosted.task is not None]
    for hosted in running:
        hosted.stopping.set()
    for hosted in running:
        if hosted.task is not None and hosted.consumer is not None:
            limit = hosted.consumer.drain_seconds + 10
            _, late = await asyncio.wait({hosted.task}, timeout=limit)
            if late:
                hosted.task.cancel()
                await asyncio.wait(late, timeout=5)
    if hosting.commands is not None:
        await hosting.commands.last_words(LAST_WORDS_SECONDS)
    if hosting.reports is not None:
        await hosting.reports.withdraw()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=5)


def _routes(hosted: _Hosted, deps: Any, log: KafkaLog, clock: Clock) -> list[Route]:
    found: list[Route] = []
    seconds = hosted.app.gather_seconds
    appends: Appends = Gathering(log, seconds) if seconds else log
    for step in hosted.app.steps:
        if not step.http_triggers:
            continue
        health = hosted.http_health.setdefault(step.name, StepHealth())
        run = _noting(http_run(hosted.app, step, deps, appends, clock), health, clock)
        found += [Route(step.name, trigger, run) for trigger in step.http_triggers]
    return found


def _noting(run: RunRequest, health: StepHealth, clock: Clock) -> RunRequest:
    """Note how the requests of a step went; an answer below 500 is a success of ours."""

    async def noted(request: ApiRequest[Any]) -> ApiResponse:
        try:
            answer = await run(request)
        except BaseException:
            health.last_failure = clock.now()
            raise
        if answer.status < 500:
            health.last_success = clock.now()
        else:
            health.last_failure = clock.now()
        return answer

    return noted
