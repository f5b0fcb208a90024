"""`bbl` as a person types it: a process of its own, in a folder of its own."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

BBL = Path(sys.executable).with_name("bbl")
START_SECONDS = 120.0
END_SECONDS = 10.0
"""Everything has to be gone within this after Ctrl-C."""


class Bbl:
    """A command that runs."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.printed = ""
        self._grown = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while piece := await self.process.stdout.read(4096):
            self.printed += piece.decode()
            grown, self._grown = self._grown, asyncio.Event()
            grown.set()
        self._grown.set()

    async def says(self, words: str, seconds: float = START_SECONDS) -> None:
        """Return once it printed the words."""
        async with asyncio.timeout(seconds):
            while words not in self.printed:
                assert not self._reading.done(), f"it ended and said:\n{self.printed}"
                await self._grown.wait()

    async def ended(self, seconds: float) -> int:
        """Return its exit code once it ended."""
        async with asyncio.timeout(seconds):
            code = await self.process.wait()
            await self._reading
        return code

    @property
    def stack(self) -> Mapping[str, Any]:
        """What `stack.json` tells."""
        told: dict[str, Any] = json.loads((self.folder / ".devstack/stack.json").read_text())
        return told


@asynccontextmanager
async def bbl(folder: Path, *arguments: str) -> AsyncIterator[Bbl]:
    """Run a command for the length of the block; what still runs at its end is ended."""
    env = {name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME") if name in os.environ}  # noqa: TID251 - the tests' own edge
    process = await asyncio.create_subprocess_exec(
        str(BBL),
        *arguments,
        cwd=folder,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    running = Bbl(process, folder)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await running.ended(END_SECONDS)
            except TimeoutError:
                process.kill()
                await running.ended(END_SECONDS)


def living(stack: Mapping[str, Any]) -> list[str]:
    """Return the processes of a stack file that still run."""
    pids = {"bbl": stack["pid"]} | {name: one["pid"] for name, one in stack["processes"].items()}
    return [name for name, pid in pids.items() if pid is not None and _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        state = (
            Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
        )
    except FileNotFoundError:
        return False
    return state != "Z"


async def become(condition: Callable[[], bool], seconds: float) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - processes tell only who looks
            await asyncio.sleep(0.05)
