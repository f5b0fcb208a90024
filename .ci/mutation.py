"""Changes the pure core of the document sync in small ways and asks the unit tests to notice.

    mutation.py run [FILE...]     mutate the core, or only files whose name ends so; print the score
    mutation.py survivors         print what the last run's tests did not notice, as diffs

mutmut works on a copy in .mutation, so that the working tree stays as it is, and on two cores. A
run fails below the score that `LEAST` names. What survives on purpose is explained in
docs/mutation.md.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / ".mutation"
MUTMUT = ROOT / ".venv-mutation" / "bin" / "mutmut"
LEAST = 0.95
CHILDREN = 2

PACKAGES = {
    "bitbylaw_common": "libs/common/src",
    "bitbylaw_document_sync": "services/document-sync/src",
    "bitbylaw_ingest": "services/ingest/src",
    "bitbylaw_simulators": "tools/simulators/src",
}
CORE = ("bitbylaw_document_sync/domain", "bitbylaw_common/sync")
KILLERS = (
    "tests/unit/document_sync",
    "tests/unit/common/test_brake.py",
    "tests/unit/runtime/test_base_and_digests.py",
)
EDGES = ("test_adapters.py", "test_settings.py", "test_streaming.py", "test_xai_client.py")
"""Tests beside the killers that ask nothing of the core; without them a run is shorter."""

CONFTEST = """\
from hypothesis import settings

settings.register_profile("mutation", max_examples=10, database=None, derandomize=True)
settings.load_profile("mutation")
"""
"""Fewer examples, the same for each mutant: one that only a rare example notices counts as alive."""

_KILLED, _SURVIVED, _UNTESTED = frozenset({1, 3}), 0, 33
_TIMED_OUT = frozenset({24, 36, 152, 255, -24})


def stage(only: Sequence[str]) -> None:
    """Copy what is needed, side by side under one `src`, as mutmut names modules."""
    shutil.rmtree(STAGE, ignore_errors=True)
    leave = shutil.ignore_patterns("__pycache__", "*.pyc", *EDGES)
    for package, place in PACKAGES.items():
        shutil.copytree(ROOT / place / package, STAGE / "src" / package, ignore=leave)
    for killer in KILLERS:
        target = STAGE / killer
        if (ROOT / killer).is_dir():
            shutil.copytree(ROOT / killer, target, ignore=leave)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / killer, target)
    for file in sorted([*ROOT.glob("tests/*.py"), *ROOT.glob("tests/unit/*/*.py")]):
        # What several tests share; conftest.py finds a Kafka, which nothing here needs.
        if file.name != "conftest.py" and not file.name.startswith("test_"):
            target = STAGE / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    (STAGE / "tests" / "conftest.py").write_text(CONFTEST, "utf-8")
    (STAGE / "pyproject.toml").write_text("\n".join(_configuration(only)) + "\n", "utf-8")


def _configuration(only: Sequence[str]) -> Iterator[str]:
    pytest = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    markers = json.dumps(pytest["ini_options"]["markers"], indent=None)
    mutated = [
        file.relative_to(STAGE).as_posix()
        for core in CORE
        for file in sorted((STAGE / "src" / core).glob("[!_]*.py"))
        if not only or any(file.as_posix().endswith(name) for name in only)
    ]
    yield "[tool.pytest.ini_options]"
    yield 'addopts = "--import-mode=importlib --strict-markers -p no:cacheprovider"'
    yield 'asyncio_mode = "auto"'
    yield 'asyncio_default_fixture_loop_scope = "function"'
    yield 'pythonpath = ["src", "tests"]'
    yield "timeout = 30"
    yield f"markers = {markers}"
    yield "[tool.mutmut]"
    yield 'source_paths = ["src"]'
    yield f"only_mutate = {json.dumps(mutated)}"
    yield f"pytest_add_cli_args_test_selection = {json.dumps(KILLERS)}"
    yield "timeout_multiplier = 8.0"  # of the time that the tests take alone, and a second more
    yield "use_git_change_detection = false"


def results() -> dict[str, int | None]:
    """Return the exit code of the tests for each mutant of the last run; None: not run."""
    found: dict[str, int | None] = {}
    for meta in sorted((STAGE / "mutants").rglob("*.meta")):
        found |= json.loads(meta.read_text("utf-8"))["exit_code_by_key"]
    return found


def judged(codes: dict[str, int | None]) -> tuple[list[str], float]:
    """Return the lines that tell the score, and the share of mutants that were noticed."""
    by_module: dict[str, Counter[str]] = {}
    for name, code in codes.items():
        module = name.partition(".x")[0]
        by_module.setdefault(module, Counter())[_fate(code)] += 1
    whole: Counter[str] = sum(by_module.values(), Counter())
    lines = [f"{module}: {_worded(counts)}" for module, counts in sorted(by_module.items())]
    return [*lines, f"in all: {_worded(whole)}"], _noticed(whole)


def _fate(code: int | None) -> str:
    if code in _KILLED:
        return "killed"
    if code in _TIMED_OUT:
        return "timed out"
    return {_SURVIVED: "survived", _UNTESTED: "no test"}.get(-1 if code is None else code, "other")


def _noticed(counts: Counter[str]) -> float:
    """Return the share of mutants that were noticed; a test that never ends notices as well."""
    return (counts["killed"] + counts["timed out"]) / counts.total() if counts else 0.0


def _worded(counts: Counter[str]) -> str:
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(counts.items()))
    return f"{_noticed(counts):.1%} of {counts.total()} noticed: {fates}"


def run(only: Sequence[str]) -> int:
    """Run mutmut over a fresh copy; return the exit code."""
    stage(only)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: TID251 - a command's own
    command = [str(MUTMUT), "run", "--max-children", str(CHILDREN)]
    subprocess.run(command, cwd=STAGE, env=environment, check=True)
    lines, share = judged(results())
    print("\n".join(lines))
    return 0 if share >= LEAST else 1


def survivors() -> int:
    """Print the diff of each mutant that lived; return the exit code."""
    for name, code in results().items():
        if _fate(code) in ("survived", "no test"):
            shown = subprocess.run(
                [str(MUTMUT), "show", name], cwd=STAGE, check=True, capture_output=True
            )
            print(shown.stdout.decode())
    return 0


def main(arguments: list[str]) -> int:
    """Do as the module says; return the exit code."""
    match arguments:
        case ["run", *only]:
            return run(only)
        case ["survivors"]:
            return survivors()
        case _:
            print(__doc__)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
