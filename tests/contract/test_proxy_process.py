"""The Advoware proxy as a process of its own, without Kafka and Redis: large bodies, flat memory."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bitbylaw_devstack import GuardedProcess, last_lines
from bitbylaw_simulators.wire import Made
from contract.proxied import settings_of
from system import BIN, READY_SECONDS, Service

MIB = 1024 * 1024
SIZE = 100 * MIB
FLAT = 32 * MIB
AWAY = "127.0.0.1:1"
"""Nothing listens there."""


@dataclass
class Running:
    """The two processes, and a session to call with."""

    proxy: Service
    sim: dict[str, Any]
    session: aiohttp.ClientSession

    async def ask(self, method: str, query: str, **how: Any) -> aiohttp.ClientResponse:
        return await self.session.request(method, f"{self.proxy.url}/advoware/proxy?{query}", **how)

    async def arrived(self) -> list[dict[str, Any]]:
        """Return what reached the simulator below `Sim/`."""
        async with self.session.get(f"{self.sim['advoware']}/_sim/requests?since=0") as answer:
            calls = (await answer.json())["requests"]
        return [call for call in calls if call["operation"] == "probe"]

    def highest_bytes(self) -> int:
        """Return the most memory that the proxy has had since `forget_highest`."""
        for line in Path(f"/proc/{self.proxy.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def forget_highest(self) -> None:
        Path(f"/proc/{self.proxy.pid}/clear_refs").write_text("5")


@asynccontextmanager
async def simulators(folder: Path) -> AsyncIterator[dict[str, Any]]:
    log = folder / "simulators.log"
    process = GuardedProcess([str(BIN / "bitbylaw-simulators")], log=log, folder=folder)
    try:
        await process.named()
        async with asyncio.timeout(READY_SECONDS):
            while not (text := log.read_text() if log.exists() else "").startswith("{"):
                assert process.running, last_lines(log)
                await asyncio.sleep(0.02)  # a log tells only who looks
        yield json.loads(text.splitlines()[0])
    finally:
        await process.stop(5)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with (
        simulators(tmp_path) as sim,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=100)) as session,
    ):
        env = settings_of(
            {
                "PATH": "/usr/bin:/bin",
                "ADVOWARE_API_BASE_URL": f"{sim['advoware']}/relay",
                "ADVOWARE_SECURITY_GATEWAY_URL": f"{sim['advoware']}/security",
                "KAFKA_BOOTSTRAP_SERVERS": AWAY,
                "HTTP_PORT": "0",
            }
        )
        proxy = Service([str(BIN / "bitbylaw-advoware-proxy")], env, tmp_path, "advoware-proxy")
        try:
            await proxy.start()
            yield Running(proxy, sim, session)
        finally:
            await proxy.kill()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's highest memory")
@pytest.mark.parametrize("more", ["", "&chunked=1", "&type=application/json"])
async def test_a_download_of_100_mib_leaves_memory_flat(running: Running, more: str) -> None:
    for _ in range(3):  # idle is what is held once everything has been used
        async with await running.ask("GET", "endpoint=Sim/bytes/300000") as answer:
            await answer.read()
    idle = running.proxy.resident_bytes()
    running.forget_highest()

    digest, size = hashlib.sha256(), 0
    async with await running.ask("GET", f"endpoint=Sim/bytes/{SIZE}{more}") as answer:
        assert answer.status == 200
        async for piece in answer.content.iter_chunked(MIB):
            digest.update(piece)
            size += len(piece)

    wanted = hashlib.sha256()
    wrapped = "json" in more
    if wrapped:
        wanted.update(b'{"result": ')
    for piece in Made(SIZE).chunks(MIB):
        wanted.update(piece)
    if wrapped:
        wanted.update(b"}")
    assert size == SIZE + (12 if wrapped else 0)
    assert digest.digest() == wanted.digest()
    assert running.highest_bytes() - idle < FLAT


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's highest memory")
@pytest.mark.parametrize("announced", [True, False])
async def test_an_upload_of_100_mib_leaves_memory_flat_and_arrives_byte_for_byte(
    running: Running, announced: bool
) -> None:
    for _ in range(3):
        async with await running.ask("POST", "endpoint=Sim/echo", data=b"x" * 300_000) as answer:
            await answer.read()
    idle = running.proxy.resident_bytes()
    running.forget_highest()
    digest = hashlib.sha256()

    async def pieces() -> AsyncIterator[bytes]:
        for piece in Made(SIZE, seed=3).chunks(256 * 1024):
            digest.update(piece)
            yield piece

    headers = {"Content-Type": "application/pdf"} | (
        {"Content-Length": str(SIZE)} if announced else {}
    )
    async with await running.ask(
        "PUT", "endpoint=Sim/echo", data=pieces(), headers=headers
    ) as answer:
        told = (await answer.json())["result"]

    assert (told["size"], told["sha256"]) == (SIZE, digest.hexdigest())
    assert running.highest_bytes() - idle < FLAT


@pytest.mark.timeout(180)
async def test_without_kafka_and_redis_the_proxy_answers_and_says_what_is_missing(
    running: Running,
) -> None:
    async with await running.ask("GET", "endpoint=employees") as answer:
        assert answer.status == 200
        assert len((await answer.json())["result"]) == 4
    lost = "bitbylaw_proxy_events_lost_total 1.0"
    async with asyncio.timeout(60):
        while True:
            async with running.session.get(f"{running.proxy.url}/metrics") as page:
                if lost in await page.text():
                    break
            await asyncio.sleep(0.2)  # the wait for Kafka is in another process
    warnings = [one["event"] for one in running.proxy.lines() if one["level"] == "warning"]
    assert "calls are answered without an event about them" in warnings
    assert (
        sum("open to everybody on this machine" in one and "CALLERS" in one for one in warnings)
        == 1
    )
