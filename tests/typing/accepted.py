"""Declarations as they are meant: mypy has nothing to say about this file."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import BaseModel

from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged, RunRequested
from bitbylaw_common.outcomes import Done, Outcome, Skipped, Wait
from bitbylaw_common.runtime import (
    ApiRequest,
    ApiResponse,
    App,
    Context,
    Tick,
    cron,
    http,
    queue,
    step,
)


@dataclass(frozen=True)
class Deps:
    """What the steps of this file reach."""

    name: str


class Body(BaseModel):
    """A body that a route parses."""

    entity_id: str


CHANGED = EntityChanged(entity_type="CDokumente", entity_id="a", action="update")
ASKED = RunRequested(function_id="f", run_id="r", subject="f")
REQUESTS = topics.requests("document-sync")


@step(
    name="Several Topics",
    description="Takes the topics of one event type",
    flows=[],
    triggers=[queue(topic) for topic in topics.DOCUMENT],
    enqueues=[topics.DOCUMENT_SYNC_CHECK, REQUESTS],
)
async def several_topics(event: EntityChanged, ctx: Context[Deps]) -> Outcome:
    if event.action == "delete":
        return Skipped("gone")
    await ctx.enqueue(topics.DOCUMENT_SYNC_CHECK, event)
    await ctx.enqueue(REQUESTS, ASKED)
    return Done(ctx.deps.name)


@step(name="By Time", description="Ticks", flows=[], triggers=[cron("0 0 2 * * *")])
async def by_time(tick: Tick, ctx: Context[Deps]) -> Outcome:
    return Wait(tick.run_id, tick.due - ctx.now())


@step(name="By Model", description="", flows=[], triggers=[http("POST", "/a", body=Body)])
async def by_model(request: ApiRequest[Body], ctx: Context[Deps]) -> ApiResponse:
    return ApiResponse(200, {"entity_id": request.body.entity_id})


@step(name="By Bytes", description="", flows=[], triggers=[http("POST", "/b")])
async def by_bytes(request: ApiRequest[bytes], ctx: Context[Deps]) -> ApiResponse:
    return ApiResponse(200, request.body.hex())


@step(name="By Stream", description="", flows=[], triggers=[http("POST", "/c", body="stream")])
async def by_stream(request: ApiRequest[AsyncIterator[bytes]], ctx: Context[Deps]) -> ApiResponse:
    return ApiResponse(200, sum([len(chunk) async for chunk in request.body]))


@asynccontextmanager
async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Deps]:
    """Open them."""
    yield Deps(env["NAME"])


app = App("typed", [several_topics, by_time, by_model, by_bytes, by_stream], open_deps)
