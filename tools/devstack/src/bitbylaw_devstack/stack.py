"""Kafka and Redis together, over one state folder."""

import asyncio
import shutil
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, TypedDict

from bitbylaw_devstack.errors import DevstackError, ServerDiedError
from bitbylaw_devstack.install import default_cache_dir, install_kafka
from bitbylaw_devstack.kafka import KafkaBroker
from bitbylaw_devstack.process import last_lines, until
from bitbylaw_devstack.progress import OnEvent, Progress, told
from bitbylaw_devstack.redis import RedisServer, redis_program
from bitbylaw_devstack.server import Server
from bitbylaw_devstack.statelock import StateLock

_FOREVER_SECONDS = float("inf")


class ServerDescription(TypedDict):
    """One server, for people and for `stack.json`."""

    address: str
    port: int
    pid: int | None
    log: str


class Description(TypedDict):
    """The stack as JSON can hold it."""

    state_dir: str
    keep: bool
    kafka: ServerDescription
    redis: ServerDescription
    seconds: dict[str, float]


class Stack:
    """A real Kafka and a real Redis that live as long as the `async with` block.

    Also when this process is killed they are gone within seconds. It is bound to no event loop:
    one may enter it, another use it and a third leave it.

    Args:
        state_dir: holds `kafka`, `redis`, `logs` and `lock`. One stack at a time.
        keep: whether what they store outlives the block. If not, it is wiped before and after.
            The logs stay in any case; those of the run before end in `.1`.
        kafka_port: None takes a free one.
        redis_port: None takes a free one.
        cache_dir: where downloads stay; None means the user's cache.
        on_event: is told of each stage, in the event loop.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        keep: bool = False,
        kafka_port: int | None = None,
        redis_port: int | None = None,
        cache_dir: Path | None = None,
        on_event: OnEvent = lambda _: None,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.keep = keep
        self._ports = (kafka_port, redis_port)
        self._cache_dir = cache_dir if cache_dir is not None else default_cache_dir()
        self._on_event = on_event
        self._seconds: dict[str, float] = {}
        self._lock = StateLock(self.state_dir)
        self._kafka: KafkaBroker | None = None
        self._redis: RedisServer | None = None

    @property
    def kafka(self) -> KafkaBroker:
        """The broker; stop, start or kill it as a test needs.

        Raises:
            DevstackError: the stack was not entered.
        """
        if self._kafka is None:
            raise DevstackError("enter the stack first: async with Stack(...) as stack")
        return self._kafka

    @property
    def redis(self) -> RedisServer:
        """The Redis; stop, start or kill it as a test needs.

        Raises:
            DevstackError: the stack was not entered.
        """
        if self._redis is None:
            raise DevstackError("enter the stack first: async with Stack(...) as stack")
        return self._redis

    async def __aenter__(self) -> Self:
        """Return once both answer.

        Raises:
            MissingToolError: Java, Maven or Redis is missing.
            DownloadError: Kafka could not be fetched.
            StateInUseError: another stack runs over the same state folder.
            StartError: a server did not get ready; none is left running.
        """
        distribution = await install_kafka(self._cache_dir, self._tell)
        program = redis_program(self._cache_dir)
        held = await self._lock.acquire()
        try:
            if not self.keep:
                self._wipe()
            kafka_port, redis_port = self._ports
            self._kafka = KafkaBroker(
                distribution,
                folder=self.state_dir / "kafka",
                log=self._fresh_log("kafka"),
                port=kafka_port,
                hold=[held],
            )
            self._redis = RedisServer(
                program,
                folder=self.state_dir / "redis",
                log=self._fresh_log("redis"),
                port=redis_port,
                keep=self.keep,
                hold=[held],
            )
            starts = [
                asyncio.ensure_future(self._start(server, stage))
                for server, stage in ((self._kafka, "kafka"), (self._redis, "redis"))
            ]
            try:
                await asyncio.gather(*starts)
            finally:
                for start in starts:
                    start.cancel()
                await asyncio.wait(starts)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End both in order, and wipe what they stored unless it is kept."""
        await self._end()

    async def watch(self) -> NoReturn:
        """Wait until a server ends without being asked to.

        Raises:
            ServerDiedError: that happened; the text ends with the last lines of its log.
        """
        servers: tuple[Server, ...] = (self.kafka, self.redis)
        await until(lambda: any(server.died for server in servers), _FOREVER_SECONDS)
        dead = next(server for server in servers if server.died)
        raise ServerDiedError(
            f"{dead.name} ended by itself. The end of {dead.log}:\n{last_lines(dead.log)}"
        )

    def describe(self) -> Description:
        """Return addresses, ports, pids, log files and how long each stage took."""
        kafka, redis = self.kafka, self.redis
        return {
            "state_dir": str(self.state_dir),
            "keep": self.keep,
            "kafka": _described(kafka, kafka.bootstrap_servers),
            "redis": _described(redis, redis.url),
            "seconds": dict(self._seconds),
        }

    async def _start(self, server: Server, stage: str) -> None:
        with told(self._tell, stage, f"Starting {server.name}", f"{server.name} is ready"):
            await server.start()

    def _tell(self, progress: Progress) -> None:
        if progress.seconds is not None:
            self._seconds[progress.stage] = progress.seconds
        self._on_event(progress)

    async def _end(self) -> None:
        try:
            servers = [server for server in (self._kafka, self._redis) if server is not None]
            await asyncio.gather(*(server.stop() for server in servers))
            if not self.keep:
                self._wipe()
        finally:
            self._lock.release()

    def _wipe(self) -> None:
        for name in ("kafka", "redis"):
            folder = self.state_dir / name
            if folder.exists():
                shutil.rmtree(folder)

    def _fresh_log(self, name: str) -> Path:
        log = self.state_dir / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        log.touch()
        return log


def _described(server: Server, address: str) -> ServerDescription:
    return {
        "address": address,
        "port": server.port,
        "pid": server.pid,
        "log": str(server.log),
    }
