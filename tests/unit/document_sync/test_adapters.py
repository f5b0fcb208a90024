"""The adapters over the real clients and the simulators: what they read, and what they refuse."""

from typing import Any

import pytest

from bitbylaw_common.errors import Conflict, Invalid
from bitbylaw_document_sync.app import deps_over
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.model import Absent, Entry, Noted, Sharer, Word, WriteBack
from bitbylaw_document_sync.settings import DocumentSyncSettings
from bitbylaw_simulators.espocrm import EspoQuirks
from unit.document_sync.fakes import md5_of
from world import World

NOTE = WriteBack(((Noted.FILE, "file_1"), (Noted.STATUS, Word.SYNCED)))


def opened(**quirks: Any) -> tuple[World, Deps]:
    env = quirks.pop("env", {})
    world = World(espocrm=EspoQuirks(**quirks), **env)
    settings = DocumentSyncSettings.from_env(world.env)
    return world, deps_over(world.transport, settings, world.host.clock)


async def loaded(deps: Deps, document: str) -> Entry:
    entry = await deps.documents.load(document)
    assert entry is not None
    return entry


async def test_a_record_is_read_with_its_links() -> None:
    world, deps = opened()
    active, paused = world.add_collection("a"), world.add_collection("p")
    world.espocrm.add_knowledge("A", active, "active")
    world.espocrm.add_knowledge("P", paused, "paused")
    world.espocrm.add_knowledge("D", "collection_d", "deactivated")
    places = [active, paused, "collection_d"]
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=places)
    entry = await loaded(deps, klage)
    assert (entry.wanted, entry.on_hold) == (frozenset({active}), frozenset({paused}))
    assert (entry.md5, entry.fresh, entry.xai_id) == (md5_of(b"v1"), True, None)
    assert entry.attachment_id is not None
    facts = await deps.documents.inspect(entry.attachment_id, hashed=True)
    assert not isinstance(facts, Absent)
    assert (facts.name, facts.size, facts.md5) == ("Klage.pdf", 2, md5_of(b"v1"))
    assert await deps.documents.inspect("gone", hashed=False) == Absent("gone")


async def test_a_link_without_an_activation_counts_always() -> None:
    world, deps = opened(env={"DOCUMENT_COLLECTION_LINKS": "cAIKnowledges:datenbankId"})
    world.espocrm.add_knowledge("P", "collection_p", "paused")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=["collection_p"])
    assert (await loaded(deps, klage)).wanted == frozenset({"collection_p"})


@pytest.mark.parametrize("locked", [False, True])
async def test_a_record_that_changed_since_is_not_written(locked: bool) -> None:
    world, deps = opened(optimistic_locking=("CDokumente",) if locked else ())
    klage = world.espocrm.add_document("Klage.pdf", b"v1")
    entry = await loaded(deps, klage)
    assert (entry.version is not None) == locked
    world.espocrm.replace_file(klage, b"v2")
    with pytest.raises(Conflict) as conflict:
        await deps.documents.write_back(entry, NOTE)
    assert conflict.value.reason == "modified"
    assert not world.espocrm.document(klage).get("xaiId")
    await deps.documents.write_back(await loaded(deps, klage), NOTE)
    assert world.espocrm.document(klage)["xaiId"] == "file_1"
    assert world.espocrm.document(klage)["fileStatus"] == "synced"


async def test_a_status_is_written_in_the_words_that_the_crm_offers() -> None:
    world, deps = opened(generation="later", validate_enums=True)
    klage = world.espocrm.add_document("Klage.pdf", b"v1")
    entry = await loaded(deps, klage)
    await deps.documents.write_back(entry, WriteBack(((Noted.STATUS, Word.UNWANTED),)))
    assert world.espocrm.document(klage)["fileStatus"] == "unchanged"
    assert Word.UNWANTED in (await loaded(deps, klage)).words


async def test_a_word_that_nobody_knows_is_neither_new_nor_ours() -> None:
    world, deps = opened()
    klage = world.espocrm.add_document("Klage.pdf", b"v1")
    world.espocrm.edit(klage, fileStatus="vielleicht")
    entry = await loaded(deps, klage)
    assert (entry.fresh, entry.says, entry.strange) == (False, None, ("fileStatus",))


async def test_without_metadata_the_record_itself_tells_the_fields() -> None:
    world, deps = opened()
    world.espocrm.faults.plan("status", path="/Metadata", status=403, times=None)
    klage = world.espocrm.add_document("Klage.pdf", b"v1")
    entry = await loaded(deps, klage)
    assert entry.status_fields[:1] == ("fileStatus",)
    assert {Noted.FILE, Noted.COLLECTIONS, Noted.HASH, Noted.STATUS} <= entry.writable


async def test_other_records_with_the_same_file_are_found() -> None:
    world, deps = opened()
    one = world.espocrm.add_document("A.pdf", b"v1", xaiId="file_1", xaiCollections=["c1"])
    two = world.espocrm.add_document("B.pdf", b"v1", xaiId="file_1", xaiCollections=["c2"])
    world.espocrm.add_document("C.pdf", b"v1", xaiId="file_2")
    found = await deps.documents.sharers(["file_1", "file_9"], besides=one)
    assert found == (Sharer(two, "file_1", frozenset({"c2"})),)


async def test_what_is_no_id_names_nothing_but_a_refusal_is_not_a_no() -> None:
    world, deps = opened()
    assert not await deps.files.exists("kein ?Name/")
    assert not await deps.collections.exists("kein ?Name/")
    assert not await deps.collections.member("kein ?Name/", "file_1")
    world.xai.faults.plan("status", status=400, times=3)
    with pytest.raises(Invalid):
        await deps.files.exists("file_1")
    with pytest.raises(Invalid):
        await deps.collections.exists("collection_1")
    with pytest.raises(Invalid):
        await deps.collections.member("collection_1", "file_1")


async def test_an_entry_is_equal_to_itself_read_again() -> None:
    world, deps = opened(generation="march")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=["c1"])
    first = await loaded(deps, klage)
    assert first == await loaded(deps, klage)
