"""The death matrix of the knowledge bases: killed at any append and any write, then started again."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_simulators.espocrm import EspoQuirks
from bitbylaw_simulators.espocrm.state import PERSON
from harness import encoded
from world import World

SERVICE = "document-sync"
WRITES = ("create_collection", "delete_collection", "update_entity", "create_entity")


class Died(BaseException):
    """The process was killed here."""


class Killer:
    """Kills the service at its n-th moment: before or after a write outside, or an append.

    Only what happens while the knowledge base is worked on counts; the documents have a matrix of
    their own.
    """

    def __init__(self, world: World, fatal: int | None) -> None:
        self.fatal = fatal
        self.moments: list[str] = []
        world.transport.on_moment = self.call
        world.host.log.on_append = lambda records: self.append("before", records)
        world.host.log.on_stored = lambda records: self.append("after", records)

    def call(self, moment: str) -> None:
        if moment.partition(" ")[2] in WRITES:
            self.reach(moment)

    def append(self, when: str, records: Sequence[Outgoing]) -> None:
        if records[0].topic != topics.AIKNOWLEDGE_SYNC_CHECK.name:  # that is the test's own
            self.reach(f"{when} {records[0].topic}")

    def reach(self, moment: str) -> None:
        self.moments.append(moment)
        if self.fatal is not None and len(self.moments) > self.fatal:
            self.fatal = None
            raise Died(moment)


async def _told(world: World, knowledge: str) -> None:
    event = EntityChanged(
        entity_type="CAIKnowledge", entity_id=knowledge, action="sync_check", source="operator"
    )
    await world.host.log.append(
        [encoded(topics.AIKNOWLEDGE_SYNC_CHECK, event, world.host.clock.now())]
    )
    await world.settle()


async def _new(world: World) -> str:
    return world.espocrm.add_knowledge("Akte 1", None, "new")


async def _filled(world: World) -> str:
    knowledge = await _new(world)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    world.espocrm.link(klage, knowledge, silent=True)
    await world.advance(minutes=16)
    assert world.espocrm.record("CAIKnowledge", knowledge)["syncStatus"] == "synced"
    return knowledge


async def _deactivated(world: World) -> str:
    knowledge = await _filled(world)
    world.espocrm.edit(knowledge, entity="CAIKnowledge", aktivierungsstatus="deactivated")
    return knowledge


async def _lost(world: World) -> str:
    knowledge = await _new(world)
    await world.advance(minutes=6)
    world.xai.remove_collection(world.xai.collection_ids()[0])
    return knowledge


async def _made_anew(world: World) -> str:
    knowledge = await _lost(world)
    await _told(world, knowledge)
    world.espocrm.edit(knowledge, entity="CAIKnowledge", aktivierungsstatus="new")
    return knowledge


STORIES: dict[str, Callable[[World], Awaitable[str]]] = {
    "new": _new,
    "deactivated": _deactivated,
    "its collection is gone": _lost,
    "made anew": _made_anew,
}


def _seen(world: World) -> dict[str, Any]:
    ids = world.xai.collection_ids()
    return {
        "collections": [world.xai.contents(one) for one in ids],
        "files": len(world.xai.files()),
        "knowledge": [
            (row["datenbankId"] in ids, row["aktivierungsstatus"], row["syncStatus"])
            for row in world.espocrm.records("CAIKnowledge")
        ],
        "documents": [len(row["xaiCollections"]) for row in world.espocrm.records("CDokumente")],
        "tasks": sorted((row["name"], row["status"]) for row in world.espocrm.records("Task")),
        "links": [
            (row["syncstatus"], row["aiDocumentId"] is None)
            for row in world.espocrm.records("CAIKnowledgeCDokumente")
        ],
    }


async def _run(
    story: Callable[[World], Awaitable[str]], fatal: int | None
) -> tuple[World, list[str]]:
    """Return the world afterwards, and the moments at which the service could have been killed."""
    world = World(
        espocrm=EspoQuirks(junction_api=True),
        ESPOCRM_NOTIFY_USER_ID=PERSON.id,
        DOCUMENT_KNOWLEDGE_BASES="true",
    )
    await world.start()
    knowledge = await story(world)
    killer = Killer(world, fatal)
    moments: list[str] = []
    if fatal is None:
        await _told(world, knowledge)
        moments = list(killer.moments)
    else:
        with pytest.raises(Died):
            await _told(world, knowledge)
        await world.host.restart(SERVICE)
    await world.advance(minutes=12)
    return world, moments


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
async def test_a_service_killed_anywhere_leaves_the_same_world(name: str) -> None:
    story = STORIES[name]
    whole, moments = await _run(story, None)
    expected, made = _seen(whole), len(whole.xai.effects("create_collection"))
    await whole.stop()
    assert len(moments) >= 8
    for fatal, moment in enumerate(moments):
        world, _ = await _run(story, fatal)
        assert _seen(world) == expected, moment
        assert len(world.xai.effects("create_collection")) == made, moment
        assert world.host.dead_letters(SERVICE) == [], moment
        effects = world.effects()
        await world.advance(minutes=6)
        assert world.effects() == effects, moment
        await world.stop()
