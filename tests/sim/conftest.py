"""The world of the simulations as a fixture, and how many worlds by seed there are to be."""

from collections.abc import AsyncIterator

import pytest

from world import World

WORLDS, FROM_SEED = 60, 1_000
DOCUMENTS = 400
IN_ONE_TEST = 10
"""Worlds, so that each test ends well within its limit."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run ask for more than continuous integration has time for."""
    group = parser.getgroup("sim", "worlds by seed")
    group.addoption("--worlds", type=int, default=WORLDS, help="how many worlds")
    group.addoption("--from-seed", type=int, default=FROM_SEED, help="the first world's seed")
    group.addoption("--documents", type=int, default=DOCUMENTS, help="how many change at once")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand out the seeds in portions to a test that takes them."""
    if "seeds" in metafunc.fixturenames:
        first = metafunc.config.getoption("--from-seed", default=FROM_SEED)
        last = first + metafunc.config.getoption("--worlds", default=WORLDS)
        starts = range(first, last, IN_ONE_TEST)
        portions = [range(start, min(start + IN_ONE_TEST, last)) for start in starts]
        metafunc.parametrize("seeds", portions, ids=[f"{p.start}-{p.stop - 1}" for p in portions])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Give a world with every service started, and stop it."""
    world = World()
    await world.start()
    yield world
    await world.stop()


@pytest.fixture
def many(request: pytest.FixtureRequest) -> int:
    """Return how many documents a firm has that is large."""
    return int(request.config.getoption("--documents"))
