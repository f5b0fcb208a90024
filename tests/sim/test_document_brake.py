"""The brake of the document sync: what would change too much waits, durably; the rest flows."""

from datetime import timedelta

import pytest

from bitbylaw_common import metrics, topics
from bitbylaw_common.events import BrakeReleased, Command
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime import commands
from bitbylaw_common.runtime.hosts import memory_host
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.sync.brake import held_back
from sim.test_document_comparison import compared, synced_by_the_predecessor
from world import World

SERVICE = "document-sync"


async def braked_world(**env: str) -> World:
    world = World()
    world.env |= env
    await world.start()
    return world


async def library(world: World, count: int) -> list[str]:
    """Put documents into one collection, in line on both sides."""
    akte = world.add_collection("akte-1")
    documents = [
        world.espocrm.add_document(f"Anlage {n}.pdf", b"v%d" % n, collections=[akte])
        for n in range(count)
    ]
    for document in documents:
        await world.webhook("document", "create", document)
    await world.settle()
    return documents


async def all_told(world: World, documents: list[str], action: str = "update") -> None:
    for document in documents:
        await world.webhook("document", action, document)
    await world.settle()


async def standing(world: World) -> list[Command]:
    log = world.host.log
    places = {(topics.COMMANDS.name, number): 0 for number in range(topics.PARTITIONS)}
    return list((await commands.standing(log.read(places))).commands)


def waiting(world: World) -> list[ScheduleEntry]:
    entries = world.host.worker(SERVICE).schedule.entries()
    return [entry for entry in entries if held_back(entry.reason)]


def deletes(world: World) -> int:
    return world.calls(world.xai, "delete_file")


def counted(name: str) -> float:
    return metrics.value(name, service=SERVICE, effect="detach")


async def test_all_links_gone_at_once_empty_no_collection() -> None:
    trips, held = "bitbylaw_brake_trips_total", "bitbylaw_brake_held_total"
    before = counted(trips), counted(held)
    world = await braked_world(DOCUMENT_BRAKE_DETACHES="5/5")
    documents = await library(world, 20)
    collection = world.xai.collection_ids()[0]
    for document in documents:
        world.espocrm.unlink(document, collection)
    await all_told(world, documents)
    # then what the budget allows left, the rest stays, and nothing is deleted
    assert len(world.xai.contents(collection)) == 15
    assert deletes(world) == 0
    assert len(waiting(world)) == 15
    (trip,) = await standing(world)
    assert trip.key == "brake|document-sync|detach"
    assert (counted(trips) - before[0], counted(held) - before[1]) == (1, 15)
    await world.stop()


async def test_what_waits_for_the_brake_uses_up_no_attempt_and_never_dies() -> None:
    world = await braked_world(DOCUMENT_BRAKE_DETACHES="5/1")
    documents = await library(world, 3)
    collection = world.xai.collection_ids()[0]
    for document in documents:
        world.espocrm.unlink(document, collection)
    await all_told(world, documents)
    effects = len(world.xai.effects())
    await world.advance(days=3)
    assert len(world.xai.effects()) == effects
    assert [(entry.kind, entry.attempt, entry.until) for entry in waiting(world)] == [
        ("wait", 0, None)
    ] * 2
    assert world.host.dead_letters(SERVICE) == []
    await world.stop()


async def test_a_trip_survives_a_restart_and_a_takeover_by_another_member() -> None:
    world = await braked_world(DOCUMENT_BRAKE_DETACHES="5/1")
    documents = await library(world, 4)
    collection = world.xai.collection_ids()[0]
    for document in documents:
        world.espocrm.unlink(document, collection)
    await all_told(world, documents[:2])
    assert len(world.xai.contents(collection)) == 3
    await world.host.restart(SERVICE)
    await world.host.join(SERVICE)
    await all_told(world, documents)
    assert len(world.xai.contents(collection)) == 3
    await world.stop()


async def test_what_is_not_braked_flows() -> None:
    world = await braked_world(DOCUMENT_BRAKE_DETACHES="5/1")
    documents = await library(world, 3)
    collection = world.xai.collection_ids()[0]
    for document in documents:
        world.espocrm.unlink(document, collection)
    await all_told(world, documents)
    new = world.espocrm.add_document("Neu.pdf", b"neu", collections=[collection])
    await world.told("create", new)
    assert b"neu" in world.xai.contents(collection)
    await world.stop()


async def test_deletes_wait_alone_and_the_new_version_is_in_its_place() -> None:
    world = await braked_world(DOCUMENT_BRAKE_DELETES="5/2")
    documents = await library(world, 5)
    for document in documents:
        world.espocrm.replace_file(document, b"neu " + document.encode())
    await all_told(world, documents)
    collection = world.xai.collection_ids()[0]
    assert sorted(world.xai.contents(collection)) == sorted(
        b"neu " + document.encode() for document in documents
    )
    assert [world.espocrm.document(d)["fileStatus"] for d in documents] == ["synced"] * 5
    assert deletes(world) == 2
    assert len(world.xai.files()) == 5 + 3
    # and once it is released they go
    await release(world, "delete", 3)
    await world.advance(hours=1)
    assert len(world.xai.files()) == 5
    assert waiting(world) == []
    await world.stop()


async def test_deletes_of_records_that_are_gone_wait_too() -> None:
    world = await braked_world(DOCUMENT_BRAKE_DELETES="5/1", XAI_FILE_POLICY="delete")
    documents = await library(world, 3)
    for document in documents:
        world.espocrm.delete(document)
    await all_told(world, documents, "delete")
    assert world.xai.contents(world.xai.collection_ids()[0]) == []
    assert len(world.xai.files()) == 2
    await release(world, "delete", 2)
    await world.advance(hours=1)
    assert world.xai.files() == []
    assert waiting(world) == []
    await world.stop()


async def test_xai_s_list_suddenly_empty_does_not_upload_the_library_again() -> None:
    world = await braked_world(DOCUMENT_BRAKE_UPLOADS="4/10", DOCUMENT_BRAKE_RECORDS="1/1000")
    documents = await library(world, 10)
    await world.advance(hours=2)
    for file in list(world.xai.files()):
        world.xai.remove_file(file.id)
    more = [
        world.espocrm.add_document(
            f"Mehr {n}.pdf", b"m%d" % n, collections=world.xai.collection_ids()
        )
        for n in range(5)
    ]
    await all_told(world, documents + more)
    assert len(world.xai.files()) == 10
    assert deletes(world) == 0
    assert len(waiting(world)) == 5
    await world.stop()


async def test_a_list_of_links_that_breaks_off_takes_nothing_away(world: World) -> None:
    documents = await library(world, 5)
    collection = world.xai.collection_ids()[0]
    world.espocrm.faults.plan("status", status=500, operation="list_linked", times=None)
    await all_told(world, documents)
    assert len(world.xai.contents(collection)) == 5
    assert world.xai.effects("detach") == []
    assert deletes(world) == 0


@pytest.mark.parametrize("pages", [1, 2])
async def test_links_of_which_only_the_first_pages_come_take_nothing_away(
    world: World, pages: int
) -> None:
    # given a document in more collections than two pages of links hold
    places = [world.add_collection(f"akte-{number}") for number in range(401)]
    everywhere = world.espocrm.add_document("Vollmacht.pdf", b"v1", collections=places)
    await world.told("create", everywhere)
    assert len(world.xai.effects("attach")) == 401

    # when only the first pages of its links can be read
    world.espocrm.faults.plan("status", status=500, operation="list_linked", after=pages, times=9)
    await world.told("update", everywhere)

    # then it leaves no collection
    assert world.xai.effects("detach") == []
    assert all(world.xai.contents(place) == [b"v1"] for place in places)


async def test_a_crm_that_suddenly_shows_no_document_makes_no_file_nobody_s() -> None:
    world = await braked_world(
        DOCUMENT_BRAKE_DETACHES="5/2", XAI_ORPHAN_POLICY="delete", XAI_ORPHAN_SETTLE_SECONDS="1"
    )
    documents = await library(world, 15)
    for document in documents:
        world.espocrm.delete(document, silent=True)
    found = [await compared(world) for _ in range(3)]
    assert found[-1].counts["orphan"] > 0
    assert deletes(world) == 0
    assert len(world.xai.files()) == 15
    await world.stop()


async def test_everything_set_to_changed_at_once_is_held_back_and_nothing_is_deleted() -> None:
    world = await braked_world(
        DOCUMENT_BRAKE_RECORDS="1/20", DOCUMENT_BRAKE_UPLOADS="4/10", DOCUMENT_BRAKE_DELETES="10/5"
    )
    akte = world.add_collection("akte-1")
    documents = [
        world.espocrm.add_document(f"Anlage {n}.pdf", b"v%d" % n, collections=[akte])
        for n in range(200)
    ]
    await all_told(world, documents, "create")
    assert len(world.xai.files()) <= 10
    assert deletes(world) == 0
    assert len(waiting(world)) == 200 - len(world.xai.files())
    await world.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_firm_s_documents_set_to_changed_at_once_go_on_when_an_operator_says_so(
    monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """With 10,000 the budget is the one that counts where none is set."""
    # it takes minutes with 10,000, and a busy processor is no finding
    monkeypatch.setattr(memory_host, "SETTLE_SECONDS", 240.0)
    trips = metrics.value("bitbylaw_brake_trips_total", service=SERVICE, effect="record")
    world = await braked_world(DOCUMENT_BRAKE_RECORDS=f"1/{many // 10}/25%")
    await synced_by_the_predecessor(world, many)
    await world.host.restart(SERVICE)  # so that it knows how many records it keeps
    documents = [row["id"] for row in world.espocrm.records("CDokumente")]
    for document in documents:
        world.espocrm.edit(document, fileStatus="geändert", silent=True)
    told = len(world.xai.effects())
    for first in range(0, many, 500):
        await world.webhooks("document", "update", documents[first : first + 500])
    await world.settle()

    def in_line() -> int:
        return sum(world.espocrm.document(d)["fileStatus"] == "synced" for d in documents)

    # a quarter of what is known, by the budget; the rest waits, and the operator is told why
    assert in_line() == many // 4
    assert len(waiting(world)) == many - many // 4
    (trip,) = await standing(world)
    assert trip.key == "brake|document-sync|record"
    after = metrics.value("bitbylaw_brake_trips_total", service=SERVICE, effect="record")
    assert after - trips == 1

    # what changes nothing flows: a word about a record that is in line is a look
    done = next(d for d in documents if world.espocrm.document(d)["fileStatus"] == "synced")
    await world.told("update", done)
    assert world.host.journal(done)[-1].outcome == "skipped"
    assert len(waiting(world)) == many - many // 4

    await release(world, "record", many)
    await world.advance(hours=7)
    assert in_line() == many
    assert waiting(world) == []
    assert len(world.xai.effects()) == told
    assert deletes(world) == 0
    assert world.host.dead_letters(SERVICE) == []
    await world.stop()


async def test_a_base_lost_to_another_key_counts_as_overwritten() -> None:
    world = await braked_world(DOCUMENT_BRAKE_OVERWRITES="8/2")
    documents = await library(world, 6)
    await world.host.stop()
    world.env["BBL_DIGEST_KEY"] = "another-key-that-only-tests-use"
    await world.start()
    for document in documents:
        world.espocrm.edit(document, fileStatus="geändert")
    await all_told(world, documents)
    said = [world.espocrm.document(document)["fileStatus"] for document in documents]
    assert said.count("synced") == 2
    assert len(waiting(world)) == 4
    await world.stop()


async def test_the_journal_says_that_the_brake_held_it_back() -> None:
    world = await braked_world(DOCUMENT_BRAKE_DETACHES="5/1")
    documents = await library(world, 2)
    for document in documents:
        world.espocrm.unlink(document, world.xai.collection_ids()[0])
    await all_told(world, documents)
    (held,) = waiting(world)
    last = world.host.journal(held.entity_id)[-1]
    assert (last.outcome, last.rule) == ("wait", "row 10: unlinked")
    assert "held back by the brake" in last.reason
    assert last.summary == "brake on detach 1: see `bbl brake show`"
    await world.stop()


async def release(world: World, effect: str, extra: int) -> None:
    """Do what `bbl brake release` writes."""
    now = world.host.clock.now()
    command = BrakeReleased(
        service=SERVICE,
        effect=effect,
        since=now,
        extra=extra,
        until=now + timedelta(hours=24),
    )
    record = codec.encode(topics.COMMANDS, command, event_id=new_event_id(), source="bbl", now=now)
    await world.host.log.append([record])


@pytest.mark.parametrize("members", [1, 2])
async def test_members_share_the_budget(members: int) -> None:
    world = await braked_world(DOCUMENT_BRAKE_DETACHES="5/12")
    for _ in range(members - 1):
        await world.host.join(SERVICE)
    documents = await library(world, 60)
    collection = world.xai.collection_ids()[0]
    for document in documents:
        world.espocrm.unlink(document, collection)
    await all_told(world, documents)
    assert 60 - len(world.xai.contents(collection)) <= 12
    await world.stop()
