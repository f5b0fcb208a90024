"""The four verbs of the proxy: the caller's request goes to Advoware, its answer comes back."""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

from bitbylaw_advoware_proxy.deps import Deps, UpstreamAnswer
from bitbylaw_advoware_proxy.domain.answers import (
    AFTER,
    BEFORE,
    EMPTY,
    JSON_TYPE,
    NO_CONTENT,
    announced_bytes,
    beginning,
    forwarded,
    has_body,
    is_json,
    kept,
    phrase,
    words_of,
)
from bitbylaw_advoware_proxy.domain.callers import METHODS, Caller
from bitbylaw_advoware_proxy.domain.rules import IN_WORDS, Refusal, Target, target
from bitbylaw_advoware_proxy.relay import Patience, Relay
from bitbylaw_common import metrics, topics
from bitbylaw_common.circuits import working_on
from bitbylaw_common.clients.advoware import Method
from bitbylaw_common.errors import (
    HeldBack,
    Invalid,
    OutsideError,
    RateLimited,
    TimedOut,
    Unauthorized,
)
from bitbylaw_common.events import ProxyAnswered
from bitbylaw_common.runtime import ApiRequest, ApiResponse, Context, Step, http, step
from bitbylaw_common.runtime.hosts.http_host import BodyStalled, BodyTooLarge

ROUTE = "/advoware/proxy"

MAX_BODY_BYTES = 512 * topics.MIB
"""Of a request; it is streamed, so this guards Advoware, not our memory."""

INLINE_BYTES = 64 * 1024
"""An answer that is announced no longer is read before the first byte of ours is sent."""

_WORDS_BYTES = 16 * 1024
_CALLER_GONE = 499

Chunks = AsyncIterator[bytes]


@dataclass(slots=True)
class Exchange:
    """One call of a caller who is known, from the request to the end of the answer.

    Attributes:
        began: seconds of `Deps.clock.monotonic`.
        target: None when the caller named none that may be asked for.
    """

    ctx: Context[Deps]
    method: Method
    caller: Caller
    began: float
    target: Target | None = None
    _noted: bool = field(default=False)

    def answered(self, status: int, *, whole: bool = True) -> None:
        """Note how it ended; only the first time counts."""
        if self._noted:
            return
        self._noted = True
        seconds = self.ctx.deps.clock.monotonic() - self.began
        event = ProxyAnswered(
            request_id=self.ctx.run_id,
            method=self.method,
            endpoint="" if self.target is None else self.target.address,
            status=status,
            duration_ms=round(seconds * 1000),
            caller=self.caller.name,
            whole=whole,
        )
        self.ctx.deps.trail.note(self.ctx, event)


def proxy_step(method: Method) -> Step[ApiRequest[Chunks], ApiResponse, Deps]:
    """Return the step that passes on calls with this method."""

    @step(
        name=f"Advoware Proxy {method}",
        description=f"Passes {method} on to the Advoware endpoint that the query names",
        flows=["advoware"],
        triggers=[http(method, ROUTE, body="stream", max_body_bytes=MAX_BODY_BYTES)],
        enqueues=[topics.PROXY_RESPONSE],
    )
    async def proxy(request: ApiRequest[Chunks], ctx: Context[Deps]) -> ApiResponse:
        answer = await _answer(method, request, ctx)
        return _with_header(answer, "x-request-id", ctx.run_id)

    return proxy


async def _answer(method: Method, request: ApiRequest[Chunks], ctx: Context[Deps]) -> ApiResponse:
    deps = ctx.deps
    caller = deps.door.caller(request.headers)
    if caller is None:
        metrics.PROXY_REFUSED.labels("key").inc()
        return key_needed()
    wait = deps.door.wait(caller)
    if wait:
        metrics.PROXY_REFUSED.labels("rate").inc()
        return _problem(
            429, f"{caller.name} may make {caller.per_minute} calls a minute", retry_after=wait
        )
    exchange = Exchange(ctx, method, caller, deps.clock.monotonic())
    found = target(request.raw_query, deps.prefix)
    if isinstance(found, Refusal):
        metrics.PROXY_REFUSED.labels(found.value).inc()
        exchange.answered(400)
        return _endpoint_refused(found)
    exchange.target = found
    if not caller.may(method, found):
        metrics.PROXY_REFUSED.labels("scope").inc()
        exchange.answered(403)
        return _problem(403, f"the key of {caller.name} is not good for {method} of this endpoint")
    try:
        return await _passed_on(request, exchange, found)
    except (OutsideError, BodyTooLarge, BodyStalled) as failed:
        answer = _failure(failed, deps)
        ctx.logger.warning(
            "a call is not answered by Advoware",
            method=method,
            endpoint=found.address,
            caller=caller.name,
            status=answer.status,
            error=str(failed),
        )
        exchange.answered(answer.status)
        return answer
    except asyncio.CancelledError:
        exchange.answered(_CALLER_GONE, whole=False)
        raise
    except Exception:
        exchange.answered(500, whole=False)
        raise


async def _passed_on(request: ApiRequest[Chunks], exchange: Exchange, found: Target) -> ApiResponse:
    """Send the call on and return the answer, streamed unless it is short.

    Raises:
        OutsideError: no answer of Advoware's came, or it broke off before ours began.
        BodyTooLarge, BodyStalled: the caller's body.
    """
    deps = exchange.ctx.deps
    patience = Patience(deps.patience)
    brings = exchange.method != "GET" and has_body(request.headers)
    call = deps.advoware.call(
        exchange.method,
        found.endpoint,
        query=found.query,
        headers=forwarded(request.headers, has_body=brings),
        body=patience.watched(request.body) if brings else None,
        timeout_seconds=deps.timeout_seconds,
    )
    # No answer, or no login, counts by program: one with a broken endpoint is no outage.
    with working_on(("caller", exchange.caller.name)), patience:
        answer = await call.__aenter__()
    relay = Relay(answer, call, patience)
    try:
        taken = _success if 200 <= answer.status < 300 else _refusal
        ours = await taken(answer, relay, deps)
    except BaseException as broken:
        await relay.fail(broken)
        raise
    status = ours.status
    if ours.body is relay:
        # It must not hold `ours`, which holds it: what goes in a circle waits for the collector.
        relay.on_end = lambda whole: exchange.answered(status, whole=whole)
        return ours
    await relay.aclose()
    exchange.answered(status)
    return ours


async def _success(answer: UpstreamAnswer, relay: Relay, deps: Deps) -> ApiResponse:
    status = 200 if deps.as_original or answer.status in NO_CONTENT else answer.status
    kind = answer.headers.get("Content-Type", "")
    wrapped = is_json(kind)
    announced = announced_bytes(answer.headers)
    if announced is not None and announced <= INLINE_BYTES:
        body = await relay.read(INLINE_BYTES)
        headers = {"content-type": JSON_TYPE}
        if not wrapped and (body or kind):
            headers = kept(answer.headers)
        else:
            text = beginning(body, first=True)
            body = BEFORE + text + AFTER if text else EMPTY
        return ApiResponse(status, relay, {**headers, "content-length": str(relay.give(body))})
    if not await relay.begin(as_json=wrapped) and not kind:
        return ApiResponse(status, EMPTY, {"content-type": JSON_TYPE})
    headers = {"content-type": JSON_TYPE} if wrapped else kept(answer.headers)
    return ApiResponse(status, relay, headers)


async def _refusal(answer: UpstreamAnswer, relay: Relay, deps: Deps) -> ApiResponse:
    """Return the error that an answer without success becomes."""
    said = f"Advoware answered {answer.status}"
    status = 502
    if 400 <= answer.status < 500:
        status = answer.status
        words = words_of(answer.headers.get("Content-Type", ""), await relay.read(_WORDS_BYTES))
        said = words or said
    ours = _original(said) if deps.as_original else _problem(status, said)
    patience = answer.headers.get("Retry-After", "")
    return _with_header(ours, "retry-after", patience) if patience.isdecimal() else ours


def _failure(failed: Exception, deps: Deps) -> ApiResponse:
    """Return what is answered where no answer of Advoware's came."""
    match failed:
        case BodyTooLarge():
            return _problem(413, f"at most {MAX_BODY_BYTES} bytes are taken here")
        case BodyStalled():
            return _problem(408, str(failed))
        case Invalid():
            return _endpoint_refused(Refusal.CHARACTER)
        case _ if deps.as_original:
            return _original(str(failed))
        case HeldBack():
            return _problem(503, str(failed), retry_after=failed.after.total_seconds())
        case RateLimited():
            wait = failed.retry_after or timedelta(seconds=30)
            return _problem(503, str(failed), retry_after=wait.total_seconds())
        case TimedOut():
            return _problem(504, str(failed))
        case Unauthorized():
            return _problem(
                502, "Advoware does not let the proxy in; its operator must see to that"
            )
        case _:
            return _problem(502, str(failed))


def key_needed() -> ApiResponse:
    """Return what a caller without a key of ours is told."""
    refused = _problem(401, "a key is needed, in the header apikey or as Authorization: Bearer")
    return _with_header(refused, "www-authenticate", "Bearer")


def _endpoint_refused(refusal: Refusal) -> ApiResponse:
    if refusal is Refusal.MISSING:
        return ApiResponse(400, {"error": IN_WORDS[refusal]})
    return ApiResponse(400, {"error": "Endpoint refused", "details": IN_WORDS[refusal]})


def _original(details: str) -> ApiResponse:
    return ApiResponse(500, {"error": "Internal server error", "details": details})


def _problem(status: int, details: str, *, retry_after: float | None = None) -> ApiResponse:
    headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
    return ApiResponse(status, {"error": phrase(status), "details": details}, headers)


def _with_header(answer: ApiResponse, name: str, value: str) -> ApiResponse:
    return ApiResponse(answer.status, answer.body, {**answer.headers, name: value})


STEPS = tuple(proxy_step(method) for method in METHODS)
