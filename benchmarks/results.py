"""What was measured, and what it says about the bars (pure)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

Values = dict[str, float]
"""What one run of one side measured, by metric."""

OURS = "ours"


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is measured.

    Attributes:
        key: its name in the JSON.
        words: its name in the table, with the unit.
        digits: after the point, as far as the measurement carries.
    """

    key: str
    words: str
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """What must hold for us.

    Attributes:
        metric: the key of the metric.
        limit: of our value divided by the reference's in the same repeat, or of our value itself.
        kind: "ratio" compares with the reference, "value" does not.
        at_least: the limit is the least, not the most.
        reference: the side compared with; empty for the case's.
    """

    metric: str
    limit: float
    kind: Literal["ratio", "value"] = "ratio"
    at_least: bool = False
    reference: str = ""

    def holds(self, value: float) -> bool:
        """Whether `value` is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one bar was met.

    Attributes:
        values: one for each repeat: ratios, or our values.
        median: what counts.
    """

    bar: Bar
    values: tuple[float, ...]
    median: float
    met: bool


@dataclass(slots=True)
class Case:
    """One comparison: every side did the same work, in turns.

    Attributes:
        name: what distinguishes it within its row.
        metrics: what was measured, in the order of the table.
        show: the key of the one that is told while it goes on, and drawn.
        reference: the side that we are compared with; None when the bars are about values.
        measured: by side, one entry for each repeat.
        notes: lines below the table.
    """

    name: str
    metrics: tuple[Metric, ...]
    show: str
    bars: tuple[Bar, ...] = ()
    reference: str | None = None
    measured: dict[str, list[Values]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, side: str, values: Values) -> None:
        """Note what one run of a side measured."""
        self.measured.setdefault(side, []).append(values)

    def against(self, bar: Bar) -> str:
        """Return the side that a bar compares us with; empty where it compares with none."""
        return bar.reference or self.reference or ""

    def verdicts(self) -> list[Verdict]:
        """Return how the bars were met; one that cannot be judged is left out.

        The ratios are of values of one repeat, because what disturbs one side of a repeat
        disturbs the other as well.
        """
        return [verdict for bar in self.bars if (verdict := self._verdict(bar)) is not None]

    def _verdict(self, bar: Bar) -> Verdict | None:
        ours = _column(self.measured.get(OURS, ()), bar.metric)
        if bar.kind == "ratio":
            theirs = _column(self.measured.get(self.against(bar), ()), bar.metric)
            # what is nothing, or less, has no multiple
            ours = tuple(a / b for a, b in zip(ours, theirs, strict=False) if b > 0)
        if not ours:
            return None
        middle = median(ours)
        return Verdict(bar, ours, middle, bar.holds(middle))


@dataclass(slots=True)
class Row:
    """One row of the numbers to reach.

    Attributes:
        key: its name on the command line.
        title: what is measured.
        about: how, in a few sentences.
        left_out: one line for each side that could not run.
    """

    key: str
    title: str
    about: str
    cases: list[Case] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("there is no value to take a quantile of")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _column(runs: Sequence[Values], metric: str) -> tuple[float, ...]:
    return tuple(run[metric] for run in runs if metric in run)


def to_json(row: Row, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that was measured as JSON can hold it."""
    return {
        "key": row.key,
        "title": row.title,
        "about": row.about,
        "machine": dict(machine),
        "left_out": row.left_out,
        "cases": [_case(case) for case in row.cases],
    }


def _case(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "reference": case.reference,
        "show": case.show,
        "metrics": {metric.key: metric.words for metric in case.metrics},
        "measured": {side: [dict(run) for run in runs] for side, runs in case.measured.items()},
        "bars": [
            {
                "metric": verdict.bar.metric,
                "kind": verdict.bar.kind,
                "reference": case.against(verdict.bar),
                "limit": verdict.bar.limit,
                "at_least": verdict.bar.at_least,
                "values": list(verdict.values),
                "median": verdict.median,
                "met": verdict.met,
            }
            for verdict in case.verdicts()
        ],
        "notes": case.notes,
    }


def to_markdown(row: Row, machine: Mapping[str, Any]) -> str:
    """Return the tables: the median of the repeats, and the smallest and largest in brackets."""
    lines = [f"# {row.title}", "", row.about, ""]
    for case in row.cases:
        lines += _table(case)
    lines += [*(f"- Left out: {line}" for line in row.left_out), ""] if row.left_out else []
    lines.append("; ".join(f"{name} {value}" for name, value in machine.items()))
    return "\n".join(lines).rstrip() + "\n"


def _table(case: Case) -> list[str]:
    shown = [m for m in case.metrics if any(_column(r, m.key) for r in case.measured.values())]
    lines = [
        f"| {case.name} | {' | '.join(metric.words for metric in shown)} |",
        f"| --- | {' | '.join('---:' for _ in shown)} |",
    ]
    for side, runs in case.measured.items():
        cells = [_cell(_column(runs, metric.key), metric.digits) for metric in shown]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"- {sentence(verdict, case)}" for verdict in case.verdicts()]
    lines += [f"- {note}" for note in case.notes]
    return [*lines, ""] if lines[-1] else lines


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    middle = f"{median(values):,.{digits}f}"
    if len(values) == 1 or min(values) == max(values):
        return middle
    return f"{middle} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def sentence(verdict: Verdict, case: Case) -> str:
    """Return a verdict in words."""
    words = {metric.key: metric.words for metric in case.metrics}[verdict.bar.metric]
    how = "at least" if verdict.bar.at_least else "at most"
    what = f"of {case.against(verdict.bar)}" if verdict.bar.kind == "ratio" else ""
    times = "x" if verdict.bar.kind == "ratio" else ""
    spread = _cell(verdict.values, 2)
    met = "met" if verdict.met else "**not met**"
    return (
        f"{words}: {spread}{times} {what}".rstrip()
        + f", bar {how} {verdict.bar.limit:g}{times}: {met}"
    )
