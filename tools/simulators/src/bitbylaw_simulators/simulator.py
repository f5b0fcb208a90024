"""What both simulators share: the way of a call through log, faults and answer."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bitbylaw_simulators import control
from bitbylaw_simulators.calls import Call, Effect, RequestLog
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.contents import Contents
from bitbylaw_simulators.faults import Fault, FaultPlan
from bitbylaw_simulators.wire import (
    HTML_ERROR,
    ConnectionReset,
    SimRequest,
    SimResponse,
    TornAnswer,
    json_answer,
)


class Simulator(ABC):
    """An outside system as it behaves, asked by `handle`.

    Args:
        clock: its time; a virtual one when absent.
        contents: where bytes are kept; in memory when absent.
        seed: of ids, secrets and everything else that is random.

    Attributes:
        requests: the log of calls.
        faults: what is planned to go wrong.
        changes: grows with everything that changes the state; tells when to store it.
    """

    name: str

    def __init__(self, clock: SimClock | None, contents: Contents | None, seed: int | None) -> None:
        self.clock = clock or SimClock()
        self.stored = contents or Contents()
        self.seed = seed
        self.dice = random.Random(seed)  # noqa: S311 - ids of a simulator, not secrets
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self.changes = 0

    async def handle(self, request: SimRequest) -> SimResponse:
        """Answer one call; paths under `/_sim` reach the control face.

        Raises:
            ConnectionReset: a planned fault lets no answer come.
            TornAnswer: a planned fault cuts the answer.
        """
        if request.path == "/_sim" or request.path.startswith("/_sim/"):
            return await control.answer(self, request)
        call = self.requests.begin(request, self.operation(request), self.clock.now())
        struck = self.faults.strike(request.method, request.path, call.operation)
        call.fault = ", ".join(fault.kind for fault in struck) or None
        call.sent = self.sent(request, call)
        await self._delay(struck, "before")
        refused = self._refused(struck, call)
        if refused is not None:
            self.requests.answered(call, refused.status)
            return refused
        answer = self.answer(request, call, [fault for fault in struck if fault.kind != "latency"])
        await self._delay(struck, "after")
        return self._sent(answer, struck, call)

    def effects(self, name: str | None = None) -> list[Effect]:
        """Return what calls changed, in order; only effects called `name` where it is given."""
        return self.requests.effects(name)

    def did(
        self,
        call: Call | None,
        name: str,
        target: str,
        changed: Sequence[str] = (),
        content: str | None = None,
    ) -> None:
        """Note that something changed, and by which call; None stands for a person's hand."""
        self.changes += 1
        if call is not None:
            self.requests.happened(call, Effect(name, target, tuple(changed), content))

    @abstractmethod
    def operation(self, request: SimRequest) -> str:
        """Return what is asked, without ids; faults match on it."""

    @abstractmethod
    def answer(self, request: SimRequest, call: Call, marks: Sequence[Fault]) -> SimResponse:
        """Do what is asked and return the answer; `marks` are faults that stay with the result."""

    @abstractmethod
    def error(self, status: int, message: str) -> SimResponse:
        """Return an error as this system words it."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything held, as JSON; contents as SHA-256 and size."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned earlier; the contents must lie in the folder."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything: state, calls, faults and time that was advanced."""

    @abstractmethod
    def quirk_list(self) -> list[dict[str, Any]]:
        """Return every switch with value, default, meaning and certainty."""

    @abstractmethod
    def switch(self, values: dict[str, Any]) -> None:
        """Switch quirks over.

        Raises:
            ValueError: a name is unknown or a value does not fit.
        """

    async def control(self, request: SimRequest) -> SimResponse | None:
        """Answer a control path that only this simulator has; None when it is not one."""
        del request
        return None

    def sent(self, request: SimRequest, call: Call) -> dict[str, Any] | None:
        """Return what the log keeps of a request beside its digest; None keeps nothing more."""
        del request, call
        return None

    def forget(self) -> None:
        """Reset what is shared: calls, faults, contents, dice and clock."""
        self.requests.clear()
        self.faults.clear()
        self.stored.clear()
        self.clock.reset()
        self.dice = random.Random(self.seed)  # noqa: S311 - ids of a simulator, not secrets
        self.changes += 1

    def reseed(self, more: int) -> None:
        """Throw the dice anew after a restart, so that no id comes twice."""
        if self.seed is not None:
            self.dice.seed(f"{self.seed}:{more}")

    async def _delay(self, struck: Sequence[Fault], when: str) -> None:
        for fault in struck:
            if fault.kind == "latency" and fault.params.get("when", "before") == when:
                await self.clock.sleep(fault.seconds())

    def _refused(self, struck: Sequence[Fault], call: Call) -> SimResponse | None:
        for fault in struck:
            if fault.kind == "reset_before":
                self.requests.answered(call, None)
                raise ConnectionReset("reset before anything was done")
            if fault.kind == "status" and not _afterwards(fault):
                return self._status(fault)
            if fault.kind == "rate_limit":
                limited = self.error(429, "Too many requests")
                wish = fault.params.get("retry_after")
                more = {} if wish is None else {"Retry-After": str(wish)}
                return SimResponse(429, {**limited.headers, **more}, limited.body)
        return None

    def _status(self, fault: Fault) -> SimResponse:
        status = int(fault.params.get("status", 503))
        message = str(fault.params.get("message", "The service is currently unavailable"))
        headers = {str(name): str(text) for name, text in fault.params.get("headers", {}).items()}
        shapes = {
            "default": self.error(status, message),
            "code": json_answer({"code": fault.params.get("code", ""), "error": message}, status),
            "error": json_answer(
                {"error": {"message": message, "type": "error", "code": str(status)}}, status
            ),
            "html": SimResponse(status, {"Content-Type": "text/html"}, HTML_ERROR),
            "empty": SimResponse(status),
        }
        shape = shapes.get(str(fault.params.get("body", "default")), shapes["default"])
        return SimResponse(status, {**shape.headers, **headers}, shape.body)

    def _sent(self, answer: SimResponse, struck: Sequence[Fault], call: Call) -> SimResponse:
        for fault in struck:
            if fault.kind == "reset_after" or (
                fault.kind == "delayed_visibility" and fault.params.get("answer") == "reset"
            ):
                self.requests.answered(call, None)
                raise ConnectionReset("reset after the work was done")
            if fault.kind == "torn":
                self.requests.answered(call, answer.status)
                raise TornAnswer(answer, _cut(fault, answer))
            if fault.kind == "stalled":
                answer = replace(answer, stall=(_cut(fault, answer), fault.seconds()))
            if fault.kind == "status" and _afterwards(fault):
                failed = self._status(fault)
                self.requests.answered(call, failed.status)
                return failed
        self.requests.answered(call, answer.status)
        return answer


def _cut(fault: Fault, answer: SimResponse) -> int:
    share = float(fault.params.get("share", 0.5))
    cut = int(fault.params.get("bytes", answer.size * share))
    return min(cut, max(0, answer.size - 1))


def _afterwards(fault: Fault) -> bool:
    return bool(fault.params.get("when", "before") == "after")


def delay_of(marks: Sequence[Fault]) -> float:
    """Return for how many seconds the marks hide what a call made; 0 when they do not."""
    return max((mark.seconds() for mark in marks if mark.kind == "delayed_visibility"), default=0.0)
