"""One stack per state folder."""

import errno
import fcntl
import os
from pathlib import Path

from bitbylaw_devstack.errors import StateInUseError
from bitbylaw_devstack.process import until

_LINGER_SECONDS = 10.0
"""How long the servers of an owner that was killed may take to follow it."""


class StateLock:
    """Holds a state folder for this process and for the servers that it starts.

    The kernel gives it up with its last holder, so nobody's death leaves a stale one behind; the
    servers inherit the descriptor, so the folder stays taken until the last of them is gone too.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / "lock"
        self._file: int | None = None

    async def acquire(self) -> int:
        """Take the folder and return the descriptor to hand to the servers.

        Raises:
            StateInUseError: a living process holds it, or servers of a dead one do not end.
        """
        self._state_dir.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await until(lambda: _taken(file) or self._living() is not None, _LINGER_SECONDS)
            self._claim(file)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return file

    def release(self) -> None:
        """Give the folder up; may be repeated."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def _claim(self, file: int) -> None:
        if not _taken(file):
            raise self._refusal()
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)

    def _holder(self) -> int | None:
        text = self._path.read_text("ascii", "replace").strip()
        return int(text) if text.isdigit() else None

    def _living(self) -> int | None:
        holder = self._holder()
        return holder if holder is not None and _alive(holder) else None

    def _refusal(self) -> StateInUseError:
        living = self._living()
        if living is not None:
            return StateInUseError(
                f"{self._state_dir} is in use by process {living}: stop that one first, "
                "or choose another state folder",
                living,
            )
        return StateInUseError(
            f"{self._state_dir} was left by process {self._holder() or 'unknown'}, whose servers "
            f"have not ended within {_LINGER_SECONDS:.0f} s: end them by hand, or choose another "
            "state folder",
            self._holder(),
        )


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as refused:
        if refused.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
