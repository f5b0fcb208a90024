"""Planned faults: which call is struck, by what, from when and how often."""

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS: dict[str, str] = {
    "latency": "the answer takes `seconds` (plus up to `jitter`) longer; `when` is before or after the effect",
    "status": "answered with `status`, nothing done (`when` before) or the work done (`when` after); `body` is default, code, error, html or empty; `message`, `headers`",
    "reset_before": "the connection is reset, nothing was done",
    "reset_after": "the work is done, then the connection is reset",
    "torn": "the work is done, the answer ends after `bytes` or `share` of its length",
    "stalled": "the work is done, the answer stops after `bytes` or `share` of its length for `seconds`, then goes on",
    "delayed_visibility": "upload, attach, create, update, link: done, but reads show it only `seconds` later; `answer` is normal or reset",
    "rate_limit": "429, nothing done; `retry_after` in seconds, absent means no such header",
    "slow_indexing": "xAI: every stage of the attached document takes `seconds`, or `polls` looks",
    "indexing_failed": "xAI: the attached document ends FAILED with `message`",
    "never_processed": "xAI: the attached document stays at PROCESSING",
    "unknown_status": "xAI: the attached document shows the status `name`",
    "hash_null": "xAI: the uploaded file has no hash",
    "hash_wrong": "xAI: the uploaded file shows a hash of other bytes",
    "duplicate_delivery": "EspoCRM: a batch of webhooks is sent twice (operation `deliver`)",
    "lost_receipt": "EspoCRM: a batch arrives, its answer does not: counted as 408 (operation `deliver`)",
}
"""Every kind with its parameters in words."""

MARKS = frozenset(
    {
        "delayed_visibility",
        "slow_indexing",
        "indexing_failed",
        "never_processed",
        "unknown_status",
        "hash_null",
        "hash_wrong",
    }
)
"""Kinds that stay with what the call made instead of changing its answer."""


ENDS = frozenset({"status", "reset_before", "reset_after", "torn", "rate_limit"})
"""Kinds that end a call; only the first planned one strikes, the others wait their turn."""


@dataclass(slots=True)
class Fault:
    """One planned fault.

    Attributes:
        kind: one of `KINDS`.
        method: which HTTP method is struck; None for every.
        path: pattern that must be found in the path; None for every.
        operation: which operation is struck; None for every.
        after: how many matching calls pass unharmed first.
        times: how often it strikes; None for ever.
        seed: of the dice behind `probability` and `jitter`.
        params: what the kind needs.
    """

    kind: str
    method: str | None = None
    path: re.Pattern[str] | None = None
    operation: str | None = None
    after: int = 0
    times: int | None = 1
    seed: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    seen: int = 0
    struck: int = 0
    dice: random.Random = field(default_factory=random.Random)

    def strikes(self, method: str, path: str, operation: str) -> bool:
        """Count the call if it matches; return whether it is struck."""
        if self.method not in {None, method} or self.operation not in {None, operation}:
            return False
        if self.path is not None and not self.path.search(path):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.struck >= self.times):
            return False
        if self.dice.random() >= float(self.params.get("probability", 1.0)):
            return False
        self.struck += 1
        return True

    def seconds(self, name: str = "seconds", default: float = 1.0) -> float:
        """Return a duration of the parameters, with the dice's share of `jitter`."""
        jitter = float(self.params.get("jitter", 0.0))
        return float(self.params.get(name, default)) + jitter * self.dice.random()


class FaultPlan:
    """The faults that are planned, in the order given."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def plan(self, kind: str, *, times: int | None = 1, after: int = 0, **more: Any) -> Fault:
        """Add one fault as a test says it.

        `method`, `path`, `operation` and `seed` have their own meaning; every other name is a
        parameter of the kind.

        Raises:
            ValueError: the kind is unknown.
        """
        match = {name: more.pop(name) for name in ("method", "path", "operation") if name in more}
        seed = more.pop("seed", 0)
        entry = {"match": match, "kind": kind, "after": after, "times": times, "seed": seed}
        fault = parse_fault({**entry, "params": more})
        self._faults.append(fault)
        return fault

    def replace(self, faults: Iterable[Fault]) -> None:
        """Put these in the place of all others."""
        self._faults = list(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Put these after the others."""
        self._faults.extend(faults)

    def clear(self) -> None:
        """Plan nothing."""
        self._faults = []

    def strike(self, method: str, path: str, operation: str) -> list[Fault]:
        """Return the faults that strike this call, in the order planned."""
        struck: list[Fault] = []
        ended = False
        for fault in self._faults:
            if ended and fault.kind in ENDS:
                continue
            if fault.strikes(method, path, operation):
                struck.append(fault)
                ended = ended or fault.kind in ENDS
        return struck

    def dump(self) -> list[dict[str, Any]]:
        """Return the plan with its counters, as the control face shows it."""
        return [
            {
                "match": {
                    "method": fault.method,
                    "path": fault.path.pattern if fault.path else None,
                    "operation": fault.operation,
                },
                "kind": fault.kind,
                "after": fault.after,
                "times": fault.times,
                "seed": fault.seed,
                "params": dict(fault.params),
                "seen": fault.seen,
                "struck": fault.struck,
            }
            for fault in self._faults
        ]


def parse_fault(entry: Any) -> Fault:
    """Return the fault that `{match, kind, after, times, seed, params}` describes.

    Raises:
        TypeError: it is not such an object.
        ValueError: it names an unknown kind or key.
    """
    if not isinstance(entry, dict):
        raise TypeError("a fault is an object {match, kind, after, times, seed, params}")
    _only(entry, {"match", "kind", "after", "times", "seed", "params"}, "fault")
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; there are: {', '.join(sorted(KINDS))}")
    match = entry.get("match") or {}
    _only(match, {"method", "path", "operation"}, "match")
    seed = int(entry.get("seed") or 0)
    times = entry.get("times", 1)
    return Fault(
        kind=kind,
        method=str(match["method"]).upper() if match.get("method") else None,
        path=re.compile(match["path"]) if match.get("path") else None,
        operation=match.get("operation"),
        after=int(entry.get("after") or 0),
        times=None if times is None else int(times),
        seed=seed,
        params=dict(entry.get("params") or {}),
        dice=random.Random(seed),  # noqa: S311 - dice of a test, not a secret
    )


def _only(entry: Any, known: set[str], what: str) -> None:
    if not isinstance(entry, dict):
        raise TypeError(f"{what} is an object")
    unknown = set(entry) - known
    if unknown:
        raise ValueError(f"unknown in {what}: {', '.join(sorted(unknown))}")
