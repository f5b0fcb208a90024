"""The hosts that the runtime's suite runs over."""

from collections.abc import AsyncIterator

import pytest

from harness import Harness, kafka_harness, memory_harness

CASES = 400


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run ask for more than continuous integration has time for."""
    parser.addoption("--cases", type=int, default=CASES, help="requests of the fuzz of a document")


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    """How many requests are made of a document."""
    return int(request.config.getoption("--cases", default=CASES))


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def bootstrap(request: pytest.FixtureRequest) -> str | None:
    """Kafka's address, or None for the memory host."""
    if request.param == "memory":
        return None
    address: str = request.getfixturevalue("kafka_bootstrap")
    return address


@pytest.fixture
async def host(bootstrap: str | None) -> AsyncIterator[Harness]:
    """The toy app, on the memory host and on a real Kafka."""
    if bootstrap is None:
        async with memory_harness() as memory:
            yield memory
    else:
        async with kafka_harness(bootstrap) as kafka:
            yield kafka
