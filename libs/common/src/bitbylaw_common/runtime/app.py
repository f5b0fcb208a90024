"""An app: a service as a value, which a host runs alone or several hosts share."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from bitbylaw_common.errors import DeclarationError
from bitbylaw_common.retry import LADDER
from bitbylaw_common.runtime.step import Step
from bitbylaw_common.topics import Topic

D = TypeVar("D")


@dataclass(frozen=True)
class App(Generic[D]):
    """A service: its name (also its consumer group), its steps, and how to open what they need.

    Attributes:
        ladder: the pauses between the attempts of a failing run.
        gather_seconds: what its routes publish waits so long for more, and goes to Kafka with it;
            0 where a caller waits for it.

    Raises:
        DeclarationError: two steps share a name, a route or, in one app, a topic.
    """

    name: str
    steps: Sequence[Step[Any, Any, D]]
    open_deps: Callable[[Mapping[str, str]], AbstractAsyncContextManager[D]]
    ladder: tuple[timedelta, ...] = LADDER
    gather_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse declarations that could not be told apart at run time."""
        self._unique("step name", [step.name for step in self.steps])
        self._unique(
            "route", [f"{t.method} {t.path}" for step in self.steps for t in step.http_triggers]
        )
        self._unique("topic", [t.topic.name for step in self.steps for t in step.queue_triggers])

    def _unique(self, what: str, values: list[str]) -> None:
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise DeclarationError(f"app {self.name!r} declares the {what} {twice[0]!r} twice")

    @property
    def consumes(self) -> tuple[Topic[Any], ...]:
        """The topics that start this app's steps."""
        return tuple(t.topic for step in self.steps for t in step.queue_triggers)

    @property
    def works_on_records(self) -> bool:
        """Whether the app consumes at all; an app of routes only has no group and no schedule."""
        return any(step.queue_triggers or step.cron_triggers for step in self.steps)
