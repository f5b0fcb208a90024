"""From what a handler answered to what is written about it (pure)."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, assert_never

from bitbylaw_common.errors import (
    Conflict,
    HeldBack,
    Invalid,
    NotFound,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_common.outcomes import Done, Outcome, Rejected, Retry, Skipped, Wait
from bitbylaw_common.retry import LADDER, pause_after

Name = Literal["done", "skipped", "wait", "retry", "rejected", "bug"]
Death = Literal["rejected", "exhausted", "expired", "bug"]

RATE_LIMIT_PAUSE = timedelta(seconds=30)
"""How long to wait for a system that asks for patience without saying how much."""


def outcome_of(error: OutsideError) -> Outcome:
    """Return the fate of a run that an outside system ended."""
    match error:
        case HeldBack():
            return Wait(str(error), error.after, imposed=True)
        case RateLimited():
            return Wait(str(error), error.retry_after or RATE_LIMIT_PAUSE, imposed=True)
        case Invalid():
            return Rejected(str(error), error="Invalid")
        case Transient() | Unauthorized() | NotFound() | Conflict():
            return Retry(str(error), error=type(error).__name__)
        case _:
            return Retry(str(error), error="OutsideError")


@dataclass(frozen=True, slots=True)
class Chain:
    """The failures of one key so far.

    Attributes:
        attempt: how many have failed.
        id: the event id it began with.
        since: when it began.
        until: the end a `Wait` of this chain set; kept, so that waiting again does not prolong it.
    """

    attempt: int
    id: str
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a run.

    Attributes:
        name: for metrics and journal: done, skipped, wait, retry, rejected, bug.
        summary: the handler's words.
        error: class of the failure, else empty.
        due: when the key is looked at again; None when it is not.
        kind: of the schedule entry, when `due` is set.
        chain: to keep in the entry.
        death: why it goes to the dead letters; None when it does not.
        keep_entry: the key's present entry stays as it is.
    """

    name: Name
    summary: str
    chain: Chain
    error: str = ""
    due: datetime | None = None
    kind: Literal["", "retry", "wait"] = ""
    death: Death | None = None
    keep_entry: bool = False


def judge(
    outcome: Outcome,
    chain: Chain,
    now: datetime,
    *,
    bug: bool = False,
    unchanged: bool = False,
    ladder: tuple[timedelta, ...] = LADDER,
) -> Verdict:
    """Say what becomes of a run.

    Args:
        outcome: what the handler answered; a bug comes as the `Retry` it is treated as.
        chain: before this run.
        bug: the handler raised something that is no `OutsideError`.
        unchanged: the answer is the `Skipped` of `ctx.saw`: the pending attempt stays.

    Raises:
        AssertionError, OverflowError, TypeError: the handler's answer is no outcome, or names an
            instant that cannot be.
    """
    match outcome:
        case Done(summary):
            return Verdict("done", summary, chain)
        case Skipped(reason):
            return Verdict("skipped", reason, chain, keep_entry=unchanged)
        case Wait(reason, after, until, imposed):
            end = min((t for t in (until, chain.until) if t is not None), default=None)
            if imposed:
                # The record waits for a system, not the system for the record: its own end counts
                # again when it is asked.
                return Verdict(
                    "wait", reason, chain, due=now + max(after, timedelta()), kind="wait"
                )
            if end is not None and now >= end:
                return Verdict(
                    "rejected",
                    f"waited until {end.isoformat(timespec='seconds')}: {reason}",
                    chain,
                    error="WaitedTooLong",
                    death="expired",
                )
            due = now + max(after, timedelta())
            return Verdict(
                "wait",
                reason,
                replace(chain, until=end),
                due=due if end is None else min(due, end),
                kind="wait",
            )
        case Retry(reason, error, not_before):
            failed = replace(chain, attempt=chain.attempt + 1, until=None)
            pause = pause_after(failed.attempt, not_before=not_before, ladder=ladder)
            if pause is None:
                return Verdict(
                    "bug" if bug else "rejected",
                    f"{reason} (attempt {failed.attempt} was the last)",
                    failed,
                    error=error,
                    death="bug" if bug else "exhausted",
                )
            name: Name = "bug" if bug else "retry"
            return Verdict(name, reason, failed, error=error, due=now + pause, kind="retry")
        case Rejected(reason, error):
            last = replace(chain, attempt=chain.attempt + 1)
            return Verdict("rejected", reason, last, error=error, death="rejected")
        case _:
            assert_never(outcome)
