"""Ports that stay free for a restart; one stack per state folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bitbylaw_devstack import StateInUseError
from bitbylaw_devstack.ports import HOST, free_port, is_free
from bitbylaw_devstack.statelock import StateLock

_HOLDER = """
import asyncio, sys, time
from pathlib import Path
from bitbylaw_devstack.statelock import StateLock
lock = StateLock(Path(sys.argv[1]))
asyncio.run(lock.acquire())
print("held", flush=True)
time.sleep(60)
"""


def test_a_free_port_can_be_listened_on_and_a_taken_one_is_not_free() -> None:
    port = free_port()
    assert is_free(port)
    with socket.socket() as server:
        server.bind((HOST, port))
        server.listen()
        assert not is_free(port)


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    assert all(20_000 <= free_port() < 32_000 for _ in range(50))


async def test_a_second_stack_over_the_same_folder_hears_who_holds_it(tmp_path: Path) -> None:
    first, second = StateLock(tmp_path), StateLock(tmp_path)
    await first.acquire()
    with pytest.raises(StateInUseError, match=f"process {os.getpid()}") as refused:
        await second.acquire()
    assert refused.value.pid == os.getpid()

    first.release()

    await second.acquire()
    second.release()
    second.release()


async def test_the_folder_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        lock = StateLock(tmp_path)
        with pytest.raises(StateInUseError) as refused:
            await lock.acquire()
        assert refused.value.pid == holder.pid
        holder.kill()
        holder.wait(10)

        await lock.acquire()

    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()
