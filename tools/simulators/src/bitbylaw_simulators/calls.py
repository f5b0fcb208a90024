"""The log of calls: what was asked, what it did, what was answered."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bitbylaw_simulators.wire import SimRequest

KEPT = 200_000
"""Calls kept; older ones go, so that a long-running simulator stays small."""


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that a call changed.

    Attributes:
        name: what kind: "upload", "attach", "update".
        target: at what: "CDokumente/65f0...", "collection_.../file_...".
        changed: the attributes whose value became another one.
        content: SHA-256 of the bytes that an upload brought.
    """

    name: str
    target: str
    changed: tuple[str, ...] = ()
    content: str | None = None


@dataclass(slots=True)
class Call:
    """One call.

    Attributes:
        number: its place in the log, from 1; 0 while it is not in the log.
        time: when it arrived, RFC 3339.
        method: the HTTP method.
        path: the path, without query.
        operation: what was asked, without ids: "upload", "update".
        digest: SHA-256 of the body, None for an empty one.
        status: what was answered; None while there is no answer, and for ever when none came.
        effect: the name of what it changed, None when it changed nothing.
        target: what it was changed at.
        changed: attributes whose value became another one.
        content: SHA-256 of the bytes that an upload brought, so that equal uploads are counted
            though their requests differ.
        fault: kinds of the planned faults that struck, None when none did.
        sent: what was sent in detail, where the simulator keeps that.
    """

    time: str
    method: str
    path: str
    operation: str
    digest: str | None
    number: int = 0
    status: int | None = None
    effect: str | None = None
    target: str | None = None
    changed: tuple[str, ...] = ()
    content: str | None = None
    fault: str | None = None
    sent: dict[str, Any] | None = None


class RequestLog:
    """The calls in the order of what they did.

    A call enters the log the instant its effect happens, or with its answer when it has no effect;
    so whoever reads on from the last number sees every effect once and at once.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._last = 0
        self._grown = asyncio.Event()

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __getitem__(self, index: int) -> Call:
        return self._calls[index]

    @property
    def last(self) -> int:
        """The highest number given so far."""
        return self._last

    def begin(self, request: SimRequest, operation: str, now: datetime) -> Call:
        """Return the call of a request; it is not in the log yet."""
        time = now.isoformat(timespec="milliseconds")
        return Call(time, request.method, request.path, operation, request.digest())

    def happened(self, call: Call, effect: Effect) -> None:
        """Note the call's effect and log it."""
        call.effect, call.target, call.changed = effect.name, effect.target, effect.changed
        call.content = effect.content
        self._log(call)

    def answered(self, call: Call, status: int | None) -> None:
        """Note the answer, None when none is given; log the call when its effect did not."""
        call.status = status
        self._log(call)

    def since(self, number: int) -> list[Call]:
        """Return the calls with a higher number, oldest first."""
        skipped = self._last - len(self._calls)
        return self._calls[max(0, number - skipped) :]

    async def wait(self, number: int, seconds: float) -> list[Call]:
        """Return the calls with a higher number, waiting at most `seconds` for the first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._last <= number and (rest := deadline - loop.time()) > 0:
            try:
                await asyncio.wait_for(self._grown.wait(), rest)
            except TimeoutError:
                break
        return self.since(number)

    def effects(self, name: str | None = None) -> list[Effect]:
        """Return what calls changed, in order; only effects called `name` where it is given."""
        return [
            Effect(call.effect, call.target or "", call.changed, call.content)
            for call in self._calls
            if call.effect is not None and name in {None, call.effect}
        ]

    def clear(self) -> None:
        """Forget all calls; numbers begin at 1 again."""
        self._calls.clear()
        self._last = 0

    def _log(self, call: Call) -> None:
        if call.number:
            return
        self._last += 1
        call.number = self._last
        self._calls.append(call)
        if len(self._calls) > KEPT:
            del self._calls[: KEPT // 10]
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


def as_json(call: Call) -> dict[str, Any]:
    """Return the call as the control face shows it."""
    told = {**asdict(call), "changed": list(call.changed)}
    if call.sent is None:
        del told["sent"]
    return told
