"""A person's edit of our fields is told before it is overwritten, wherever the service was killed."""

from typing import Any

import pytest

from bitbylaw_common import topics
from bitbylaw_common.events import FieldConflict
from sim.test_document_world_death import SERVICE, STORIES, Died, Killer, Story
from world import World

NAMES = {
    "xaiId": "file",
    "xaiCollections": "collections",
    "xaiSyncedHash": "hash",
    "fileStatus": "status",
}
EDITS: dict[str, Any] = {
    "xaiId": "file_of_a_person",
    "xaiCollections": ["collection_of_a_person"],
    "xaiSyncedHash": "0123456789abcdef0123456789abcdef",
    "fileStatus": "failed",
}


def conflicts(world: World) -> list[FieldConflict]:
    records = world.host.log.records(topics.CONFLICTS.name)
    return [FieldConflict.model_validate_json(record.value or b"") for record in records]


class Witness:
    """Watches what our writes replace, and whether it was told before."""

    def __init__(self, world: World, document: str, field: str) -> None:
        self.world, self.document, self.field = world, document, field
        self.before: Any = None
        self.untold: list[str] = []
        self.replaced = 0
        world.transport.on_moment = self.see

    def see(self, moment: str) -> None:
        row = self.world.espocrm.document(self.document).get(self.field)
        if moment == "before update_entity":
            self.before = row
        if (
            moment != "after update_entity"
            or self.before != EDITS[self.field]
            or row == self.before
        ):
            return
        self.replaced += 1
        theirs = self.before if isinstance(self.before, str) else ",".join(self.before)
        told = [
            one
            for one in conflicts(self.world)
            if (one.field, one.theirs) == (NAMES[self.field], theirs)
        ]
        if not told:
            self.untold.append(f"{self.field}: {theirs}")


async def killed(story: Story, fatal: int) -> tuple[World, str, str] | None:
    """Return the world after a death at this moment, with a base; None where there is none yet."""
    world = World()
    await world.start()
    action, document = await story(world)
    killer = Killer(world, fatal)
    with pytest.raises(Died):
        await world.told(action, document)
    killer.rest()
    if not world.host.log.records(topics.base(SERVICE).name):
        await world.host.restart(SERVICE)  # what died cannot be stopped
        await world.stop()
        return None
    return world, action, document


async def moments(story: Story) -> int:
    world = World()
    await world.start()
    action, document = await story(world)
    killer = Killer(world, None)
    await world.told(action, document)
    killer.rest()
    await world.stop()
    return len(killer.moments)


@pytest.mark.parametrize("field", NAMES)
@pytest.mark.parametrize("name", ["a new document", "other bytes", "a further collection"])
async def test_an_edit_of_our_fields_after_a_death_is_told_before_it_is_overwritten(
    name: str, field: str
) -> None:
    story = STORIES[name]
    replaced = 0
    for fatal in range(await moments(story)):
        found = await killed(story, fatal)
        if found is None:
            continue
        world, action, document = found
        world.espocrm.edit(document, silent=True, **{field: EDITS[field]})
        witness = Witness(world, document, field)
        await world.host.restart(SERVICE)
        await world.told(action, document)
        await world.advance(minutes=30)
        assert witness.untold == [], fatal
        now = world.espocrm.document(document)[field]
        assert now != EDITS[field] or not witness.replaced
        replaced += witness.replaced
        await world.stop()
    assert replaced, "nothing was ever overwritten, so nothing was tried"


async def test_without_a_death_it_is_told_as_well_and_the_journal_refers_to_it(
    world: World,
) -> None:
    action, klage = await STORIES["a new document"](world)
    await world.told(action, klage)
    world.espocrm.edit(klage, silent=True, xaiId="file_of_a_person")
    await world.told("update", klage)
    (conflict,) = conflicts(world)
    (file,) = world.xai.files()
    assert (conflict.entity_id, conflict.field) == (klage, "file")
    assert (conflict.theirs, conflict.ours) == ("file_of_a_person", file.id)
    assert world.espocrm.document(klage)["xaiId"] == file.id
    assert world.host.journal(klage)[-1].conflicts == (conflict.conflict_id,)


async def test_our_own_words_are_no_conflict(world: World) -> None:
    action, klage = await STORIES["a further collection"](world)
    await world.told(action, klage)
    world.espocrm.replace_file(klage, b"v2")
    await world.told("update", klage)
    world.espocrm.edit(klage, fileStatus="geändert")
    await world.told("update", klage)
    assert conflicts(world) == []


async def test_a_word_that_stands_for_two_of_ours_is_no_conflict(world: World) -> None:
    world.xai.faults.plan("status", status=400, operation="upload")
    action, klage = await STORIES["a new document"](world)
    await world.told(action, klage)
    assert world.espocrm.document(klage)["fileStatus"] == "failed"
    world.espocrm.edit(klage, silent=True, name="Klage, berichtigt")
    world.espocrm.replace_file(klage, b"v2")
    world.espocrm.edit(klage, silent=True, fileStatus="failed")  # its hook does not say "changed"
    await world.told("update", klage)
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert conflicts(world) == []


@pytest.mark.parametrize("name", STORIES)
async def test_a_death_alone_is_no_conflict(name: str) -> None:
    for fatal in range(await moments(STORIES[name])):
        found = await killed(STORIES[name], fatal)
        if found is None:
            continue
        world, action, document = found
        await world.host.restart(SERVICE)
        await world.told(action, document)
        await world.advance(minutes=30)
        assert conflicts(world) == [], fatal
        await world.stop()
