"""Where tests find a real Kafka and a real Redis, and what they may do with them.

- `kafka_bootstrap`, `redis_url`: addresses, whatever serves them. What is given by the environment
  is shared with others and not empty: a test that asks for these names its own topics and groups.
- `stack`: a Kafka and a Redis of the module's own, always native, which its tests may stop, start
  and kill.

A test that asks for one of them carries the mark `kafka`.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from backends import Addresses, Backend, choose, docker_answers
from bitbylaw_devstack import Stack, default_cache_dir, install_kafka
from containers import kafka_container, redis_container

_BACKEND = pytest.StashKey[Backend]()


def pytest_configure(config: pytest.Config) -> None:
    """Decide once what serves Kafka and Redis."""
    config.stash[_BACKEND] = choose(_environment(), docker_answers)


def pytest_report_header(config: pytest.Config) -> str:
    """Say what was decided, and why."""
    return f"kafka and redis: {config.stash[_BACKEND].why}"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Download Kafka before the first test that needs it, outside every test's limit."""
    natively = session.config.stash[_BACKEND].kind == "devstack"
    for item in session.items:
        fixtures = getattr(item, "fixturenames", ())
        if "stack" in fixtures or (natively and {"kafka_bootstrap", "redis_url"} & {*fixtures}):
            with _runner() as runner:
                runner.run(install_kafka(default_cache_dir(), lambda _: None))
            return


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka and Redis as child processes, for this module alone."""
    with _running(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="session")
def addresses(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Addresses]:
    """Where Kafka and Redis are; each missing one is started, once per run (and xdist worker)."""
    backend = pytestconfig.stash[_BACKEND]
    with ExitStack() as running:
        if backend.kafka and backend.redis:
            yield Addresses(backend.kafka, backend.redis)
        elif backend.kind == "docker":
            yield Addresses(
                backend.kafka or running.enter_context(kafka_container()),
                backend.redis or running.enter_context(redis_container()),
            )
        else:
            native = running.enter_context(_running(tmp_path_factory.mktemp("stack")))
            yield Addresses(
                backend.kafka or native.kafka.bootstrap_servers,
                backend.redis or native.redis.url,
            )


@pytest.fixture(scope="session")
def kafka_bootstrap(addresses: Addresses) -> str:
    """Kafka's address as clients take it."""
    return addresses.kafka


@pytest.fixture(scope="session")
def redis_url(addresses: Addresses) -> str:
    """Redis' address as clients take it."""
    return addresses.redis


@contextmanager
def _running(folder: Path) -> Iterator[Stack]:
    """Run a stack for the block, from a place where no event loop runs."""
    stack = Stack(folder)
    with _runner() as runner:
        runner.run(stack.__aenter__())
        try:
            yield stack
        finally:
            # What it holds is thrown away with it: ending in order would only take longer.
            runner.run(stack.kafka.kill())
            runner.run(stack.__aexit__(None, None, None))


def _runner() -> asyncio.Runner:
    """Return a runner that leaves the current loop of the test run alone."""
    return asyncio.Runner(loop_factory=asyncio.new_event_loop)


def _environment() -> Mapping[str, str]:
    return os.environ  # noqa: TID251 - the tests' own edge
