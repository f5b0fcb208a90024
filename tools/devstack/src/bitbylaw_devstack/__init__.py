"""A real Apache Kafka and a real Redis as child processes, without Docker."""

from bitbylaw_devstack.errors import (
    DevstackError,
    DownloadError,
    MissingToolError,
    ServerDiedError,
    StartError,
    StateInUseError,
)
from bitbylaw_devstack.install import default_cache_dir, install_kafka, missing_tools
from bitbylaw_devstack.kafka import BROKER_SETTINGS, KafkaBroker, answers_as_kafka
from bitbylaw_devstack.process import GuardedProcess, last_lines
from bitbylaw_devstack.progress import Progress
from bitbylaw_devstack.redis import RedisServer
from bitbylaw_devstack.stack import Description, ServerDescription, Stack

__all__ = [
    "BROKER_SETTINGS",
    "Description",
    "DevstackError",
    "DownloadError",
    "GuardedProcess",
    "KafkaBroker",
    "MissingToolError",
    "Progress",
    "RedisServer",
    "ServerDescription",
    "ServerDiedError",
    "Stack",
    "StartError",
    "StateInUseError",
    "answers_as_kafka",
    "default_cache_dir",
    "install_kafka",
    "last_lines",
    "missing_tools",
]
