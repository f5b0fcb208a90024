"""A lock is stale when its inputs changed, and that is known without a network."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project files and locks."""
    for pattern in (
        *("pyproject.toml", "*/pyproject.toml", "*/*/pyproject.toml"),
        *("*.lock", "*/*.lock", "*/*/*.lock", ".ci/lock.py"),
    ):
        for file in _ROOT.glob(pattern):
            target = tmp_path / file.relative_to(_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return tmp_path


def _check(root: Path) -> tuple[int, str]:
    found = subprocess.run(
        [sys.executable, "-I", str(root / ".ci" / "lock.py"), "check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return found.returncode, found.stdout


def test_the_locks_of_this_tree_fit(copy: Path) -> None:
    assert _check(copy) == (0, "all locks fit\n")


def test_a_new_dependency_makes_locks_stale(copy: Path) -> None:
    project = copy / "services" / "ingest" / "pyproject.toml"
    project.write_text(project.read_text().replace('"pydantic"', '"pydantic", "orjson"'))
    code, said = _check(copy)
    assert code == 1
    assert "requirements.lock is stale" in said
    assert "services/ingest/requirements.lock is stale" in said
    assert "requirements-uv.lock" not in said


def test_a_newer_main_lock_makes_the_services_stale(copy: Path) -> None:
    lock = copy / "requirements.lock"
    lock.write_text(lock.read_text() + "# changed\n")
    code, said = _check(copy)
    assert code == 1
    assert "services/document-sync/requirements.lock is stale" in said


@pytest.mark.parametrize(
    "line", ["--index-url https://index.example/simple", "-e ./libs/common", "x @ file:///tmp/x"]
)
def test_an_address_in_a_lock_is_refused(copy: Path, line: str) -> None:
    lock = copy / "requirements-uv.lock"
    lock.write_text(f"{lock.read_text()}{line}\n")
    assert _check(copy) == (
        1,
        "requirements-uv.lock records an address or a path: run make lock\n",
    )


def test_a_missing_lock_is_named(copy: Path) -> None:
    (copy / "services" / "ingest" / "requirements.lock").unlink()
    code, said = _check(copy)
    assert code == 1
    assert "services/ingest/requirements.lock is missing" in said
