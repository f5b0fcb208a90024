"""What the proxy's steps need."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from bitbylaw_advoware_proxy.domain.callers import (
    ANYBODY,
    Allowance,
    Caller,
    caller_of,
    shown,
    spend,
)
from bitbylaw_advoware_proxy.trail import Trail
from bitbylaw_common.clients.advoware import Method
from bitbylaw_common.clock import Clock
from bitbylaw_common.deadlines import Deadlines


class UpstreamAnswer(Protocol):
    """An answer of Advoware whose body has not been read yet; headers compare without case."""

    @property
    def status(self) -> int: ...  # noqa: D102
    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102
    def chunks(self) -> AsyncIterator[bytes]: ...  # noqa: D102


class Upstream(Protocol):
    """Advoware, asked as it is."""

    def call(
        self,
        method: Method,
        path: str,
        *,
        query: str,
        headers: Mapping[str, str],
        body: AsyncIterable[bytes] | None,
        timeout_seconds: float,
    ) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Send a call and yield its answer, whatever the status; both are streamed.

        Raises:
            OutsideError: no answer came, or none that is Advoware's own.
        """
        ...


class Door:
    """Who is let in, and how often.

    Args:
        callers: empty: everybody is, as `ANYBODY`.
        clock: measures the rates; each process counts alone.
    """

    def __init__(self, callers: Sequence[Caller], clock: Clock) -> None:
        self._callers = tuple(callers)
        self._clock = clock
        self._left: dict[str, Allowance] = {}

    def caller(self, headers: Mapping[str, str]) -> Caller | None:
        """Return who shows a key in these headers (names in lower case); None when nobody does."""
        return caller_of(shown(headers), self._callers) if self._callers else ANYBODY

    def wait(self, caller: Caller) -> float:
        """Take one call of the caller's rate; return how many seconds it must wait, if it must."""
        if caller.per_minute is None:
            return 0.0
        left, wait = spend(self._left.get(caller.name), caller.per_minute, self._clock.monotonic())
        self._left[caller.name] = left
        return wait


@dataclass(frozen=True, slots=True)
class Deps:
    """What the proxy's steps need.

    Attributes:
        advoware: who is asked.
        door: who may ask.
        trail: where answered calls are noted.
        prefix: goes before an endpoint.
        clock: measures how long calls take.
        patience: how long Advoware may keep us waiting for a byte.
        timeout_seconds: how long a call may take as a whole.
        as_original: only 200 and 500 are answered, as by the predecessor.
    """

    advoware: Upstream
    door: Door
    trail: Trail
    prefix: str
    clock: Clock = field(repr=False)
    patience: Deadlines = field(default_factory=lambda: Deadlines(30.0), repr=False)
    timeout_seconds: float = 150.0
    as_original: bool = False
