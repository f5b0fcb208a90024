"""Who listens on a port of this machine."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_LISTENS = "0A"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens on a port."""

    pid: int
    command: str


def holder_of(port: int, proc: Path = Path("/proc")) -> Holder | None:
    """Return who listens on `port`; None where nobody does, or the system does not tell us.

    Args:
        port: a TCP port.
        proc: the kernel's process folder, where the system has one.
    """
    if not (proc / "net/tcp").exists():
        return _asked_lsof(port)
    sockets = _sockets(port, proc)
    if not sockets:
        return None
    for process in sorted(proc.iterdir(), key=lambda entry: entry.name):
        if process.name.isdigit() and _holds(process, sockets):
            return Holder(int(process.name), _command(process))
    return None


def _sockets(port: int, proc: Path) -> frozenset[str]:
    found: set[str] = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTENS and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{columns[9]}]")
    return frozenset(found)


def _holds(process: Path, sockets: frozenset[str]) -> bool:
    try:
        return any(str(entry.readlink()) in sockets for entry in (process / "fd").iterdir())
    except OSError:  # ended meanwhile, or somebody else's
        return False


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "unknown"
    return " ".join(word.decode("utf-8", "replace") for word in words if word)[:160]


def _asked_lsof(port: int) -> Holder | None:
    lsof = shutil.which("lsof")
    if lsof is None:
        return None
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed program, a number as its argument
            [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    pid, command = (
        re.search(r"^p(\d+)$", answer, re.MULTILINE),
        re.search(r"^c(.+)$", answer, re.MULTILINE),
    )
    return Holder(int(pid[1]), command[1] if command else "unknown") if pid else None
