"""Which repeats a kill explains, and which nothing does (pure)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitbylaw_common.runtime.ports import Position
from fire.commits import GroupNotes
from fire.ledger import History, SeenRun

COMMIT_MARGIN_SECONDS = 5.0
"""From an outcome in the journal to a commit that carries it: a commit goes each half second, but
the process may learn that Kafka took the journal only just before it would give it up, at 4 s."""

OUTAGE_MARGIN_SECONDS = 20.0
"""After an outage of the broker: give up after 4 s, pause up to 5 s, connect, write again."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """Runs that were made again, by why.

    Attributes:
        unfinished: the earlier run's outcome was never acknowledged.
        uncommitted: it was, but no commit could have carried it yet.
        covered: the commit before the repeat covers the record.
        forgotten: the outcome was acknowledged well before a commit that leaves it out.
        restarted: a failed attempt that its own process made once more instead of the next one.
    """

    unfinished: int
    uncommitted: int
    covered: tuple[str, ...]
    forgotten: tuple[str, ...]
    restarted: tuple[str, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """Those that should not be."""
        return self.covered + self.forgotten + self.restarted

    def __str__(self) -> str:
        return (
            f"{self.unfinished} unfinished, {self.uncommitted} finished since the last commit, "
            f"{len(self.covered)} in spite of their commit, {len(self.forgotten)} left out of one, "
            f"{len(self.restarted)} instead of the next attempt"
        )


def judged(
    history: History,
    published: Mapping[tuple[str, str], Mapping[int, Position]],
    stored: Mapping[str, float],
    notes: GroupNotes,
    outages: Sequence[tuple[float, float]] = (),
) -> Repeats:
    """Judge every run that did again what an earlier one did, of records that never wait.

    Args:
        published: where each record lies, by step and key, then number.
        stored: when the ends of runs came into the journal, by run id; as all times, unix seconds.
        outages: from when to when the broker was away.
    """
    unfinished = uncommitted = 0
    covered: list[str] = []
    forgotten: list[str] = []
    restarted: list[str] = []
    for earlier, later in history.repeats():
        position = published[later.step, later.key][later.number]
        commit = notes.last_before(position.topic, position.partition, later.began)
        # What the dead knew only they could commit; their successor commits without it.
        died = min(later.began, history.deaths.get(earlier.pid, later.began))
        own = notes.last_before(position.topic, position.partition, died)
        ended = stored.get(earlier.run)
        if ended is not None and earlier.outcome == "retry" and earlier.pid == later.pid:
            restarted.append(_told(earlier, later, position, "its retry was recorded"))
        elif commit is not None and later.attempt == 1 and commit.offset > position.offset:
            covered.append(_told(earlier, later, position, f"commit {commit}"))
        elif ended is None:
            unfinished += 1
        elif own is None or own.at < _learnt(ended, outages) + COMMIT_MARGIN_SECONDS:
            uncommitted += 1
        else:
            forgotten.append(_told(earlier, later, position, f"ended {ended:.3f}, {own}"))
    return Repeats(unfinished, uncommitted, tuple(covered), tuple(forgotten), tuple(restarted))


def _learnt(stored: float, outages: Sequence[tuple[float, float]]) -> float:
    """Return when a process learnt at the latest that Kafka has a record stored at `stored`.

    What is stored while the broker goes away may be acknowledged to nobody: the process writes it
    again once the broker is back, after the pauses of its producer.
    """
    for down, back in outages:
        if down - 1 <= stored <= back + 1:
            return back + OUTAGE_MARGIN_SECONDS
    return stored


def _told(earlier: SeenRun, later: SeenRun, position: Position, why: str) -> str:
    return (
        f"{later.step} {later.key} {later.number} attempt {later.attempt} ({position}): run "
        f"{earlier.run} of pid {earlier.pid} ({earlier.outcome}), again as {later.run} of pid "
        f"{later.pid} at {later.began:.3f}; {why}"
    )
