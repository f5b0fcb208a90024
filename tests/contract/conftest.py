"""The hosts that the runtime's suite runs over."""

from collections.abc import AsyncIterator

import pytest
from harness import Harness, memory_harness


@pytest.fixture
async def host() -> AsyncIterator[Harness]:
    """The toy app, hosted."""
    async with memory_harness() as harness:
        yield harness
