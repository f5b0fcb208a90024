"""Prints which test shows which scenario at which level; exit 1 on a gap or an unknown number.

    scenarios.py [--gaps]     all scenarios with their tests, or only what is missing

The scenarios are in tests/scenarios.toml. Tests are found by name, without running anything, so
a test that is written down but never collected would count: pytest refuses such files itself.
"""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("planner", "simulators", "kafka")
_FOLDERS = {"unit": "planner", "sim": "simulators", "contract": "simulators"}
_NAME = re.compile(r"test_([a-z]+)_(\d\d(?:_(?:and_|to_)?\d\d)*)(?:_|$)")

Number = tuple[str, int]


@dataclass(frozen=True)
class Scenario:
    """What must hold, and the levels at which a test must show it."""

    says: str
    at: tuple[str, ...]


@dataclass(frozen=True)
class Test:
    """A test that carries numbers: its file from the root, its name, its level."""

    file: str
    name: str
    level: str
    numbers: frozenset[Number]


def scenarios(table: Path) -> dict[Number, Scenario]:
    """Return all scenarios by group and number.

    Raises:
        ValueError: an entry names a level that does not exist, or none.
    """
    found: dict[Number, Scenario] = {}
    for group, entries in tomllib.loads(table.read_text("utf-8")).items():
        for number, entry in entries.items():
            levels = tuple(entry["at"])
            if not levels or not set(levels) <= set(LEVELS):
                raise ValueError(f"{group} {number}: levels are {', '.join(LEVELS)}")
            found[group, int(number)] = Scenario(entry["says"], levels)
    return found


def tests(folder: Path, groups: frozenset[str]) -> Iterator[Test]:
    """Yield the tests below a folder that carry a number of one of the groups."""
    for file in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        inside = file.relative_to(folder).parts[0]
        marked = any(_is_kafka(node) for node in tree.body if _is_pytestmark(node))
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            numbers = numbers_of(node.name, groups)
            if not numbers:
                continue
            kafka = marked or any(_is_kafka(decorator) for decorator in node.decorator_list)
            level = "kafka" if kafka else _FOLDERS.get(inside, inside)
            yield Test(file.relative_to(folder.parent).as_posix(), node.name, level, numbers)


def numbers_of(name: str, groups: frozenset[str]) -> frozenset[Number]:
    """Return the numbers that a test's name begins with."""
    found = _NAME.match(name)
    if found is None or found[1] not in groups:
        return frozenset()
    numbers: set[int] = set()
    span = False
    for word in found[2].split("_"):
        if word.isdigit():
            numbers.update(range(max(numbers) + 1, int(word)) if span else ())
            numbers.add(int(word))
        span = word == "to"
    return frozenset((found[1], number) for number in numbers)


def _is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
    )


def _is_kafka(node: ast.AST) -> bool:
    """Say whether `pytest.mark.kafka` is part of a decorator or of a module's marks."""
    return any(
        isinstance(part, ast.Attribute) and ast.unparse(part) == "pytest.mark.kafka"
        for part in ast.walk(node)
    )


def told(root: Path, *, only_gaps: bool) -> tuple[list[str], bool]:
    """Return the lines to print, and whether nothing is missing and no number unknown."""
    wanted = scenarios(root / "tests" / "scenarios.toml")
    covering: defaultdict[Number, list[Test]] = defaultdict(list)
    unknown: list[str] = []
    for test in tests(root / "tests", frozenset(group for group, _ in wanted)):
        for number in sorted(test.numbers):
            if number in wanted:
                covering[number].append(test)
            else:
                unknown.append(f"{test.file}::{test.name}: there is no {number[0]} {number[1]}")
    lines: list[str] = []
    complete = True
    for number, scenario in wanted.items():
        levels = {test.level for test in covering[number]}
        gaps = [level for level in scenario.at if level not in levels]
        complete = complete and not gaps
        if only_gaps and not gaps:
            continue
        lines.append(f"{number[0]} {number[1]:02}  {scenario.says}")
        if not only_gaps:
            lines += [f"    {t.level:<11} {t.file}::{t.name}" for t in covering[number]]
        lines += [f"    {level:<11} MISSING" for level in gaps]
    return [*lines, *unknown], complete and not unknown


def main(arguments: list[str]) -> int:
    """Print the map; return the exit code."""
    lines, complete = told(ROOT, only_gaps="--gaps" in arguments)
    print("\n".join(lines))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
