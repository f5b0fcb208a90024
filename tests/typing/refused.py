"""Declarations that mypy must refuse, each at the marked line and nowhere else.

The marks keep this file within `mypy` of everything: one that is not needed any more is an error
there. `test_typing.py` takes them away and holds what mypy says then to the letter.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged, RunRequested
from bitbylaw_common.outcomes import Done, Outcome
from bitbylaw_common.runtime import (
    ApiRequest,
    ApiResponse,
    App,
    Context,
    Emit,
    Tick,
    cron,
    http,
    queue,
    step,
)

REQUESTS = topics.requests("document-sync")


class Ours:
    """The deps of one service."""


class Theirs:
    """The deps of another."""


async def look(event: EntityChanged, ctx: Context[Ours]) -> Outcome:
    return Done(event.entity_id)


async def enqueues_the_wrong_event(event: EntityChanged, ctx: Context[Ours]) -> Outcome:
    await ctx.enqueue(REQUESTS, event)  # type: ignore[misc]
    emit = Emit(REQUESTS, event)  # type: ignore[misc]
    await ctx.enqueue_all([emit])
    return Done("never")


cron_for_a_handler_that_wants_an_event = step(
    name="1", description="", flows=[], triggers=[cron("0 0 2 * * *")]
)(look)  # type: ignore[arg-type]


queue_for_a_handler_that_wants_another_event = step(
    name="2", description="", flows=[], triggers=[queue(REQUESTS)]
)(look)  # type: ignore[arg-type]


@step(name="3", description="", flows=[], triggers=[http("GET", "/a"), cron("0 0 2 * * *")])  # type: ignore[arg-type]
async def http_and_cron_mixed(given: ApiRequest[bytes], ctx: Context[Ours]) -> ApiResponse:
    return ApiResponse(200)


@step(name="4", description="", flows=[], triggers=[queue(topics.DOCUMENT_CREATE), queue(REQUESTS)])  # type: ignore[arg-type]
async def topics_of_two_event_types(event: EntityChanged, ctx: Context[Ours]) -> Outcome:
    return Done("never")


@step(name="5", description="", flows=[], triggers=[queue(topics.DOCUMENT_CREATE)])  # type: ignore[arg-type]
async def a_queue_handler_that_returns_none(event: EntityChanged, ctx: Context[Ours]) -> None:
    return None


@step(name="6", description="", flows=[], triggers=[queue(topics.DOCUMENT_CREATE)])  # type: ignore[arg-type]
def a_handler_that_is_no_coroutine(event: EntityChanged, ctx: Context[Ours]) -> Outcome:
    return Done("never")


@step(name="7", description="", flows=[], triggers=[http("POST", "/a", body=RunRequested)])  # type: ignore[arg-type]
async def a_body_of_another_model(
    request: ApiRequest[EntityChanged], ctx: Context[Ours]
) -> ApiResponse:
    return ApiResponse(200)


@step(name="8", description="", flows=[], triggers=[cron("0 0 2 * * *")])
async def fine(tick: Tick, ctx: Context[Ours]) -> Outcome:
    return Done("never")


@asynccontextmanager
async def open_theirs(env: Mapping[str, str]) -> AsyncIterator[Theirs]:
    """Open another service's deps."""
    yield Theirs()


an_app_that_opens_another_service_s_deps = App("toy", [fine], open_theirs)  # type: ignore[arg-type]
