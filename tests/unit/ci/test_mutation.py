"""The score of a mutation run, and the copy that it works on."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutation", ROOT / ".ci" / "mutation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STAGE", tmp_path / "stage")
    return module


def test_what_never_ends_was_noticed_and_what_no_test_reaches_was_not(tool: ModuleType) -> None:
    lines, share = tool.judged(
        {
            "core.texts.x_refused__mutmut_1": 1,
            "core.texts.x_refused__mutmut_2": 0,
            "core.model.x\u01c1Entry\u01c1told__mutmut_1": 1,
            "core.model.x\u01c1Entry\u01c1told__mutmut_2": -24,
            "core.model.x\u01c1Entry\u01c1told__mutmut_3": 33,
            "core.model.x_plan__mutmut_1": None,
        }
    )
    assert lines == [
        "core.model: 50.0% of 4 noticed: 1 killed, 1 no test, 1 other, 1 timed out",
        "core.texts: 50.0% of 2 noticed: 1 killed, 1 survived",
        "in all: 50.0% of 6 noticed: 2 killed, 1 no test, 1 other, 1 survived, 1 timed out",
    ]
    assert share == 0.5


def test_without_a_mutant_nothing_was_noticed(tool: ModuleType) -> None:
    assert tool.judged({}) == (["in all: 0.0% of 0 noticed: "], 0.0)


def test_the_whole_core_is_changed_or_the_files_that_are_named(tool: ModuleType) -> None:
    def changed(*only: str) -> set[str]:
        tool.stage(only)
        written = tomllib.loads((tool.STAGE / "pyproject.toml").read_text("utf-8"))
        mutated = written["tool"]["mutmut"]["only_mutate"]
        assert all((tool.STAGE / file).is_file() for file in mutated)
        return {Path(file).name for file in mutated}

    core = [
        *(ROOT / "services/document-sync/src/bitbylaw_document_sync/domain").glob("[!_]*.py"),
        *(ROOT / "libs/common/src/bitbylaw_common/sync").glob("[!_]*.py"),
    ]
    assert changed() == {file.name for file in core}
    assert changed("domain/planner.py", "sync/base.py") == {"planner.py", "base.py"}
    assert changed("domain/nothing.py") == set()


def test_the_copy_holds_the_tests_that_are_to_notice_and_what_they_share(tool: ModuleType) -> None:
    tool.stage([])
    tests = tool.STAGE / "tests"
    assert (tests / "unit/document_sync/test_planner.py").is_file()
    assert (tests / "unit/common/test_brake.py").is_file()
    assert (tests / "unit/ingest/posts.py").is_file()
    assert not (tests / "unit/ingest/conftest.py").exists()
    assert "max_examples=10" in (tests / "conftest.py").read_text("utf-8")
