"""A real Apache Kafka: one KRaft node that is broker and controller."""

import base64
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path

from bitbylaw_devstack.distribution import KafkaDistribution
from bitbylaw_devstack.errors import StartError
from bitbylaw_devstack.ports import HOST, free_port, is_free
from bitbylaw_devstack.probe import exchange
from bitbylaw_devstack.process import last_lines, until
from bitbylaw_devstack.server import Server

_LARGEST_RECORD_BYTES = 26 * 1024 * 1024
"""Above the 24 MiB of the largest topics, so that they and not the broker set the limit."""
_FORMAT_SECONDS = 30.0
_CORRELATION = 7
_ANSWER = struct.Struct(">iih")

BROKER_SETTINGS: dict[str, str] = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # one node: whatever Kafka keeps for itself has one copy, in few partitions
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    # a topic that nobody declared is a mistake
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(_LARGEST_RECORD_BYTES),
    "replica.fetch.max.bytes": str(_LARGEST_RECORD_BYTES),
    # tests start groups often and watch members die
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # after a crash the node is let in again when the session of the dead one is over: 9 s by default
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # small buffers and few threads: the machine has work of its own
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.cleaner.threads": "1",
    "log.cleaner.backoff.ms": "500",
    "log.initial.task.delay.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "1",
    "queued.max.requests": "64",
}
"""All settings but addresses and folders; the twin in a container takes the same."""

_LOGGING = """\
Configuration:
  status: WARN
  shutdownHook: disable
  Appenders:
    Console: {name: out, target: SYSTEM_OUT, PatternLayout: {pattern: "%d %p %c %m%n"}}
  Loggers:
    Root: {level: WARN, AppenderRef: {ref: out}}
"""


class KafkaBroker(Server):
    """A broker that starts in about a second and takes some 150 MiB."""

    def __init__(
        self,
        distribution: KafkaDistribution,
        *,
        folder: Path,
        log: Path,
        port: int | None = None,
        hold: Sequence[int] = (),
    ) -> None:
        super().__init__("Kafka", folder=folder, log=log, port=port, hold=hold)
        self._distribution = distribution

    @property
    def bootstrap_servers(self) -> str:
        """Its address as clients take it."""
        return f"{HOST}:{self.port}"

    async def prepare(self, port: int) -> None:
        """Write its settings and format its folder at the first start.

        Raises:
            StartError: the folder could not be formatted.
        """
        controller = free_port()
        while controller == port or not is_free(controller):
            controller = free_port()
        self._write_settings(port, controller)
        if not (self.folder / "data" / "meta.properties").exists():
            await self._format()

    def command(self, port: int) -> list[str]:
        """Return the broker's command line."""
        return self._distribution.java_command(
            self._logging_file, "kafka.Kafka", str(self._settings_file)
        )

    async def answers(self, port: int) -> bool:
        """Return whether ApiVersions is answered without an error."""
        return await answers_as_kafka(port)

    @property
    def _settings_file(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _logging_file(self) -> Path:
        return self.folder / "log4j2.yaml"

    def _write_settings(self, port: int, controller: int) -> None:
        settings = BROKER_SETTINGS | {
            "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "log.dirs": str(self.folder / "data"),
        }
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        self._settings_file.write_text("".join(lines), "utf-8")
        self._logging_file.write_text(_LOGGING, "utf-8")

    async def _format(self) -> None:
        process = self.spawn(
            self._distribution.java_command(
                self._logging_file,
                "kafka.tools.StorageTool",
                *("format", "-t", _cluster_id(), "-c", str(self._settings_file)),
            )
        )
        try:
            await until(lambda: not process.running, _FORMAT_SECONDS)
        finally:
            await process.kill()
        if process.exit_code != 0:
            raise StartError(
                f"Kafka could not format {self.folder}. The end of {self.log}:\n"
                f"{last_lines(self.log)}"
            )


async def answers_as_kafka(port: int) -> bool:
    """Return whether a broker on this port answers an ApiVersions request without an error."""
    request = struct.pack(">hhih", 18, 0, _CORRELATION, 1) + b"x"
    answer = await exchange(port, struct.pack(">i", len(request)) + request, _ANSWER.size)
    if answer is None:
        return False
    _, correlation, error = _ANSWER.unpack(answer)
    return (correlation, error) == (_CORRELATION, 0)


def _cluster_id() -> str:
    """Return 22 characters of url-safe base64; a leading dash would read as an option."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "A")
