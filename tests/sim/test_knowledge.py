"""Knowledge bases whole: EspoCRM's records, crons and events, and the collections at xAI."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged
from bitbylaw_simulators.espocrm import EspoQuirks
from bitbylaw_simulators.espocrm.state import PERSON
from harness import encoded
from world import World

SERVICE = "document-sync"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Give a world in which knowledge bases are managed here."""
    world = World(espocrm=EspoQuirks(junction_api=True), DOCUMENT_KNOWLEDGE_BASES="true")
    await world.start()
    yield world
    await world.stop()


async def told(world: World, knowledge: str) -> None:
    """Let the knowledge base be looked at, and everything come to rest."""
    event = EntityChanged(
        entity_type="CAIKnowledge", entity_id=knowledge, action="sync_check", source="operator"
    )
    record = encoded(topics.AIKNOWLEDGE_SYNC_CHECK, event, world.host.clock.now())
    await world.host.log.append([record])
    await world.settle()


def base(world: World, stage: str = "new", collection: str | None = None) -> str:
    return world.espocrm.add_knowledge("Akte Müller ./. Weiß", collection, stage)


def record(world: World, knowledge: str) -> dict[str, Any]:
    return world.espocrm.record("CAIKnowledge", knowledge)


def row(world: World, document: str, knowledge: str) -> dict[str, Any]:
    return world.espocrm.junction(document, knowledge)


# -- new ------------------------------------------------------------------------------------------


async def test_xai_38_a_new_knowledge_base_gets_one_collection_however_often_it_is_told(
    world: World,
) -> None:
    knowledge = base(world)
    for _ in range(3):
        await told(world, knowledge)
    (collection,) = world.xai.collection_ids()
    found = record(world, knowledge)
    assert (found["datenbankId"], found["aktivierungsstatus"]) == (collection, "active")
    assert found["syncStatus"] == "synced"
    assert world.calls(world.xai, "create_collection") == 1


async def test_xai_38_the_cron_finds_it_and_two_at_once_get_one_each(world: World) -> None:
    first, second = base(world), base(world)
    await world.advance(minutes=11)
    ids = world.xai.collection_ids()
    assert len(ids) == 2
    assert {record(world, one)["datenbankId"] for one in (first, second)} == set(ids)


async def test_xai_38_a_lost_answer_makes_no_twin(world: World) -> None:
    world.xai.faults.plan("reset_after", operation="create_collection")
    knowledge = base(world)
    await world.advance(minutes=30)
    assert len(world.xai.collection_ids()) == 1
    assert record(world, knowledge)["aktivierungsstatus"] == "active"
    assert world.host.dead_letters(SERVICE) == []


async def test_xai_38_a_request_that_never_arrived_is_made_again_after_the_settle_time(
    world: World,
) -> None:
    world.xai.faults.plan("reset_before", operation="create_collection")
    knowledge = base(world)
    await told(world, knowledge)
    await world.advance(minutes=2)
    assert world.xai.collection_ids() == []
    await world.advance(minutes=10)
    assert len(world.xai.collection_ids()) == 1
    assert record(world, knowledge)["aktivierungsstatus"] == "active"


async def test_a_collection_that_carries_the_mark_is_adopted_although_nothing_is_known(
    world: World,
) -> None:
    knowledge = base(world)
    await told(world, knowledge)
    (collection,) = world.xai.collection_ids()
    world.espocrm.edit(knowledge, entity="CAIKnowledge", datenbankId=None, aktivierungsstatus="new")
    other = World(DOCUMENT_KNOWLEDGE_BASES="true")  # another log, so no base
    other.transport = world.transport
    await other.start()
    await told(other, knowledge)
    await other.stop()
    assert world.xai.collection_ids() == [collection]
    assert record(world, knowledge)["datenbankId"] == collection


async def test_a_copied_knowledge_base_gets_a_collection_of_its_own(world: World) -> None:
    # EspoCRM's "duplicate" copies the collection's id
    original = base(world)
    await told(world, original)
    (collection,) = world.xai.collection_ids()
    copy = base(world, "new", collection)
    await told(world, copy)
    assert len(world.xai.collection_ids()) == 2
    assert record(world, copy)["datenbankId"] != collection


async def test_a_person_who_pauses_it_meanwhile_is_not_overruled(world: World) -> None:
    knowledge = base(world)

    def pause(moment: str) -> None:
        if moment == "after create_collection":
            world.espocrm.edit(knowledge, entity="CAIKnowledge", aktivierungsstatus="paused")

    world.transport.on_moment = pause
    await told(world, knowledge)
    assert record(world, knowledge)["aktivierungsstatus"] == "paused"


# -- active ---------------------------------------------------------------------------------------


async def test_linked_documents_are_brought_in_and_the_knowledge_base_says_so(
    world: World,
) -> None:
    knowledge = base(world)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    world.espocrm.link(klage, knowledge, silent=True)  # no webhook tells of it
    await world.advance(minutes=16)
    (collection,) = world.xai.collection_ids()
    assert world.xai.contents(collection) == [b"v1"]
    found = record(world, knowledge)
    assert found["syncStatus"] == "synced"
    assert found["lastSync"]
    noted = row(world, klage, knowledge)
    document = world.espocrm.document(klage)
    assert noted["syncstatus"] == "synced"
    assert noted["aiDocumentId"] == document["xaiId"]
    assert noted["syncedHash"] == document["xaiSyncedHash"]


async def test_a_silent_link_is_found_by_the_mark_of_the_knowledge_base(world: World) -> None:
    knowledge = base(world)
    await world.advance(minutes=6)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    world.espocrm.link(klage, knowledge, silent=True)
    assert record(world, knowledge)["syncStatus"] == "unclean"
    await world.advance(minutes=16)
    (collection,) = world.xai.collection_ids()
    assert world.xai.contents(collection) == [b"v1"]
    assert record(world, knowledge)["syncStatus"] == "synced"


async def test_without_marks_the_nightly_look_finds_it() -> None:
    world = World(espocrm=EspoQuirks(link_hooks=False), DOCUMENT_KNOWLEDGE_BASES="true")
    await world.start()
    knowledge = base(world)
    await world.advance(minutes=6)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    world.espocrm.link(klage, knowledge, silent=True)
    await world.advance(hours=25)
    (collection,) = world.xai.collection_ids()
    assert world.xai.contents(collection) == [b"v1"]
    assert record(world, knowledge)["syncStatus"] == "synced"
    await world.stop()


async def test_one_document_that_cannot_be_leaves_the_others_alone(world: World) -> None:
    knowledge = base(world)
    good = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    program = world.espocrm.add_document("Setup.exe", b"MZ", silent=True)
    missing = world.espocrm.add_document("Leer", None, silent=True, fileStatus="neu")
    for document in (good, program, missing):
        world.espocrm.link(document, knowledge, silent=True)
    await world.advance(minutes=20)
    (collection,) = world.xai.collection_ids()
    assert world.xai.contents(collection) == [b"v1"]
    states = [row(world, one, knowledge)["syncstatus"] for one in (good, program, missing)]
    assert states == ["synced", "unsupported", "failed"]
    assert record(world, knowledge)["syncStatus"] == "unclean"

    # and once its file is there, nothing is left to do
    world.espocrm.replace_file(missing, b"v2", "Leer.pdf")
    await world.told("update", missing)
    await world.advance(minutes=16)
    assert sorted(world.xai.contents(collection)) == [b"v1", b"v2"]
    assert record(world, knowledge)["syncStatus"] == "synced"


async def test_at_rest_nothing_is_written_and_a_look_costs_two_calls(world: World) -> None:
    knowledge = base(world)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    world.espocrm.link(klage, knowledge, silent=True)
    await world.advance(minutes=20)
    effects = world.effects()
    await world.advance(minutes=30)
    assert world.effects() == effects
    calls = len(world.xai.requests)
    await told(world, knowledge)
    assert world.effects() == effects
    assert len(world.xai.requests) - calls == 2  # the collection, and what is in it


async def test_a_crm_without_rows_of_the_link_is_served_all_the_same() -> None:
    world = World(DOCUMENT_KNOWLEDGE_BASES="true")
    await world.start()
    knowledge = base(world)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    world.espocrm.link(klage, knowledge, silent=True)
    await world.advance(minutes=16)
    assert record(world, knowledge)["syncStatus"] == "synced"
    assert row(world, klage, knowledge)["syncstatus"] == "new"
    await world.stop()


async def test_a_document_that_is_linked_while_it_is_noted_is_not_taken_for_synced(
    world: World,
) -> None:
    knowledge = base(world)
    await world.advance(minutes=6)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    world.espocrm.edit(knowledge, entity="CAIKnowledge", syncStatus="unclean")
    linked: list[str] = []

    def link(moment: str) -> None:
        if moment == "after update_entity" and not linked:
            linked.append(klage)
            world.espocrm.link(klage, knowledge, silent=True)
            world.espocrm.edit(knowledge, entity="CAIKnowledge", silent=True, syncStatus="synced")

    world.transport.on_moment = link
    await told(world, knowledge)
    assert linked
    await world.advance(minutes=16)
    (collection,) = world.xai.collection_ids()
    assert world.xai.contents(collection) == [b"v1"]
    assert record(world, knowledge)["syncStatus"] == "synced"


# -- the collection is gone -----------------------------------------------------------------------


async def test_xai_18_a_collection_that_is_gone_fails_its_knowledge_base_alone() -> None:
    world = World(ESPOCRM_NOTIFY_USER_ID=PERSON.id, DOCUMENT_KNOWLEDGE_BASES="true")
    await world.start()
    lost, kept = base(world), base(world)
    await world.advance(minutes=6)
    collection = record(world, lost)["datenbankId"]
    world.xai.remove_collection(collection)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    for knowledge in (lost, kept):
        world.espocrm.link(klage, knowledge, silent=True)
    await world.advance(hours=3)

    # then the other is served, and a person has one task about it
    assert world.xai.contents(record(world, kept)["datenbankId"]) == [b"v1"]
    assert record(world, lost)["syncStatus"] == "failed"
    assert record(world, lost)["datenbankId"] == collection
    tasks = [one for one in world.espocrm.records("Task") if one["parentType"] == "CAIKnowledge"]
    assert [(one["parentId"], one["status"]) for one in tasks] == [(lost, "Not Started")]
    assert collection in tasks[0]["description"]

    # when the person has it made anew, then the task is completed
    world.espocrm.edit(lost, entity="CAIKnowledge", aktivierungsstatus="new")
    world.espocrm.edit(klage, fileStatus="geändert")
    await world.told("update", klage)
    await world.advance(hours=3)
    assert world.xai.contents(record(world, lost)["datenbankId"]) == [b"v1"]
    assert record(world, lost)["syncStatus"] == "synced"
    tasks = [one for one in world.espocrm.records("Task") if one["parentType"] == "CAIKnowledge"]
    assert [one["status"] for one in tasks] == ["Completed"]
    await world.stop()


# -- paused, unknown ------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["paused", "Archiviert"])
async def test_xai_39_a_paused_one_costs_xai_no_call(world: World, stage: str) -> None:
    knowledge = base(world, stage, "collection_1")
    await told(world, knowledge)
    assert world.xai.requests.since(0) == []
    await world.advance(hours=25)  # the comparison of all files reads what xAI holds
    assert world.xai.effects() == []
    assert record(world, knowledge)["datenbankId"] == "collection_1"


# -- deactivated ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["keep", "delete"])
async def test_xai_40_a_deactivated_one_loses_its_collection_and_its_rows_are_reset(
    policy: str,
) -> None:
    world = World(
        espocrm=EspoQuirks(junction_api=True),
        XAI_FILE_POLICY=policy,
        DOCUMENT_KNOWLEDGE_BASES="true",
    )
    await world.start()
    gone, kept = base(world), base(world)
    only = world.espocrm.add_document("Klage.pdf", b"v1", silent=True)
    both = world.espocrm.add_document("Anlage.pdf", b"v2", silent=True)
    world.espocrm.link(only, gone, silent=True)
    for knowledge in (gone, kept):
        world.espocrm.link(both, knowledge, silent=True)
    await world.advance(minutes=20)
    assert len(world.xai.files()) == 2

    world.espocrm.edit(gone, entity="CAIKnowledge", aktivierungsstatus="deactivated")
    await world.advance(minutes=20)

    found = record(world, gone)
    assert (found["datenbankId"], found["syncStatus"]) == (None, "synced")
    assert world.xai.collection_ids() == [record(world, kept)["datenbankId"]]
    assert world.xai.contents(record(world, kept)["datenbankId"]) == [b"v2"]
    reset = row(world, only, gone)
    assert (reset["syncstatus"], reset["aiDocumentId"], reset["syncedHash"]) == ("new", None, None)
    assert row(world, both, kept)["syncstatus"] == "synced"
    assert world.espocrm.document(only)["xaiCollections"] == []
    assert len(world.xai.files()) == (2 if policy == "keep" else 1)

    effects = world.effects()
    await world.advance(hours=25)
    assert world.effects() == effects
    await world.stop()


async def test_a_collection_that_another_one_uses_is_not_deleted(world: World) -> None:
    first = base(world)
    await told(world, first)
    (collection,) = world.xai.collection_ids()
    second = base(world, "active", collection)
    world.espocrm.edit(first, entity="CAIKnowledge", aktivierungsstatus="deactivated")
    await told(world, first)
    assert world.xai.collection_ids() == [collection]
    assert record(world, first)["datenbankId"] is None
    assert record(world, second)["datenbankId"] == collection


async def test_one_that_is_deactivated_before_its_collection_shows_leaves_none(
    world: World,
) -> None:
    world.xai.faults.plan("reset_after", operation="create_collection")
    knowledge = base(world)
    await told(world, knowledge)
    assert len(world.xai.collection_ids()) == 1
    world.espocrm.edit(knowledge, entity="CAIKnowledge", aktivierungsstatus="deactivated")
    await world.advance(minutes=15)
    assert world.xai.collection_ids() == []


async def test_many_deactivated_at_once_are_held_back_by_the_brake() -> None:
    world = World(DOCUMENT_BRAKE_DELETES="1/2", DOCUMENT_KNOWLEDGE_BASES="true")
    await world.start()
    many = [base(world) for _ in range(4)]
    await world.advance(minutes=6)
    assert len(world.xai.collection_ids()) == 4
    for knowledge in many:
        world.espocrm.edit(knowledge, entity="CAIKnowledge", aktivierungsstatus="deactivated")
    await world.advance(minutes=20)
    assert len(world.xai.collection_ids()) == 2
    await world.stop()


async def test_a_deleted_record_keeps_its_collection(world: World) -> None:
    knowledge = base(world)
    await told(world, knowledge)
    world.espocrm.delete(knowledge, entity="CAIKnowledge")
    effects = world.effects()
    await told(world, knowledge)
    await world.advance(hours=25)
    assert world.effects() == effects


# -- off ------------------------------------------------------------------------------------------


async def test_switched_off_nothing_happens() -> None:
    world = World()
    await world.start()
    knowledge = base(world)
    await told(world, knowledge)
    assert world.xai.requests.since(0) == []
    await world.advance(hours=25)
    assert world.effects() == []
    assert record(world, knowledge)["aktivierungsstatus"] == "new"
    await world.stop()
