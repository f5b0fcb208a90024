"""How often and how big: `pytest tests/fire --seeds 10 --records 100000`."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bitbylaw_devstack import Stack
from fire.scene import SESSION_SECONDS, MakeScene, Scene
from fire.service import Setup

SEEDS = 1
RECORDS = 5_000
SECONDS_PER_RECORD = 0.01
"""What a test of many records may take longer for each."""

_names = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run ask for more than continuous integration has time for."""
    group = parser.getgroup("fire", "tests under fire")
    group.addoption("--seeds", type=int, default=SEEDS, help="how many seeds, from 1")
    group.addoption("--records", type=int, default=RECORDS, help="records of the big scenarios")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a seed once for each."""
    if "seed" in metafunc.fixturenames:
        count = metafunc.config.getoption("--seeds", default=SEEDS)
        metafunc.parametrize("seed", range(1, count + 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests of many records the time that the many need."""
    more = _records(config) * SECONDS_PER_RECORD
    for item in items:
        if "records" in getattr(item, "fixturenames", ()) and item.path.parent == _HERE:
            item.add_marker(pytest.mark.timeout(360 + more))


_HERE = Path(__file__).parent


@pytest.fixture
def records(pytestconfig: pytest.Config) -> int:
    """How many records a big scenario sends."""
    return _records(pytestconfig)


def _records(config: pytest.Config) -> int:
    count: int = config.getoption("--records", default=RECORDS)
    return count


@pytest.fixture
async def scene_of(stack: Stack, tmp_path: Path) -> AsyncIterator[MakeScene]:
    """Return what opens a scene: an app of its own name, with the setup that is given."""
    async with AsyncExitStack() as opened:

        async def scene_of(
            *, session_seconds: float | None = SESSION_SECONDS, **setup: Any
        ) -> Scene:
            name = f"fire{next(_names)}"
            folder = tmp_path / name
            folder.mkdir()
            made = Setup(name=name, folder=folder, **setup)
            scene = Scene(stack, made, session_seconds=session_seconds)
            opened.push_async_callback(scene.close)
            await scene.open()
            return scene

        yield scene_of
