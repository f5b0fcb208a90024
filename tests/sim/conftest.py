"""The world of the simulations as a fixture."""

from collections.abc import AsyncIterator

import pytest

from world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Give a world with every service started, and stop it."""
    world = World()
    await world.start()
    yield world
    await world.stop()
