"""Draws what was measured: one panel a case, every turn a dot, the bar a dashed line.

Runs in the environment of the benchmarks, so it imports nothing of ours.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]

mpl.use("Agg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]

INK, FAINT = "#222222", "#8a8a8a"
COLOURS = {"ours": "#1b6ca8", "reference": "#4a4a4a", "other": "#c3c7cc"}
COLUMNS = 2


def main() -> None:
    """Draw rows into a file; its ending says which kind."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("rows", type=Path, nargs="+", help="JSON files")
    parser.add_argument("--to", type=Path, required=True)
    given = parser.parse_args()
    rows = [json.loads(path.read_text("utf-8")) for path in given.rows]
    panels = [(row, case) for row in rows for case in row["cases"]]
    heights = [0.75 + 0.34 * len(_drawn(case)) for _, case in panels]
    lines = [panels[at : at + COLUMNS] for at in range(0, len(panels), COLUMNS)]
    tall = [max(heights[at : at + COLUMNS]) for at in range(0, len(panels), COLUMNS)]
    mpl.rcParams |= {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "bitbylaw"}
    figure, grid = plt.subplots(
        len(lines),
        COLUMNS,
        figsize=(11, sum(tall) + 0.3 * len(tall)),
        height_ratios=tall,
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat:
        axes.set_visible(False)
    for line, shown in zip(grid, lines, strict=True):
        for axes, (row, case) in zip(line, shown, strict=False):
            _draw(axes, row, case, places=max(len(_drawn(other)) for _, other in shown))
    # no date: the same numbers are the same file
    figure.savefig(
        given.to, metadata={"Date": None} if given.to.suffix == ".svg" else None, dpi=110
    )


def _drawn(case: dict[str, Any]) -> dict[str, list[float]]:
    """Return the turns of every side that measured what is drawn."""
    sides = {
        side: [turn[case["show"]] for turn in turns if case["show"] in turn]
        for side, turns in case["measured"].items()
    }
    return {side: values for side, values in sides.items() if values}


def _draw(axes: Any, row: dict[str, Any], case: dict[str, Any], *, places: int) -> None:
    """Draw one case; a panel with fewer sides than its neighbour stays empty below."""
    axes.set_visible(True)
    sides = _drawn(case)
    names = list(sides)
    for place, (side, values) in enumerate(sides.items()):
        kind = "ours" if side == "ours" else "reference" if side == case["reference"] else "other"
        middle = median(values)
        axes.barh(place, middle, height=0.62, color=COLOURS[kind], zorder=2)
        axes.plot(
            values, [place] * len(values), "o", ms=3.5, mfc="white", mec=INK, mew=0.8, zorder=3
        )
        digits = 0 if middle >= 100 or middle == int(middle) else 2
        axes.annotate(
            f"{middle:,.{digits}f}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    limit = _limit(case, sides)
    if limit is not None:
        axes.axvline(limit[0], color=COLOURS["ours"], ls=(0, (4, 3)), lw=1.2, zorder=4)
        axes.annotate(
            limit[1],
            (limit[0], 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, 2),
            textcoords="offset points",
            color=COLOURS["ours"],
            fontsize=8,
        )
    title = row["title"].split(":")[0].split(",")[0]
    name = title if case["name"] == row["key"] else f"{title}: {case['name']}"
    axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold", color=INK, pad=14)
    axes.set_xlabel(case["metrics"][case["show"]], color=FAINT, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(places - 0.45, -0.55)
    axes.margins(x=0.08)
    axes.grid(axis="x", color="#e6e6e6", lw=0.6, zorder=0)
    axes.tick_params(length=0, labelcolor=INK)
    axes.tick_params(axis="x", labelcolor=FAINT, labelsize=8)
    axes.spines[:].set_visible(False)


def _limit(case: dict[str, Any], sides: dict[str, list[float]]) -> tuple[float, str] | None:
    """Return where the bar of what is drawn lies, and its words."""
    for bar in case["bars"]:
        if bar["metric"] != case["show"]:
            continue
        how = "at least" if bar["at_least"] else "at most"
        if bar["kind"] == "value":
            return bar["limit"], f"{how} {bar['limit']:g}"
        if case["reference"] in sides:
            return bar["limit"] * median(sides[case["reference"]]), f"{how} {bar['limit']:g}x"
    return None


if __name__ == "__main__":
    main()
