"""A step: a handler and its declaration, one value that every host can run."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from bitbylaw_common.errors import DeclarationError
from bitbylaw_common.runtime.context import Context
from bitbylaw_common.runtime.triggers import CronTrigger, HttpTrigger, QueueTrigger, Trigger
from bitbylaw_common.topics import Topic

I = TypeVar("I")  # noqa: E741 - I and O are what goes in and comes out
O = TypeVar("O")  # noqa: E741
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Step(Generic[I, O, D]):
    """What `@step` makes of a handler. Call it in tests like the handler itself.

    Attributes:
        handler: the coroutine function.
        name: as an operator says it; unique in its app.
        lock: the entity word of the Redis lock held around a run, keyed by the event's key.
        coalesce: records waiting for one key are answered by one run.
        needs: outside systems without which a run should not start.
        deadline: after this a run is cancelled and retried; its effects are found out then.
        publishes: the names of `enqueues`.
    """

    handler: Callable[[I, Context[D]], Awaitable[O]]
    name: str
    description: str
    flows: tuple[str, ...]
    triggers: tuple[Trigger[I, O], ...]
    enqueues: tuple[Topic[Any], ...]
    lock: str | None
    coalesce: bool
    needs: tuple[str, ...]
    deadline: timedelta

    publishes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Look up once what every run asks for."""
        object.__setattr__(self, "publishes", frozenset(topic.name for topic in self.enqueues))

    def __call__(self, given: I, ctx: Context[D]) -> Awaitable[O]:
        """Run the handler, nothing around it."""
        return self.handler(given, ctx)

    @property
    def http_triggers(self) -> tuple[HttpTrigger[Any], ...]:
        """The routes that start this step."""
        return tuple(t for t in self.triggers if isinstance(t, HttpTrigger))

    @property
    def queue_triggers(self) -> tuple[QueueTrigger[Any], ...]:
        """The topics that start this step."""
        return tuple(t for t in self.triggers if isinstance(t, QueueTrigger))

    @property
    def cron_triggers(self) -> tuple[CronTrigger, ...]:
        """The moments that start this step."""
        return tuple(t for t in self.triggers if isinstance(t, CronTrigger))

    def function_id(self, trigger: int = 0) -> str:
        """Return the seed's id of trigger number `trigger`: `steps::Name::trigger::0`."""
        return f"steps::{self.name}::trigger::{trigger}"


def step(
    *,
    name: str,
    description: str,
    flows: Sequence[str],
    triggers: Sequence[Trigger[I, O]],
    enqueues: Sequence[Topic[Any]] = (),
    lock: str | None = None,
    coalesce: bool = False,
    needs: Sequence[str] = (),
    deadline: timedelta = timedelta(seconds=60),
) -> Callable[[Callable[[I, Context[D]], Awaitable[O]]], Step[I, O, D]]:
    """Declare a step. Two kinds of trigger are two steps that call one function.

    Raises:
        DeclarationError: no trigger, mixed kinds of trigger, or an empty name.
    """
    if not name.strip():
        raise DeclarationError("a step needs a name, as an operator says it")
    if not triggers:
        raise DeclarationError(f"step {name!r} has no trigger, so nothing would start it")
    if len({type(trigger) for trigger in triggers}) != 1:
        raise DeclarationError(
            f"step {name!r} mixes kinds of trigger; declare two steps that call one function"
        )

    def declare(handler: Callable[[I, Context[D]], Awaitable[O]]) -> Step[I, O, D]:
        return Step(
            handler,
            name,
            description,
            tuple(flows),
            tuple(triggers),
            tuple(enqueues),
            lock,
            coalesce,
            tuple(needs),
            deadline,
        )

    return declare
