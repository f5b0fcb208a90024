"""What the broker and Redis have in common: ports, a beginning with a limit, an end."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from bitbylaw_devstack.errors import StartError
from bitbylaw_devstack.ports import HOST, free_port, is_free
from bitbylaw_devstack.process import GuardedProcess, last_lines

_ATTEMPTS = 5
_LOOK_SECONDS = 0.02
_STOP_SECONDS = 20.0


class Server(ABC):
    """A server on the loopback interface that may be started, stopped and killed again and again.

    Once it was ready it keeps its port, so that clients find it again after a restart.

    Args:
        name: what operators call it.
        folder: its state; may be wiped while it does not run.
        log: the file that its output is appended to.
        port: where to listen; None takes a free one at the first start.
        hold: descriptors that live as long as the server.
    """

    def __init__(
        self, name: str, *, folder: Path, log: Path, port: int | None, hold: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.folder = folder
        self.log = log
        self._port = port
        self._hold = tuple(hold)
        self._process: GuardedProcess | None = None
        self._wanted = False

    @property
    def port(self) -> int:
        """Where it listens.

        Raises:
            StartError: it was never started, and no port was asked for.
        """
        if self._port is None:
            raise StartError(f"{self.name} has no port yet: start it first")
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's process; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def died(self) -> bool:
        """Whether it ended by itself after it was ready."""
        return self._wanted and self.pid is None

    async def start(self, limit_seconds: float = 30.0) -> None:
        """Start it and return once it really answers.

        Raises:
            StartError: it runs already, its port is taken, it ended, or the limit passed.
        """
        if self._process is not None and self._process.running:
            raise StartError(f"{self.name} runs already, as process {self.pid}")
        fixed = self._port
        for attempt in range(1, _ATTEMPTS + 1):
            port = fixed if fixed is not None else free_port()
            if fixed is not None and not is_free(fixed):
                raise StartError(
                    f"{self.name} cannot listen on {HOST}:{fixed}: another program does. "
                    "End that one, or choose another port"
                )
            try:
                await self._start_on(port, limit_seconds)
            except StartError as refused:
                if attempt == _ATTEMPTS or not self._lost_a_port(str(refused)):
                    raise
            else:
                self._port = port
                self._wanted = True
                return

    async def stop(self) -> None:
        """Ask it to end in order and return when it is gone; killed after 20 s."""
        self._wanted = False
        if self._process is not None:
            await self._process.stop(_STOP_SECONDS)

    async def kill(self) -> None:
        """End it as a crash would; its state stays as the crash leaves it."""
        self._wanted = False
        if self._process is not None:
            await self._process.kill()

    @abstractmethod
    async def prepare(self, port: int) -> None:
        """Write what the server needs before it starts on this port."""

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """Return the program and arguments that listen on this port."""

    @abstractmethod
    async def answers(self, port: int) -> bool:
        """Return whether it gives a real answer; False also when nothing listens."""

    def spawn(self, command: list[str]) -> GuardedProcess:
        """Start a program in the server's folder, with its log and its descriptors."""
        return GuardedProcess(command, log=self.log, folder=self.folder, hold=self._hold)

    async def _start_on(self, port: int, limit_seconds: float) -> None:
        deadline = time.monotonic() + limit_seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        await self.prepare(port)
        self._process = process = self.spawn(self.command(port))
        try:
            await process.named()
            await self._answered(process, port, deadline)
        except BaseException:
            await process.kill()
            raise

    async def _answered(self, process: GuardedProcess, port: int, deadline: float) -> None:
        while not await self.answers(port):
            if not process.running:
                raise self._failed(f"ended with exit code {process.exit_code}")
            if time.monotonic() > deadline:
                raise self._failed("did not answer in time")
            await asyncio.sleep(_LOOK_SECONDS)
        if not process.running:
            raise self._failed("ended while another program answers on its port, which is in use")

    def _failed(self, what: str) -> StartError:
        return StartError(
            f"{self.name} {what}. The end of {self.log}:\n{last_lines(self.log)}\n"
            "If its state is to blame, start again without keeping it."
        )

    @staticmethod
    def _lost_a_port(text: str) -> bool:
        return "in use" in text
