"""The ledger of a side: which record was handled when, and what that proves (pure but for files)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Handled(NamedTuple):
    """One run of the handler.

    Attributes:
        thing: the record's key.
        number: the record's place among all that were published, from 0.
        began, ended: nanoseconds since the epoch, by this machine's clock.
    """

    thing: str
    number: int
    began: int
    ended: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What a ledger says.

    Attributes:
        records: how many there were.
        missing: records that no run handled.
        repeated: runs beyond the first of a record.
        overlaps: runs that began while an earlier run of the same key had not ended.
        disordered: runs that began or ended before one of an earlier record of the same key.
        at_once: the most runs at one moment.
        began, ended: nanoseconds since the epoch: the first begin and the last end.
    """

    records: int
    missing: int
    repeated: int
    overlaps: int
    disordered: int
    at_once: int
    began: int
    ended: int

    @property
    def seconds(self) -> float:
        """From the first handler entered to the last one left."""
        return (self.ended - self.began) / 1e9

    def problems(self, *, concurrency: int, in_order: bool) -> tuple[str, ...]:
        """Return what makes the run no fair run, in words; nothing when it is one.

        Args:
            concurrency: how many runs were allowed at once.
            in_order: the order of each key was promised.
        """
        found = (
            (self.missing, f"{self.missing} records were never handled"),
            (self.repeated, f"{self.repeated} records were handled again"),
            (in_order and self.overlaps, f"{self.overlaps} runs overlapped one of the same key"),
            (
                in_order and self.disordered,
                f"{self.disordered} runs were before an earlier record's",
            ),
            (
                self.at_once > concurrency,
                f"{self.at_once} runs at once, {concurrency} were allowed",
            ),
        )
        return tuple(words for wrong, words in found if wrong)


def judge(runs: Sequence[Handled], *, records: int) -> Findings:
    """Return what the runs of `records` records prove.

    Raises:
        ValueError: there is no run to judge.
    """
    if not runs:
        raise ValueError("the ledger is empty: nothing was handled")
    numbers = {run.number for run in runs}
    by_key: defaultdict[str, list[Handled]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.began):
        by_key[run.thing].append(run)
    in_time = [pair for chain in by_key.values() for pair in pairwise(chain)]
    in_line = [
        pair
        for chain in by_key.values()
        for pair in pairwise(sorted(chain, key=lambda run: run.number))
    ]
    return Findings(
        records=records,
        missing=records - len(numbers),
        repeated=len(runs) - len(numbers),
        overlaps=sum(later.began < earlier.ended for earlier, later in in_time),
        disordered=sum(
            later.began < earlier.began or later.ended < earlier.ended for earlier, later in in_line
        ),
        at_once=_most_at_once(runs),
        began=min(run.began for run in runs),
        ended=max(run.ended for run in runs),
    )


def _most_at_once(runs: Iterable[Handled]) -> int:
    moments = sorted(moment for run in runs for moment in ((run.began, 1), (run.ended, -1)))
    most = now = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def read(path: Path) -> list[Handled]:
    """Return the runs in a ledger, one `key number began ended` a line."""
    lines = path.read_text("utf-8").splitlines()
    return [
        Handled(thing, int(number), int(began), int(ended))
        for thing, number, began, ended in map(str.split, lines)
    ]


@dataclass(slots=True)
class Ledger:
    """Collects runs in memory and writes them down when the last awaited record was handled.

    Args:
        path: appears complete, in one step.
        records: after this many runs it is written.
    """

    path: Path
    records: int
    runs: list[Handled] = field(default_factory=list)

    def note(self, run: Handled) -> bool:
        """Note a run; True when it was the last one awaited, and the ledger should be written."""
        self.runs.append(run)
        return len(self.runs) == self.records

    def write(self) -> None:
        """Write the ledger."""
        beside = self.path.with_name(f"{self.path.name}.part")
        beside.write_text("".join(f"{t} {n} {b} {e}\n" for t, n, b, e in self.runs), "utf-8")
        beside.replace(self.path)
