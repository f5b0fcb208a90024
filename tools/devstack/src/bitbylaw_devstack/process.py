"""Child processes that never outlive us."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
_GRACE_SECONDS = 2.0
_LOOK_SECONDS = 0.02


async def until(condition: Callable[[], bool], limit_seconds: float) -> bool:
    """Return True as soon as `condition` holds, False when it did not within the limit."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True


def last_lines(log: Path, count: int = 12) -> str:
    """Return the end of a log, indented; a remark when there is nothing to show."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode("utf-8", "replace").splitlines()[-count:]
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines) or "  (its log is empty)"


class GuardedProcess:
    """A program in a session of its own, so that Ctrl-C reaches only us and we end it in order.

    It is bound to no event loop: one may start it and another one stop it.

    Args:
        command: program and arguments.
        log: the file that its output is appended to.
        folder: where it runs.
        hold: descriptors that it inherits and thereby keeps open as long as it lives.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, folder: Path, hold: Sequence[int] = ()
    ) -> None:
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(_GRACE_SECONDS), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=folder,
                pass_fds=tuple(hold),
                start_new_session=True,
            )
        self._pid: int | None = None

    async def named(self) -> int:
        """Return the program's own pid, once it is known; 0 when it could not be started."""
        if self._pid is None:
            told = self._guard.stdout
            line = await asyncio.to_thread(told.readline) if told is not None else b""
            self._pid = int(line or b"0")
        return self._pid

    @property
    def pid(self) -> int | None:
        """The program's own pid; None before `named` was awaited."""
        return self._pid

    @property
    def exit_code(self) -> int | None:
        """What it ended with, 128 + n for signal n; None while it runs."""
        code = self._guard.poll()
        if code is not None:
            self._close()
        return code

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.exit_code is None

    async def stop(self, limit_seconds: float) -> bool:
        """Ask it to end and return once it has; False when it had to be killed at the limit."""
        if not self.running:
            return True
        self._guard.terminate()
        if await until(lambda: not self.running, limit_seconds):
            return True
        await self.kill()
        return False

    async def kill(self) -> None:
        """End it at once, as a crash would, and return when it is gone."""
        if not self.running:
            return
        if self._pid:
            try:
                os.kill(self._pid, signal.SIGKILL)
            except ProcessLookupError:
                self._pid = None
        else:
            self._guard.kill()
        if not await until(lambda: not self.running, _GRACE_SECONDS):
            self._guard.kill()
            await asyncio.to_thread(self._guard.wait, _GRACE_SECONDS)
            self._close()

    def _close(self) -> None:
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
