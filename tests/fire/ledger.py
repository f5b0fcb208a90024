"""The outside ledger: what runs really did, in an order that no kill can change.

Every process appends whole lines to one file. The kernel puts each line behind the one before and
keeps it when the writer is killed, so the file's order is the order in which things happened.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bitbylaw_common.clock import Clock, SystemClock

Kind = Literal["start", "end", "effect", "base", "dead", "frozen", "continued"]

OUTCOMES = frozenset({"done", "skipped", "wait", "retry", "rejected"})
WELL = frozenset({"done", "skipped"})


@dataclass(frozen=True, slots=True)
class Fact:
    """One line.

    Attributes:
        at: unix seconds of this machine's clock.
        pid: whose doing; for `dead`, `frozen` and `continued` whom it befell.
        word: a run's outcome or the name of what it raised; which effect it was.
    """

    kind: Kind
    at: float
    pid: int
    step: str = ""
    key: str = ""
    number: int = -1
    attempt: int = 0
    run: str = ""
    word: str = ""


class Ledger:
    """Appends facts; each is on record when the call returns, whatever happens to the process."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._clock = clock or SystemClock()
        self._pid = os.getpid()

    def note(
        self,
        kind: Kind,
        *,
        pid: int | None = None,
        step: str = "",
        key: str = "",
        number: int = -1,
        attempt: int = 0,
        run: str = "",
        word: str = "",
    ) -> None:
        """Append one fact.

        Raises:
            OSError: it was not written whole; nothing that follows could be trusted.
        """
        now = self._clock.now().timestamp()
        whose = self._pid if pid is None else pid
        line = (
            json.dumps([kind, now, whose, step, key, number, attempt, run, word]).encode() + b"\n"
        )
        if os.write(self._file, line) != len(line):
            raise OSError("the ledger is full")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


@dataclass(slots=True)
class SeenRun:
    """One run as the ledger saw it.

    Attributes:
        ended: None while it runs, and for ever when its process was killed in it.
        outcome: the handler's word; the name of what it raised; "killed" when its process was.
        suspended: its process was frozen in it; what it does afterwards is judged by its effects.
    """

    step: str
    key: str
    number: int
    attempt: int
    run: str
    pid: int
    began: float
    ended: float | None = None
    outcome: str = ""
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two runs of one key at once."""

    earlier: SeenRun
    later: SeenRun

    def __str__(self) -> str:
        one, two = self.earlier, self.later
        return (
            f"{two.step} {two.key}: run {two.run} (number {two.number}, pid {two.pid}) began at "
            f"{two.began:.3f} in run {one.run} (number {one.number}, pid {one.pid}) of {one.began:.3f}"
        )


@dataclass
class History:
    """What the ledger says so far; `read` takes in what was appended since.

    Attributes:
        runs: in the order in which they began.
        overlaps: each pair of runs of one key at once.
        overtakings: records that began before an earlier one of their key had ended well, of the
            steps where each record counts.
        facts: all that is no run and no death, in order.
        ended, well: by step and key, the numbers with a run that ended by itself, and well.
        last_well: by step and key, when the last run that ended well began, in unix seconds.
        unfinished: keys whose last run to end did not end well, with its outcome.
        deaths: by process, when its end was confirmed, in unix seconds.
    """

    one_by_one: frozenset[str] = frozenset()
    runs: list[SeenRun] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    overtakings: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    well: dict[tuple[str, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    ended: dict[tuple[str, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    last_well: dict[tuple[str, str], float] = field(default_factory=dict)
    unfinished: dict[tuple[str, str], str] = field(default_factory=dict)
    deaths: dict[int, float] = field(default_factory=dict)
    _seen: dict[tuple[str, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    _open: dict[tuple[str, str], dict[str, SeenRun]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _offset: int = 0

    def read(self, path: Path) -> None:
        """Take in every whole line appended since the last call."""
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.take(Fact(*json.loads(line)) for line in whole.splitlines())

    def take(self, facts: Iterable[Fact]) -> None:
        """Take in facts in their order."""
        for fact in facts:
            match fact.kind:
                case "start":
                    self._began(fact)
                case "end":
                    self._ended(fact)
                case "dead":
                    self._died(fact)
                case "frozen":
                    for run in self.open_runs(fact.pid):
                        run.suspended = True
                    self.facts.append(fact)
                case _:
                    self.facts.append(fact)

    def open_runs(self, pid: int | None = None) -> list[SeenRun]:
        """Return the runs that go on, of one process or of all."""
        return [
            run
            for runs in self._open.values()
            for run in runs.values()
            if pid is None or run.pid == pid
        ]

    @property
    def finished(self) -> int:
        """How many different records, of those that count each, had a run that ended well."""
        return sum(
            len(numbers) for (step, _), numbers in self.well.items() if step in self.one_by_one
        )

    def repeats(self) -> list[tuple[SeenRun, SeenRun]]:
        """Return each run that did again what an earlier one began, with that one."""
        last: dict[tuple[str, str, int, int], SeenRun] = {}
        found: list[tuple[SeenRun, SeenRun]] = []
        for run in self.runs:
            place = (run.step, run.key, run.number, run.attempt)
            if place in last:
                found.append((last[place], run))
            last[place] = run
        return found

    def _began(self, fact: Fact) -> None:
        run = SeenRun(fact.step, fact.key, fact.number, fact.attempt, fact.run, fact.pid, fact.at)
        place = (fact.step, fact.key)
        seen = self._seen[place]
        if fact.step in self.one_by_one and fact.number not in seen:
            if behind := seen - self.well[place]:
                self.overtakings.append(f"{place}: {fact.number} before {sorted(behind)}")
            if seen and fact.number < max(seen):
                self.overtakings.append(f"{place}: {fact.number} after {max(seen)}")
        seen.add(fact.number)
        running = self._open[place]
        self.overlaps += [Overlap(one, run) for one in running.values() if not one.suspended]
        running[fact.run] = run
        self.runs.append(run)

    def _ended(self, fact: Fact) -> None:
        place = (fact.step, fact.key)
        run = self._open[place].pop(fact.run)
        run.ended, run.outcome = fact.at, fact.word
        if fact.word not in OUTCOMES:
            return
        self.ended[place].add(fact.number)
        if fact.word in WELL:
            self.well[place].add(fact.number)
            self.last_well[place] = max(run.began, self.last_well.get(place, 0.0))
            self.unfinished.pop(place, None)
        else:
            self.unfinished[place] = fact.word

    def _died(self, fact: Fact) -> None:
        self.deaths[fact.pid] = fact.at
        for run in self.open_runs(fact.pid):
            run.outcome = "killed"
            self._open[run.step, run.key].pop(run.run)
