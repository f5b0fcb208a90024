"""Asks a service for runs now: the requests, as their records."""

import json
import secrets
from collections.abc import Sequence

from bitbylaw_cli.letters import function_of
from bitbylaw_common import topics, tracing
from bitbylaw_common.clock import Clock
from bitbylaw_common.events import EntityChanged, RunRequested
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.topics import Topic

SOURCE = "bbl"


def looked_at(
    functions: Sequence[FunctionInfo],
    clock: Clock,
    step: str,
    topic: Topic[EntityChanged],
    event: EntityChanged,
) -> tuple[str, Outgoing]:
    """Return the id of the run that is asked for, and the request.

    Args:
        topic: of the service that is asked: its owner.
    """
    run_id = secrets.token_hex(16)
    request = RunRequested(
        function_id=function_of(functions, topic.owner, step, topic.name),
        run_id=run_id,
        subject=event.entity_id,
        requested=event.model_dump(mode="json", exclude_none=True),
        topic=topic.name,
    )
    return run_id, _encoded(topic.owner, request, clock)


def gone_on_with(
    functions: Sequence[FunctionInfo], clock: Clock, service: str, entry: ScheduleEntry
) -> Outgoing | None:
    """Return the request that does now what an entry of the schedule does later; None for a tick."""
    if entry.carried is None:
        return None
    request = RunRequested(
        function_id=function_of(functions, service, entry.step, entry.carried.topic),
        run_id=secrets.token_hex(16),
        subject=entry.entity_id,
        requested=json.loads(entry.carried.value),
        topic=entry.carried.topic,
        origin=entry.carried.origin,
    )
    return _encoded(service, request, clock)


def _encoded(service: str, request: RunRequested, clock: Clock) -> Outgoing:
    return codec.encode(
        topics.requests(service),
        request,
        event_id=new_event_id(),
        source=SOURCE,
        now=clock.now(),
        traceparent=tracing.new().header,
    )
