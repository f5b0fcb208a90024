"""The guard ends its child when the owner goes, and tells how the child ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bitbylaw_devstack import guard
from bitbylaw_devstack.process import GuardedProcess, last_lines, until

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
_IDLE = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"]
_OWNER = """
import asyncio, sys, time
from pathlib import Path
from bitbylaw_devstack.process import GuardedProcess
folder = Path(sys.argv[1])
process = GuardedProcess(sys.argv[2:], log=folder / "log", folder=folder)
print(asyncio.run(process.named()), process._guard.pid, flush=True)
time.sleep(60)
"""


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _says_up(log: Path) -> Callable[[], bool]:
    return lambda: "up" in log.read_text()


async def test_a_program_asked_to_stop_ends_and_its_code_is_told(tmp_path: Path) -> None:
    process = GuardedProcess(_IDLE, log=tmp_path / "log", folder=tmp_path)
    pid = await process.named()
    assert await until(_says_up(tmp_path / "log"), 25)

    assert await process.stop(10)

    assert process.exit_code == 128 + signal.SIGTERM
    assert _gone(pid)


async def test_a_program_that_ends_by_itself_leaves_its_code_and_its_words(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    process = GuardedProcess(words, log=tmp_path / "log", folder=tmp_path)

    assert await until(lambda: not process.running, 20)

    assert process.exit_code == 3
    assert last_lines(tmp_path / "log") == "  the reason"


async def test_a_program_that_does_not_exist_ends_with_a_reason(tmp_path: Path) -> None:
    process = GuardedProcess(["/no/such/program"], log=tmp_path / "log", folder=tmp_path)

    assert await until(lambda: not process.running, 20)

    assert process.exit_code == 127
    assert "/no/such/program cannot be run" in last_lines(tmp_path / "log")


async def test_a_stubborn_program_is_killed_at_the_limit(tmp_path: Path) -> None:
    process = GuardedProcess(
        [sys.executable, "-c", _STUBBORN], log=tmp_path / "log", folder=tmp_path
    )
    pid = await process.named()
    assert await until(_says_up(tmp_path / "log"), 25)

    assert not await process.stop(0.2)

    assert process.exit_code == 128 + signal.SIGKILL
    assert _gone(pid)


async def test_killing_and_stopping_what_has_ended_does_nothing(tmp_path: Path) -> None:
    process = GuardedProcess(_IDLE, log=tmp_path / "log", folder=tmp_path)
    await process.named()
    await process.kill()

    await process.kill()

    assert await process.stop(1)
    assert process.exit_code == 128 + signal.SIGKILL


@pytest.mark.parametrize("program", ["obedient", "stubborn"])
async def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path, program: str) -> None:
    command = _IDLE if program == "obedient" else [sys.executable, "-c", _STUBBORN]
    (tmp_path / "log").touch()
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path), *command], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid, guard_pid = map(int, owner.stdout.readline().split())
        assert await until(_says_up(tmp_path / "log"), 25)
        assert not _gone(pid)

        owner.kill()
        started = time.monotonic()
        assert await until(lambda: _gone(pid) and _gone(guard_pid), 20)

    assert time.monotonic() - started < 5


@pytest.mark.skipif(sys.platform != "linux", reason="the parent death signal is Linux' own")
async def test_nothing_is_left_when_the_guard_itself_is_killed(tmp_path: Path) -> None:
    process = GuardedProcess(_IDLE, log=tmp_path / "log", folder=tmp_path)
    pid = await process.named()
    assert await until(_says_up(tmp_path / "log"), 25)

    process._guard.kill()

    assert await until(lambda: _gone(pid), 20)
    assert await until(lambda: not process.running, 20)


def test_an_owner_that_goes_at_once_harms_nobody_else() -> None:
    """The guard's own group holds this shell's stand-in too: whoever signals the group kills it."""
    guarded = f'"{sys.executable}" -I -S "{guard.__file__}" 1 /bin/sleep 60 < /dev/null'
    for _ in range(20):
        found = subprocess.run(
            ["/bin/sh", "-c", f"{guarded}; echo code $?"],
            check=False,
            capture_output=True,
            text=True,
            timeout=25,
            start_new_session=True,
        )
        pid, code = found.stdout.splitlines()
        assert pid.isdigit()
        assert code == f"code {128 + signal.SIGTERM}"
        assert found.stderr == ""
