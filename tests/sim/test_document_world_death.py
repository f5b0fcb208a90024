"""The death matrix over the whole service: killed at any append and any call, then started again."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from bitbylaw_common.runtime.ports import Outgoing
from world import World

SERVICE = "document-sync"
WRITES = (
    "upload_file",
    "add_to_collection",
    "remove_from_collection",
    "delete_file",
    "update_entity",
)


class Died(BaseException):
    """The process was killed here."""


class Killer:
    """Kills the service at its n-th moment: before or after a write outside, or an append."""

    def __init__(self, world: World, fatal: int | None) -> None:
        self.world = world
        self.fatal = fatal
        self.moments: list[str] = []
        world.transport.on_moment = self.call
        world.host.log.on_append = lambda records: self.append("before", records)
        world.host.log.on_stored = lambda records: self.append("after", records)

    def rest(self) -> None:
        """Count no more moments."""
        self.world.transport.on_moment = lambda _moment: None
        self.world.host.log.on_append = lambda _records: None
        self.world.host.log.on_stored = lambda _records: None

    def call(self, moment: str) -> None:
        if moment.partition(" ")[2] in WRITES:
            self.reach(moment)

    def append(self, when: str, records: Sequence[Outgoing]) -> None:
        if not all(record.topic.startswith("vmh.") for record in records):  # those are ingest's
            self.reach(f"{when} {records[0].topic}")

    def reach(self, moment: str) -> None:
        self.moments.append(moment)
        if self.fatal is not None and len(self.moments) > self.fatal:
            self.fatal = None
            raise Died(moment)


async def _new(world: World) -> tuple[str, str]:
    akte = world.add_collection("akte-1")
    return "create", world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])


async def _changed(world: World) -> tuple[str, str]:
    action, klage = await _new(world)
    await world.told(action, klage)
    world.espocrm.replace_file(klage, b"v2")
    return "update", klage


async def _moved(world: World) -> tuple[str, str]:
    action, klage = await _new(world)
    await world.told(action, klage)
    two = world.add_collection("akte-2")
    world.espocrm.link(klage, two)
    return "update", klage


async def _deleted(world: World) -> tuple[str, str]:
    action, klage = await _new(world)
    await world.told(action, klage)
    world.espocrm.delete(klage)
    return "delete", klage


Story = Callable[[World], Awaitable[tuple[str, str]]]
STORIES: dict[str, Story] = {
    "a new document": _new,
    "other bytes": _changed,
    "a further collection": _moved,
    "deleted": _deleted,
}


def _seen(world: World) -> tuple[list[list[bytes]], int, list[object]]:
    collections = [world.xai.contents(c) for c in world.xai.collection_ids()]
    rows = [
        (row.get("fileStatus"), row.get("xaiCollections"), row.get("xaiSyncedHash"))
        for row in world.espocrm.records("CDokumente")
    ]
    return collections, len(world.xai.files()), list(rows)


async def _run(story: Story, fatal: int | None) -> tuple[World, Killer]:
    world = World()
    await world.start()
    action, document = await story(world)
    killer = Killer(world, fatal)
    if fatal is None:
        await world.told(action, document)
        killer.rest()  # what the crons write later is not this record's story
    else:
        with pytest.raises(Died):
            await world.told(action, document)
        await world.host.restart(SERVICE)
    await world.advance(minutes=30)
    return world, killer


@pytest.mark.parametrize("name", STORIES)
async def test_a_service_killed_anywhere_ends_in_the_same_world(name: str) -> None:
    story = STORIES[name]
    whole, killer = await _run(story, None)
    expected, uploads = _seen(whole), len(whole.xai.effects("upload"))
    await whole.stop()
    assert len(killer.moments) >= 8  # base, at least one effect, the outcome: before and after
    for fatal, moment in enumerate(list(killer.moments)):
        world, _ = await _run(story, fatal)
        assert _seen(world) == expected, moment
        assert len(world.xai.effects("upload")) == uploads, moment
        assert world.host.dead_letters(SERVICE) == [], moment
        await world.stop()
