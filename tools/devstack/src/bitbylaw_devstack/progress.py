"""What the stack says while it gets ready."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True, slots=True)
class Progress:
    """One stage of getting ready, told when it begins and when it is done.

    Attributes:
        stage: "download" and "class archive" once per machine, then "kafka" and "redis".
        text: one line for a person.
        seconds: how long it took; None at the beginning.
    """

    stage: str
    text: str
    seconds: float | None = None


OnEvent = Callable[[Progress], None]


@contextmanager
def told(on_event: OnEvent, stage: str, begin: str, done: str) -> Iterator[None]:
    """Tell `begin` before the block and `done` with its seconds after it, unless it fails."""
    started = monotonic()
    on_event(Progress(stage, begin))
    yield
    on_event(Progress(stage, done, monotonic() - started))
