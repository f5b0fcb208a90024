"""Declarations: what cannot work is refused when it is declared, and ids are the seed's."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from bitbylaw_common import topics
from bitbylaw_common.errors import DeclarationError
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.outcomes import Done, Outcome
from bitbylaw_common.runtime import (
    ApiRequest,
    ApiResponse,
    App,
    Context,
    Step,
    Tick,
    cron,
    http,
    queue,
    step,
)
from bitbylaw_common.runtime.triggers import Trigger


@asynccontextmanager
async def nothing(env: Mapping[str, str]) -> AsyncIterator[None]:
    yield None


async def look(event: EntityChanged, ctx: Context[None]) -> Outcome:
    return Done(event.entity_id)


async def answer(request: ApiRequest[bytes], ctx: Context[None]) -> ApiResponse:
    return ApiResponse(200)


async def tick(given: Tick, ctx: Context[None]) -> Outcome:
    return Done("ticked")


def queued(name: str, *found: topics.Topic[EntityChanged]) -> Step[Any, Any, None]:
    triggers = [queue(topic) for topic in found]
    return step(name=name, description="", flows=[], triggers=triggers)(look)


def routed(name: str, method: Any, path: str) -> Step[Any, Any, None]:
    return step(name=name, description="", flows=[], triggers=[http(method, path)])(answer)


@pytest.mark.parametrize("name", ["", "  ", "\t"])
def test_a_step_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="needs a name"):
        step(name=name, description="", flows=[], triggers=[queue(topics.DOCUMENT_CREATE)])


def test_a_step_that_nothing_starts_is_refused() -> None:
    none: list[Trigger[EntityChanged, Outcome]] = []
    with pytest.raises(DeclarationError, match="'Idle' has no trigger"):
        step(name="Idle", description="", flows=[], triggers=none)


def test_a_step_with_two_kinds_of_trigger_is_refused() -> None:
    mixed: list[Trigger[Any, Any]] = [http("GET", "/a"), cron("0 0 2 * * *")]
    with pytest.raises(DeclarationError, match="'Both' mixes kinds of trigger"):
        step(name="Both", description="", flows=[], triggers=mixed)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            [queued("Look", topics.DOCUMENT_CREATE), queued("Look", topics.DOCUMENT_UPDATE)],
            "declares the step name 'Look' twice",
        ),
        (
            [queued("One", topics.DOCUMENT_CREATE), queued("Two", topics.DOCUMENT_CREATE)],
            "declares the topic 'vmh.document.create' twice",
        ),
        (
            [queued("One", topics.DOCUMENT_CREATE, topics.DOCUMENT_CREATE)],
            "declares the topic 'vmh.document.create' twice",
        ),
        (
            [routed("One", "GET", "/a"), routed("Two", "GET", "/a")],
            "declares the route 'GET /a' twice",
        ),
    ],
)
def test_an_app_refuses_what_it_could_not_tell_apart(
    steps: list[Step[Any, Any, None]], said: str
) -> None:
    with pytest.raises(DeclarationError) as refused:
        App("toy", steps, nothing)
    assert said in str(refused.value)
    assert "'toy'" in str(refused.value)


def test_another_method_is_another_route() -> None:
    app = App("toy", [routed("One", "GET", "/a"), routed("Two", "POST", "/a")], nothing)
    assert not app.works_on_records


def test_an_app_knows_what_it_consumes() -> None:
    app = App("toy", [queued("Look", *topics.DOCUMENT), routed("Ask", "GET", "/a")], nothing)
    assert app.consumes == topics.DOCUMENT
    assert app.works_on_records

    by_time = step(name="T", description="", flows=[], triggers=[cron("0 0 2 * * *")])(tick)
    assert App("toy", [by_time], nothing).works_on_records


def test_a_step_keeps_its_declaration_and_gives_each_trigger_an_id() -> None:
    declared = step(
        name="VMH Look",
        description="looks",
        flows=["vmh"],
        triggers=[queue(topic) for topic in topics.DOCUMENT],
        enqueues=[topics.QUARANTINE],
        lock="document",
        coalesce=True,
        needs=["xai"],
        deadline=timedelta(seconds=150),
    )(look)

    assert [t.topic for t in declared.queue_triggers] == list(topics.DOCUMENT)
    assert (declared.http_triggers, declared.cron_triggers) == ((), ())
    assert (declared.flows, declared.enqueues) == (("vmh",), (topics.QUARANTINE,))
    assert (declared.lock, declared.coalesce, declared.needs) == ("document", True, ("xai",))
    assert declared.function_id() == "steps::VMH Look::trigger::0"
    assert declared.function_id(3) == "steps::VMH Look::trigger::3"


def test_without_a_word_a_step_takes_no_lock_runs_each_event_and_has_a_minute() -> None:
    declared = queued("Look", topics.DOCUMENT_CREATE)
    assert (declared.lock, declared.coalesce, declared.needs) == (None, False, ())
    assert declared.deadline == timedelta(seconds=60)


async def test_a_step_can_be_called_like_its_handler() -> None:
    event = EntityChanged(entity_type="CDokumente", entity_id="a", action="create")
    context: Any = None
    assert await queued("Look", topics.DOCUMENT_CREATE)(event, context) == Done("a")


@pytest.mark.parametrize(
    ("declared", "kind", "model"),
    [
        (http("POST", "/a"), "bytes", None),
        (http("POST", "/a", body="stream"), "stream", None),
        (http("POST", "/a", body=EntityChanged), "model", EntityChanged),
    ],
)
def test_a_route_says_how_its_body_is_read(declared: Any, kind: str, model: object) -> None:
    assert (declared.kind, declared.model, declared.max_body_bytes) == (kind, model, 1024 * 1024)


def test_a_cron_that_cannot_be_is_refused_where_it_is_declared() -> None:
    with pytest.raises(DeclarationError, match="six are needed"):
        cron("*/15 * * * *")
