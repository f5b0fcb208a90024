"""Kafka and Redis in containers, for machines with a Docker engine."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from bitbylaw_devstack import BROKER_SETTINGS, answers_as_kafka
from bitbylaw_devstack.install import kafka_version
from bitbylaw_devstack.ports import free_port

_REDIS_IMAGE = "redis:8.2"
_READY_SECONDS = 60.0
_INSIDE = 9092


@contextmanager
def kafka_container() -> Iterator[str]:
    """Run a broker with the settings of the native one; yield its address.

    The port is the same inside and outside for clients, because a broker tells them where it is.
    """
    from testcontainers.core.container import DockerContainer

    port = free_port()
    settings = BROKER_SETTINGS | {
        "listeners": f"PLAINTEXT://:{_INSIDE},CONTROLLER://:{_INSIDE + 1}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@localhost:{_INSIDE + 1}",
        "log.dirs": "/tmp/kafka",  # noqa: S108 - inside the container
    }
    container = DockerContainer(f"apache/kafka:{kafka_version()}").with_bind_ports(_INSIDE, port)
    for name, value in settings.items():
        container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    with container:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(_ready(port))
        yield f"127.0.0.1:{port}"


@contextmanager
def redis_container() -> Iterator[str]:
    """Run a Redis; yield its address."""
    from testcontainers.redis import RedisContainer

    with RedisContainer(_REDIS_IMAGE) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
        yield f"redis://{host}:{port}/0"


async def _ready(port: int) -> None:
    async with asyncio.timeout(_READY_SECONDS):
        while not await answers_as_kafka(port):  # noqa: ASYNC110 - a broker rings no bell
            await asyncio.sleep(0.1)
