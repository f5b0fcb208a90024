"""`bbl up` as a person runs it."""

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from pydantic import TypeAdapter

from bitbylaw_cli.output import Exit
from bitbylaw_cli.showing import Up
from bitbylaw_devstack.ports import free_port
from e2e.commands import END_SECONDS, bbl, become, living

SERVICES = {"ingest", "document-sync", "advoware-proxy"}

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]

SEED = [{"id": "test123", "entityType": "CDokumente"}]
STOP_KEY = "Ctrl-C ends everything"


async def posted(port: int) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://localhost:{port}/vmh/webhook/document/create", json=SEED) as answer,
    ):
        return answer.status


async def test_one_command_shows_the_main_job_and_leaves_nothing_running(tmp_path: Path) -> None:
    # given the whole system in one process
    port = free_port()
    async with bbl(tmp_path, "up", "--port", str(port)) as up:
        await up.says(STOP_KEY)

        # then the sample documents went to the other side, and people see it
        assert "8 of 8 documents finished" in up.printed
        assert "8 runs, 0 writes" in up.printed
        assert "Räumung Gänsestraße 7, Mietinkasso Köln" in up.printed
        assert "next: bbl why document 69a68b9cd4c0000d1" in up.printed
        assert "accepted unsigned, from this machine only" in up.printed

        # and a webhook without a signature is taken, as the seed's example sends it
        assert await posted(port) == 200
        await up.says("test123  skipped")

        # and its environment leads to a simulated Advoware
        env = up.stack["env"]
        firm = {"Kanzlei": env["ADVOWARE_KANZLEI"]}
        async with (
            aiohttp.ClientSession() as session,
            session.get(env["ADVOWARE_CONFIGURATOR_URL"], params=firm) as answer,
        ):
            assert (await answer.json())["relayUrl"] == env["ADVOWARE_API_BASE_URL"] + "/"

        # and other commands find the system by themselves
        async with bbl(tmp_path, "why", "document", "69a68b9cd4c0000d1") as why:
            assert await why.ended(60) == Exit.OK
            assert why.printed.startswith("In line since")
        async with bbl(tmp_path, "doctor") as doctor:
            assert await doctor.ended(60) == Exit.OK, doctor.printed

        # when a second one is started beside it, it names the first and starts nothing
        async with bbl(tmp_path, "up", "--port", str(port)) as second:
            assert await second.ended(60) == Exit.REFUSED
            assert f"port {port} is held by process {up.process.pid} (" in second.printed

        # when it is told to end
        stack = up.stack
        up.process.send_signal(signal.SIGINT)

        # then it ends in order, in time, and nothing is left
        assert await up.ended(END_SECONDS) == Exit.OK
        assert "nothing is left running" in up.printed
    assert living(stack) == []
    assert not (tmp_path / ".devstack/stack.json").exists()
    assert (tmp_path / ".devstack/logs/services.log").stat().st_size > 0


async def test_a_killed_service_comes_back_and_all_end_when_something_else_dies(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with bbl(tmp_path, "up", "--processes", "--port", str(port)) as up:
        await up.says(STOP_KEY)
        assert "8 of 8 documents finished" in up.printed
        assert await posted(port) == 200
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                assert answer.status == 200
            # each process tells of itself, and hears of the others a little later
            async with asyncio.timeout(END_SECONDS):
                while await _services(session, port) != SERVICES:  # noqa: ASYNC110 - a page is polled
                    await asyncio.sleep(0.1)
            proxy = f"http://127.0.0.1:{port}/advoware/proxy?endpoint=employees"
            async with session.get(proxy) as answer:
                assert (await answer.json())["result"][0]["kuerzel"] == "SB"
        stack = up.stack

        # a killed service is started again, and works on
        os.kill(stack["processes"]["document-sync"]["pid"], signal.SIGKILL)
        await up.says("document-sync was killed")
        await up.says("document-sync is ready again")
        assert await posted(port) == 200
        await up.says("test123  skipped")

        # what is no service of ours and dies ends everything
        os.kill(up.stack["processes"]["simulators"]["pid"], signal.SIGKILL)

        assert await up.ended(END_SECONDS + 5) == Exit.FINDING
        assert "simulators ended by itself with exit code 137" in up.printed
        assert "The end of" in up.printed
    await become(lambda: living(stack) == [], 5)


async def _services(session: aiohttp.ClientSession, port: int) -> set[str]:
    async with session.get(f"http://127.0.0.1:{port}/_console/functions") as answer:
        return {one["service"] for one in (await answer.json())["functions"]}


async def test_an_end_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    async with bbl(tmp_path, "up", "--port", "0") as up:
        await up.says("Redis is ready")
        up.process.send_signal(signal.SIGINT)

        assert await up.ended(END_SECONDS) == Exit.OK
    assert not (tmp_path / ".devstack/kafka").exists()


async def told_by(folder: Path) -> Up:
    async with bbl(folder, "up", "--port", "0", "--keep", "--json") as up:
        await up.says(STOP_KEY)
        begin = up.printed.index("\n{") + 1
        end = up.printed.index("\n}\n", begin) + 2
        told = TypeAdapter(Up).validate_json(up.printed[begin:end])
        up.process.send_signal(signal.SIGTERM)
        assert await up.ended(END_SECONDS) == Exit.OK
    return told


async def test_kept_documents_are_not_uploaded_again(tmp_path: Path) -> None:
    first = await told_by(tmp_path)
    second = await told_by(tmp_path)

    for told, uploads in ((first, 6), (second, 0)):
        assert told.job is not None
        assert told.job.finished
        assert sum(line.uploaded for line in told.job.lines) == uploads
    assert first.stack.env["INGEST_UNSIGNED"] == "accept"
    assert set(first.stack.processes) == {"kafka", "redis", "simulators"}


async def test_a_killed_command_takes_its_children_with_it(tmp_path: Path) -> None:
    async with bbl(tmp_path, "up", "--processes", "--port", "0") as up:
        await up.says(STOP_KEY)
        stack = up.stack
        up.process.kill()
        await up.ended(END_SECONDS)
        await become(lambda: living(stack) == [], 15)
