"""What a handler can answer: the five fates of a run."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Done:
    """The run changed something outside. `summary` says what, in words for an operator."""

    summary: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """There was nothing to do. `reason` says why, in words for an operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet, and no failure: no attempt is counted.

    Attributes:
        reason: what is waited for, in words for an operator.
        after: how long from now until the record is looked at again; zero means at once.
        until: past this instant the record is dead (as `Rejected`); None waits without end.
        imposed: an outside system, or what guards it, asked for the wait; it does not use up the
            time that an earlier `until` of the record allows.
    """

    reason: str
    after: timedelta
    until: datetime | None = None
    imposed: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """It failed and may succeed later: the next rung of the ladder (`retry.LADDER`).

    Attributes:
        reason: what failed, without values of the record.
        error: the class of the failure, for grouping dead letters.
        not_before: a time the other side named (`Retry-After`); the rung is never earlier.
    """

    reason: str
    error: str = "Retry"
    not_before: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """It will never succeed as it is: to the dead letters, with `reason`."""

    reason: str
    error: str = "Rejected"


Outcome = Done | Skipped | Wait | Retry | Rejected
