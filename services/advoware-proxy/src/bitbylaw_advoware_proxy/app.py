"""advoware-proxy as an app: programs ask Advoware through one guarded door."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bitbylaw_advoware_proxy.deps import Deps, Door, Upstream
from bitbylaw_advoware_proxy.settings import ProxySettings
from bitbylaw_advoware_proxy.steps import advoware_openapi_api_step, advoware_proxy_api_step
from bitbylaw_advoware_proxy.trail import GATHER_SECONDS, Trail
from bitbylaw_common import metrics, tracing
from bitbylaw_common.circuits import Circuits
from bitbylaw_common.clients.advoware import open_advoware
from bitbylaw_common.clients.advoware_auth import SYSTEM
from bitbylaw_common.clock import Clock, SystemClock
from bitbylaw_common.deadlines import Deadlines
from bitbylaw_common.http.aiohttp_transport import LIMITS, aiohttp_transport
from bitbylaw_common.http.guarded import GuardedTransport
from bitbylaw_common.http.transport import Transport
from bitbylaw_common.limits import Limits, shared_limits
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime import App
from bitbylaw_common.runtime.context import StepLogger
from bitbylaw_common.runtime.run import run


def deps_of(advoware: Upstream, settings: ProxySettings, clock: Clock, logger: StepLogger) -> Deps:
    """Return the deps over any Advoware: the real one, or a test's. Their trail is to be closed.

    Raises:
        SettingsError: nobody needs a key, and the port can be reached from outside.
    """
    if settings.is_open:
        logger.warning(
            "Advoware is open to everybody on this machine: ADVOWARE_PROXY_CALLERS is not set",
            host=settings.runtime.http_host,
        )
    return Deps(
        advoware,
        Door(settings.callers, clock),
        Trail(logger),
        settings.advoware.path_prefix,
        clock,
        Deadlines(settings.advoware.timeout_seconds),
        settings.timeout_seconds,
        as_original=settings.status == "original",
    )


@asynccontextmanager
async def deps_over(
    transport: Transport,
    settings: ProxySettings,
    clock: Clock,
    limits: Limits | None = None,
) -> AsyncIterator[Deps]:
    """Open the deps over any transport; people's calls come before those of syncs.

    Raises:
        SettingsError: as `deps_of`.
    """
    circuits = Circuits(clock, limits)
    guarded = GuardedTransport(
        transport, circuits=circuits, clock=clock, limits=limits, priority="interactive"
    )
    async with open_advoware(settings.advoware, settings.redis, guarded, clock) as advoware:
        circuits.declare(SYSTEM, advoware.check)
        deps = deps_of(advoware, settings, clock, step_logger(service="advoware-proxy"))
        try:
            yield deps
        finally:
            await deps.trail.close()
            await circuits.close()


@asynccontextmanager
async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Deps]:
    """Open what the environment describes; connections are closed at the end of the block.

    Raises:
        SettingsError: the environment does not fit, or calls would be open to anybody who can
            reach the port.
    """
    settings, clock = ProxySettings.from_env(env), SystemClock()
    rates = {SYSTEM: settings.advoware.rate_per_second}
    async with (
        aiohttp_transport(
            clock=clock,
            per_system_limits={**LIMITS, SYSTEM: settings.advoware.concurrency},
            on_exchange=metrics.outside_request,
            traceparent=tracing.outgoing,
        ) as transport,
        shared_limits(settings.redis, clock, rates) as limits,
        deps_over(transport, settings, clock, limits) as deps,
    ):
        yield deps


app = App(
    "advoware-proxy",
    (*advoware_proxy_api_step.STEPS, advoware_openapi_api_step.openapi),
    open_deps,
    gather_seconds=GATHER_SECONDS,
)


def main() -> None:
    """Run the proxy until it is told to stop."""
    run(app)
