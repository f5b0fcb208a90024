"""What every service answers about itself: alive, ready, metrics, its functions, run this cron."""

import asyncio
import difflib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from bitbylaw_common import metrics
from bitbylaw_common.errors import BitByLawError, SettingsError
from bitbylaw_common.events import Event
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.triggers import (
    ApiRequest,
    ApiResponse,
    CronTrigger,
    HttpTrigger,
    QueueTrigger,
    Trigger,
    http,
)
from bitbylaw_common.settings import is_loopback

TriggerKind = Literal["http", "queue", "cron"]
Endpoint = tuple[HttpTrigger[bytes], Callable[[ApiRequest[Any]], Awaitable[ApiResponse]]]

NEAREST = 3
"""How many ids an answer suggests in place of an unknown one."""


class TriggerInfo(BaseModel):
    """What starts a function.

    Attributes:
        config: `method` and `path`, `topic`, or `expression`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    type: TriggerKind
    config: Mapping[str, str]


class FunctionInfo(Event):
    """One trigger of one declared step: a line of `/_console/functions`, a record of
    `control.functions`.

    Attributes:
        function_id: the seed's id, `steps::Name::trigger::0`.
        service: whose step it is.
        enqueues: names of the topics it may publish to.
        last_success, last_failure: when a run last ended so, UTC; None while none did.
        lag: records that wait for it; None where it takes none.
        owner: the process that answers for it.
    """  # noqa: D205 - one sentence that needs two lines

    type: ClassVar[str] = "bitbylaw.function.declared"

    function_id: str
    name: str
    description: str
    service: str
    flows: tuple[str, ...]
    trigger: TriggerInfo
    enqueues: tuple[str, ...]
    last_success: datetime | None = None
    last_failure: datetime | None = None
    lag: int | None = None
    owner: str = ""

    @property
    def key(self) -> str:
        """The function's id: its newest declaration is the one that counts."""
        return self.function_id

    @property
    def entity(self) -> str:
        """Functions are their own kind."""
        return "function"


class UnknownFunction(BitByLawError):  # noqa: N818 - reads as the kind of answer it is
    """No cron of the fleet has this function id."""


class ControlPort(Protocol):
    """What a process knows about itself."""

    def healthy(self) -> Sequence[str]:
        """Return why this process should be restarted, in words; nothing when it moves.

        Outside systems, and Kafka or Redis being away, are no reason.
        """
        ...

    def ready(self) -> Sequence[str]:
        """Return why no request should be sent here now, in words; nothing when they should."""
        ...

    def functions(self) -> Sequence[FunctionInfo]:
        """Return the functions of the whole fleet, as far as this process knows them."""
        ...

    async def trigger(self, function_id: str) -> str:
        """Ask the owner to run a cron now; return the run's id once that is acknowledged.

        Raises:
            UnknownFunction: there is no such cron.
            LogUnavailableError: Kafka did not acknowledge in time.
        """
        ...


def functions_of(app: App[Any], *, owner: str) -> tuple[FunctionInfo, ...]:
    """Return what `app` declares: one entry per trigger, as nothing had run yet."""
    return tuple(
        FunctionInfo(
            function_id=step.function_id(number),
            name=step.name,
            description=step.description,
            service=app.name,
            flows=step.flows,
            trigger=_trigger_info(trigger),
            enqueues=tuple(topic.name for topic in step.enqueues),
            owner=owner,
        )
        for step in app.steps
        for number, trigger in enumerate(step.triggers)
    )


def _trigger_info(trigger: Trigger[Any, Any]) -> TriggerInfo:
    match trigger:
        case HttpTrigger():
            return TriggerInfo(type="http", config={"method": trigger.method, "path": trigger.path})
        case QueueTrigger():
            return TriggerInfo(type="queue", config={"topic": trigger.topic.name})
        case CronTrigger():
            return TriggerInfo(type="cron", config={"expression": trigger.expression.text})
        case _:
            raise TypeError(f"{type(trigger).__name__} is no kind of trigger")


class Keys:
    """The keys that callers may show, in `apikey` or as `Authorization: Bearer`.

    Without any key everybody is admitted; `guarding` allows that on this machine only.
    """

    def __init__(self, *keys: SecretStr) -> None:
        self._keys = tuple(key.get_secret_value().encode() for key in keys)

    @classmethod
    def guarding(cls, what: str, key: SecretStr | None, *, variable: str, host: str) -> "Keys":
        """Return the keys of `what`, which listens on `host`.

        Without a key it is open on a loopback address, and one warning says so.

        Raises:
            SettingsError: no key, and `host` can be reached from outside.
        """
        if key is not None:
            return cls(key)
        if not is_loopback(host):
            raise SettingsError(
                f"HTTP_HOST={host} can be reached from outside, and {what} has no key: set "
                f"{variable} (`openssl rand -hex 32` makes one), or HTTP_HOST=127.0.0.1"
            )
        step_logger().warning(
            f"{what} is open to everybody on this machine: {variable} is not set", host=host
        )
        return cls()

    @property
    def asked_for(self) -> bool:
        """Whether a caller needs a key at all."""
        return bool(self._keys)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Say whether the caller with these headers (names in lower case) shows one of the keys."""
        if not self._keys:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        shown = [headers.get("apikey", "")]
        if scheme.lower() == "bearer":
            shown.append(token.strip())
        offered = [one.encode(errors="surrogateescape") for one in shown]
        return any(hmac.compare_digest(key, one) for key in self._keys for one in offered)


class _CronRequest(BaseModel):
    function_id: Annotated[str, Field(min_length=1, max_length=256)]


class Control:
    """The control endpoints over a port.

    Probes are open, since they carry nothing; everything else asks for a key where one is set.
    """

    def __init__(self, port: ControlPort, keys: Keys) -> None:
        self._port = port
        self._keys = keys

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return each endpoint's trigger and what answers it."""
        return (
            (http("GET", "/healthz"), self.healthz),
            (http("GET", "/readyz"), self.readyz),
            (http("GET", "/metrics"), self.metrics),
            (http("GET", "/_console/functions"), self.functions),
            (http("POST", "/_console/cron/trigger", max_body_bytes=4096), self.trigger),
        )

    async def healthz(self, request: ApiRequest[Any]) -> ApiResponse:
        """Answer 200 while the process moves, 503 with the reasons when it should be restarted."""
        return _probe(self._port.healthy(), well="ok", otherwise="stuck")

    async def readyz(self, request: ApiRequest[Any]) -> ApiResponse:
        """Answer 200 when requests should be sent here, 503 with the reasons when not."""
        return _probe(self._port.ready(), well="ready", otherwise="not ready")

    async def metrics(self, request: ApiRequest[Any]) -> ApiResponse:
        """Answer with all metrics, as Prometheus reads them."""
        if not self._keys.admits(request.headers):
            return _refused()
        page, content_type = await asyncio.to_thread(metrics.render)
        return ApiResponse(200, page, {"content-type": content_type})

    async def functions(self, request: ApiRequest[Any]) -> ApiResponse:
        """Answer with the fleet's functions."""
        if not self._keys.admits(request.headers):
            return _refused()
        found = sorted(self._port.functions(), key=lambda info: (info.service, info.function_id))
        return ApiResponse(200, {"functions": [info.model_dump(mode="json") for info in found]})

    async def trigger(self, request: ApiRequest[Any]) -> ApiResponse:
        """Ask for one run of a cron now: 202 with its run id, 404 with the nearest ids."""
        if not self._keys.admits(request.headers):
            return _refused()
        if not self._keys.asked_for and not _is_json(request.headers):
            # a page open in a browser may post anywhere, but not as JSON
            return ApiResponse(400, {"error": "send the body as content-type: application/json"})
        try:
            function_id = _CronRequest.model_validate_json(request.raw).function_id
        except ValidationError:
            return ApiResponse(
                400, {"error": 'the body must be {"function_id": "steps::Name::trigger::0"}'}
            )
        found = {info.function_id: info for info in self._port.functions()}
        info = found.get(function_id)
        if info is not None and info.trigger.type != "cron":
            kind = info.trigger.type
            return ApiResponse(400, {"error": f"{info.name} is started by {kind}, not by a cron"})
        if info is None:
            return _unknown(function_id, found.values())
        try:
            run_id = await self._port.trigger(function_id)
        except UnknownFunction:
            return _unknown(function_id, found.values())
        return ApiResponse(202, {"function_id": function_id, "run_id": run_id})


def _probe(reasons: Sequence[str], *, well: str, otherwise: str) -> ApiResponse:
    if not reasons:
        return ApiResponse(200, {"status": well})
    return ApiResponse(503, {"status": otherwise, "reasons": list(reasons)})


def _refused() -> ApiResponse:
    return ApiResponse(
        401,
        {"error": "a key is needed, in the header apikey or as Authorization: Bearer"},
        {"www-authenticate": "Bearer"},
    )


def _unknown(function_id: str, known: Iterable[FunctionInfo]) -> ApiResponse:
    crons = sorted(info.function_id for info in known if info.trigger.type == "cron")
    near = difflib.get_close_matches(function_id, crons, n=NEAREST, cutoff=0.0)
    return ApiResponse(404, {"error": "no cron has this function_id", "nearest": near})


def _is_json(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
