"""Decides what serves the tests' Kafka and Redis (pure but for one look at Docker)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

_DOCKER_SOCKET = Path("/var/run/docker.sock")
_DOCKER_SECONDS = 2
_HERE = (None, "127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where Kafka and Redis are, as clients take it."""

    kafka: str
    redis: str


@dataclass(frozen=True, slots=True)
class Backend:
    """What serves, the addresses that are given already, and why in words."""

    kind: Literal["given", "docker", "devstack"]
    why: str
    kafka: str | None = None
    redis: str | None = None


def choose(env: Mapping[str, str], docker: Callable[[Mapping[str, str]], bool]) -> Backend:
    """Return the given addresses, else containers where Docker answers, else the native twin.

    BBL_TEST_BACKEND=devstack asks for the native twin even where Docker answers.
    """
    kafka = env.get("KAFKA_BOOTSTRAP_SERVERS") or None
    redis = env.get("REDIS_URL") or None
    if kafka and redis:
        return Backend("given", "as KAFKA_BOOTSTRAP_SERVERS and REDIS_URL say", kafka, redis)
    given = "".join(
        f"; {name} is given" for name, value in (("Kafka", kafka), ("Redis", redis)) if value
    )
    asked = env.get("BBL_TEST_BACKEND") == "devstack"
    if not asked and docker(env):
        return Backend("docker", f"testcontainers, a Docker engine answers{given}", kafka, redis)
    reason = "BBL_TEST_BACKEND asks for it" if asked else "no Docker engine answers here"
    return Backend("devstack", f"native processes, {reason}{given}", kafka, redis)


def docker_answers(env: Mapping[str, str]) -> bool:
    """Return whether a Docker engine of this machine answers; it has two seconds.

    One elsewhere does not count: a broker tells its clients an address, and ours are on loopback.
    """
    given = env.get("DOCKER_HOST", "")
    if not given and not _DOCKER_SOCKET.exists():
        return False
    if urlsplit(given).hostname not in _HERE:
        return False
    import docker  # takes a while: only where there is hope
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=_DOCKER_SECONDS, environment=dict(env))
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (DockerException, OSError):
        return False
