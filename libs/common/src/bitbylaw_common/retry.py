"""The ladder of attempts after a failure (pure)."""

from datetime import timedelta

LADDER: tuple[timedelta, ...] = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=60),
    timedelta(minutes=240),
)
"""The pauses of the predecessor (its CRM shows them as `syncNextRetry`): after the first failure
one minute, after the fifth four hours, after the sixth the record is dead."""


def pause_after(
    attempt: int, *, not_before: timedelta | None = None, ladder: tuple[timedelta, ...] = LADDER
) -> timedelta | None:
    """Return how long to wait after failed attempt number `attempt` (from 1).

    Returns:
        The rung, or the other side's longer wish; None when the ladder is used up.
    """
    if attempt < 1:
        raise ValueError(f"attempts are counted from 1, not {attempt}")
    if attempt > len(ladder):
        return None
    rung = ladder[attempt - 1]
    return max(rung, not_before) if not_before is not None else rung
