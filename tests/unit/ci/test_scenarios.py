"""The map of scenarios: what counts as shown, and what it calls a gap."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scenarios", ROOT / ".ci" / "scenarios.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def project(root: Path, table: str, **files: str) -> Path:
    """Write a table and test files, named by folder and file with two underscores between."""
    (root / "tests").mkdir()
    (root / "tests" / "scenarios.toml").write_text(table, "utf-8")
    for name, text in files.items():
        file = root / "tests" / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return root


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("test_xai_07_at_every_moment", {7}),
        ("test_xai_15_and_16_killed_anywhere", {15, 16}),
        ("test_xai_03_05_07_08_refused", {3, 5, 7, 8}),
        ("test_xai_25_to_27_what_does_not_fit", {25, 26, 27}),
        ("test_xai_14", {14}),
        ("test_xai_answers_whatever_is_asked", set()),
        ("test_foreign_07_is_none_of_them", set()),
        ("xai_07_is_no_test", set()),
    ],
)
def test_a_test_s_name_begins_with_its_numbers(
    tool: ModuleType, name: str, numbers: set[int]
) -> None:
    found = tool.numbers_of(name, frozenset({"xai"}))
    assert found == {("xai", number) for number in numbers}


def test_folder_and_mark_decide_the_level(tool: ModuleType, tmp_path: Path) -> None:
    marked = "import pytest\npytestmark = [pytest.mark.kafka]\n"
    root = project(
        tmp_path,
        '[xai]\n01 = { says = "one", at = ["planner", "simulators", "kafka"] }\n',
        unit__a__test_a="def test_xai_01_a(): ...\n",
        sim__test_b="async def test_xai_01_b(): ...\n",
        e2e__test_c=marked + "async def test_xai_01_c(): ...\n",
    )
    lines, complete = tool.told(root, only_gaps=False)
    assert complete
    assert lines == [
        "xai 01  one",
        "    kafka       tests/e2e/test_c.py::test_xai_01_c",
        "    simulators  tests/sim/test_b.py::test_xai_01_b",
        "    planner     tests/unit/a/test_a.py::test_xai_01_a",
    ]


def test_a_mark_on_one_test_is_that_test_s_alone(tool: ModuleType, tmp_path: Path) -> None:
    marked = "import pytest\n@pytest.mark.kafka\nasync def test_xai_01_a(): ...\n"
    root = project(
        tmp_path,
        '[xai]\n01 = { says = "one", at = ["kafka"] }\n02 = { says = "two", at = ["kafka"] }\n',
        contract__test_a=marked + "def test_xai_02_b(): ...\n",
    )
    lines, complete = tool.told(root, only_gaps=True)
    assert not complete
    assert lines == ["xai 02  two", "    kafka       MISSING"]


def test_a_number_without_a_scenario_is_an_error(tool: ModuleType, tmp_path: Path) -> None:
    root = project(
        tmp_path,
        '[xai]\n01 = { says = "one", at = ["simulators"] }\n',
        sim__test_a="def test_xai_01_and_02_a(): ...\n",
    )
    lines, complete = tool.told(root, only_gaps=True)
    assert not complete
    assert lines == ["tests/sim/test_a.py::test_xai_01_and_02_a: there is no xai 2"]


def test_a_level_that_does_not_exist_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    root = project(tmp_path, '[xai]\n01 = { says = "one", at = ["production"] }\n')
    with pytest.raises(ValueError, match="xai 01"):
        tool.told(root, only_gaps=True)


def test_every_scenario_is_shown_at_its_levels(tool: ModuleType) -> None:
    lines, complete = tool.told(ROOT, only_gaps=True)
    assert complete, "\n".join(lines)
