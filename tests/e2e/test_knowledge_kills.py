"""A knowledge base's collection is made once, though real processes are killed around it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import EntityChanged
from bitbylaw_devstack import Stack
from harness import encoded
from system import System, running

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

ENV = {"XAI_SETTLE_SECONDS": "4", "DOCUMENT_KNOWLEDGE_BASES": "true"}


async def told(system: System, knowledge: str) -> None:
    event = EntityChanged(
        entity_type="CAIKnowledge", entity_id=knowledge, action="sync_check", source="operator"
    )
    await system.log.append([encoded(topics.AIKNOWLEDGE_SYNC_CHECK, event, SystemClock().now())])


async def record(system: System, knowledge: str) -> dict[str, Any]:
    state = await system.state("espocrm")
    return dict(state["tables"]["CAIKnowledge"][knowledge]["values"])


async def collections(system: System) -> list[str]:
    return [one["id"] for one in (await system.state("xai"))["collections"]]


async def killed_at(system: System, side: str, effect: str, since: int) -> None:
    """Kill the worker as soon as a simulator has logged the effect."""
    async with asyncio.timeout(60):
        while not any(call["effect"] == effect for call in await system.calls(side, since, wait=2)):
            pass
    await system.worker.kill()


async def test_xai_38_a_worker_killed_around_the_creation_makes_one_collection(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path, env=ENV) as system:
        for number, (side, effect) in enumerate(
            (("xai", "create_collection"), ("espocrm", "update")), start=1
        ):
            values = {"name": f"Akte {number}", "aktivierungsstatus": "new"}
            made = await system.edit(action="create", entity="CAIKnowledge", values=values)
            knowledge = str(made["id"])
            since = max([call["number"] for call in await system.calls(side)], default=0)
            await asyncio.gather(told(system, knowledge), told(system, knowledge))
            await killed_at(system, side, effect, since)
            await system.worker.start()
            await system.worker.ready(system.session)
            await told(system, knowledge)

            async def active(knowledge: str = knowledge) -> bool:
                found = await record(system, knowledge)
                return (found["aktivierungsstatus"], found["syncStatus"]) == ("active", "synced")

            await system.until(active, seconds=90)
            assert len(await collections(system)) == number
            assert (await record(system, knowledge))["datenbankId"] in await collections(system)
        assert await system.dead_letters() == []
