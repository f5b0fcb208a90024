"""Services as processes of their own: started, watched, started again when their source changes."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

import bitbylaw_common
from bitbylaw_cli.log_lines import ending
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.runtime.app import App
from bitbylaw_devstack import GuardedProcess
from bitbylaw_devstack.ports import free_port

_LAUNCH = Path(__file__).with_name("launch.py")
_BIN = Path(sys.executable).parent
_LOOK_SECONDS = 0.05
_STOP_SECONDS = 7.0
"""How long a service may take to drain; a little more than the drain it is told."""


_KILLED = 128 + signal.SIGKILL


class Child:
    """A program with its own environment and log file; ends with us, however we end.

    Args:
        name: as an operator says it.
        command: program and arguments; the program as an absolute path.
        env: its whole environment, handed over unseen.
        log: the file for its output.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._env = dict(env)
        self._process: GuardedProcess | None = None
        self._wanted = False

    async def start(self) -> int:
        """Start it and return its pid."""
        with tempfile.TemporaryFile() as handed:
            handed.write(json.dumps(self._env).encode())
            handed.flush()
            number = handed.fileno()
            self._process = GuardedProcess(
                [sys.executable, "-I", "-S", str(_LAUNCH), str(number), *self._command],
                log=self.log,
                folder=Path.cwd(),
                hold=[number],
            )
            pid = await self._process.named()
        self._wanted = True
        return pid

    async def stop(self) -> None:
        """Let it drain and end; killed when it takes too long."""
        self._wanted = False
        if self._process is not None:
            await self._process.stop(_STOP_SECONDS)

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.running else None

    @property
    def died(self) -> bool:
        """Whether it ended without being asked to."""
        return self._wanted and self._process is not None and not self._process.running

    @property
    def killed(self) -> bool:
        """Whether it died by SIGKILL, and not of a fault of its own."""
        return self.died and self._process is not None and self._process.exit_code == _KILLED

    def death(self) -> CommandError:
        """Return what to tell when it died: which, the end of its log, what to do."""
        code = None if self._process is None else self._process.exit_code
        return CommandError(
            Exit.FINDING,
            f"{self.name} ended by itself with exit code {code}. The end of {self.log}:\n"
            f"{ending(self.log)}\n"
            "Everything else is ended too; put right what the log names, then start again.",
        )


class ServiceChild(Child):
    """One of our services as a child, listening on a free port."""

    def __init__(self, app: App[Any], env: Mapping[str, str], log: Path) -> None:
        self.app = app
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(_BIN / f"bitbylaw-{app.name}")]
        # A name that stays lets the group know it again at once after a kill.
        own = {"HTTP_PORT": str(self.port), "BBL_INSTANCE": f"{app.name}-0"}
        super().__init__(app.name, command, {**env, **own}, log)

    async def ready(self, session: aiohttp.ClientSession, seconds: float) -> None:
        """Return once it is ready.

        Raises:
            CommandError: it ended, or was not ready in time; the text has the end of its log.
        """
        await until_ready(
            f"{self.url}/readyz",
            self.name,
            self.log,
            session,
            seconds=seconds,
            ended=lambda: self.died,
        )


async def until_ready(
    url: str,
    name: str,
    log: Path,
    session: aiohttp.ClientSession,
    *,
    seconds: float,
    ended: Callable[[], bool],
) -> None:
    """Return once `url` answers 200.

    Raises:
        CommandError: `ended()` became true, or it took longer than `seconds`.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while not await _answers(url, session):
        late = asyncio.get_running_loop().time() > deadline
        if ended() or late:
            what = f"was not ready within {seconds:.0f} s" if late else "ended while it started"
            raise CommandError(Exit.FINDING, f"{name} {what}. The end of {log}:\n{ending(log)}")
        await asyncio.sleep(_LOOK_SECONDS)


async def _answers(url: str, session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


# -- sources --------------------------------------------------------------------------------------


class Sources:
    """The source files of services, as they were when last looked at."""

    def __init__(
        self, apps: Sequence[App[Any]], packages: Mapping[str, Path] | None = None
    ) -> None:
        self._common = Path(str(bitbylaw_common.__file__)).parent
        self._packages = dict(packages) if packages is not None else _packages(apps)
        self._seen = self._look()

    def changed(self) -> frozenset[str]:
        """Return the services whose source changed since the last call; common code means all."""
        now = self._look()
        differing = {name for name in now if now[name] != self._seen[name]}
        self._seen = now
        if "" in differing:
            return frozenset(self._packages)
        return frozenset(differing)

    def _look(self) -> dict[str, int]:
        return {"": _stamp(self._common)} | {
            name: _stamp(folder) for name, folder in self._packages.items()
        }


def _packages(apps: Sequence[App[Any]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for app in apps:
        name = f"bitbylaw_{app.name.replace('-', '_')}"
        found[app.name] = Path(str(sys.modules[name].__file__)).parent
    return found


def _stamp(folder: Path) -> int:
    return hash(tuple(_stamps(folder)))


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(base) / name
                try:
                    seen = path.stat()
                except FileNotFoundError:  # an editor is just putting it in place
                    continue
                yield str(path), seen.st_mtime_ns, seen.st_size


# -- memory ---------------------------------------------------------------------------------------


def resident_kib(pid: int, proc: Path = Path("/proc"), *, line: str = "VmRSS:") -> int | None:
    """Return a process's resident memory in KiB; None where the system does not tell."""
    try:
        lines = (proc / str(pid) / "status").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    return next((int(one.split()[1]) for one in lines if one.startswith(line)), None)


def forget_highest(pid: int, proc: Path = Path("/proc")) -> bool:
    """Let the kernel begin anew to note the process's highest memory; False where it cannot."""
    try:
        (proc / str(pid) / "clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def highest_kib(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Return the highest resident memory in KiB since `forget_highest`; None if nobody knows."""
    return resident_kib(pid, proc, line="VmHWM:")
