"""What EspoCRM's own webhook queue does to us: repetitions, disorder, echoes, words, refusals."""

import io
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from bitbylaw_common import logs
from world import World

SERVICE = "document-sync"


@pytest.fixture
async def office() -> AsyncIterator[World]:
    """A world whose EspoCRM tells of documents by itself, passes ten minutes apart."""
    world = World()
    await world.start()
    world.register_webhooks()
    yield world
    await world.stop()


async def deliver(world: World) -> list[int]:
    """Let one pass of deliveries happen, and everything that follows from it."""
    statuses = await world.deliver()
    await world.settle()
    return statuses


def runs(world: World, document: str) -> list[str]:
    """Return how the runs of a document ended."""
    return [str(entry.outcome) for entry in world.host.journal(document) if entry.phase == "end"]


async def test_espo_15_while_kafka_is_away_the_crm_keeps_its_post_and_no_event_doubles(
    office: World,
) -> None:
    akte = office.add_collection("akte-1")
    klage = office.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    office.host.log.failing = True
    assert await office.deliver() == [503]
    office.host.log.failing = False
    assert await deliver(office) == []  # not before ten minutes are over
    await office.advance(minutes=10)
    assert await deliver(office) == [200]
    assert len(office.host.log.records("vmh.document.create")) == 1
    assert office.xai.contents(akte) == [b"v1"]
    assert office.espocrm.document(klage)["fileStatus"] == "synced"


async def test_espo_16_a_post_whose_answer_came_too_late_is_sent_again_and_worked_on_once(
    office: World,
) -> None:
    akte = office.add_collection("akte-1")
    klage = office.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    office.espocrm.faults.plan("lost_receipt", operation="deliver")
    assert await deliver(office) == [408]
    effects = office.effects()
    assert office.xai.contents(akte) == [b"v1"]
    await office.advance(minutes=10)
    assert 200 in await deliver(office)
    assert len(office.host.log.records("vmh.document.create")) == 2
    assert office.effects() == effects
    assert runs(office, klage)[-1] == "skipped"


async def test_espo_19_the_same_batch_twice_is_accepted_twice_and_done_once(office: World) -> None:
    akte = office.add_collection("akte-1")
    for number in range(5):
        office.espocrm.add_document(f"Klage {number}.pdf", b"v%d" % number, collections=[akte])
    office.espocrm.faults.plan("duplicate_delivery", operation="deliver")
    assert await deliver(office) == [200]
    assert len(office.host.log.records("vmh.document.create")) == 10
    assert len(office.xai.effects("upload")) == 5
    assert len(office.xai.effects("attach")) == 5
    assert sorted(office.xai.contents(akte)) == [b"v%d" % number for number in range(5)]


async def test_espo_20_an_older_update_sent_again_after_a_newer_one_changes_nothing(
    office: World,
) -> None:
    akte = office.add_collection("akte-1")
    klage = office.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await deliver(office)
    office.espocrm.replace_file(klage, b"v2")
    office.espocrm.faults.plan("lost_receipt", operation="deliver")
    assert 408 in await deliver(office)
    office.espocrm.replace_file(klage, b"v3")
    await deliver(office)
    assert office.xai.contents(akte) == [b"v3"]
    effects = office.effects()
    await office.advance(minutes=10)
    assert 200 in await deliver(office)
    assert office.xai.contents(akte) == [b"v3"]
    assert office.effects() == effects


async def test_espo_21_a_delete_that_overtakes_an_update_leaves_nothing_behind(
    office: World,
) -> None:
    akte = office.add_collection("akte-1")
    klage = office.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await deliver(office)
    office.espocrm.replace_file(klage, b"v2")
    office.host.log.failing = True  # so the update stays with the CRM for ten minutes
    assert set(await office.deliver()) == {503}
    office.host.log.failing = False
    office.espocrm.delete(klage)
    assert 200 in await deliver(office)
    assert office.xai.contents(akte) == []
    effects, files = office.effects(), len(office.xai.files())
    await office.advance(minutes=10)
    assert 200 in await deliver(office)
    assert len(office.host.log.records("vmh.document.update")) >= 1
    assert (office.effects(), len(office.xai.files())) == (effects, files)
    assert office.host.dead_letters(SERVICE) == []


async def test_espo_22_an_update_that_names_only_who_saved_changes_nothing(office: World) -> None:
    akte = office.add_collection("akte-1")
    klage = office.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    for _ in range(2):
        await deliver(office)
    effects, told = office.effects(), len(office.host.log.records("vmh.document.update"))
    name = office.espocrm.document(klage)["name"]
    office.espocrm.edit(klage, name=name)  # another user saves what is there
    await deliver(office)
    (event,) = office.host.log.records("vmh.document.update")[told:]
    assert b'"modifiedById"' in (event.value or b"")
    assert b'"name"' not in (event.value or b"")
    assert office.effects() == effects
    assert runs(office, klage)[-1] == "skipped"


@pytest.mark.parametrize("skip_own", [True, False])
async def test_espo_23_our_own_write_back_is_not_told_or_ends_in_nothing(skip_own: bool) -> None:
    world = World()
    await world.start()
    world.register_webhooks(skip_own=skip_own)
    akte = world.add_collection("akte-1")
    world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await deliver(world)
    effects = world.effects()
    assert world.xai.contents(akte) == [b"v1"]
    echoes = 0
    for _ in range(10):
        echoes += len(await deliver(world))
        await world.advance(minutes=2)
    assert echoes == (0 if skip_own else 1)
    assert world.effects() == effects
    await world.stop()


async def test_espo_30_a_key_that_the_crm_refuses_is_shown_three_times_at_most(
    office: World,
) -> None:
    akte = office.add_collection("akte-1")
    documents = [
        office.espocrm.add_document(f"Klage {n}.pdf", b"v%d" % n, collections=[akte])
        for n in range(20)
    ]
    office.espocrm.faults.plan("status", status=401, times=None)
    asked = office.espocrm.requests.last
    await deliver(office)
    await office.advance(seconds=59)
    assert 1 <= office.espocrm.requests.last - asked <= 3
    office.espocrm.faults.clear()
    await office.advance(minutes=5)
    states = {office.espocrm.document(document)["fileStatus"] for document in documents}
    assert states == {"synced"}
    assert office.host.dead_letters(SERVICE) == []


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged from warnings on."""
    stream = io.StringIO()
    logs.configure("json", "warning", stream)
    yield stream
    logs.configure("json", "warning", sys.stderr)


async def test_espo_36_a_status_that_nobody_knows_is_logged_and_does_no_harm(
    lines: io.StringIO, office: World
) -> None:
    akte = office.add_collection("akte-1")
    klage = office.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    for _ in range(2):
        await deliver(office)
    effects = office.effects()
    office.espocrm.edit(klage, fileStatus="Archiviert")
    await deliver(office)
    assert office.xai.contents(akte) == [b"v1"]
    assert [name for _, name, _ in office.effects()[len(effects) :]] == []
    assert "a status field holds a word that nobody knows" in lines.getvalue()
    assert office.host.dead_letters(SERVICE) == []


async def test_espo_33_a_collection_linked_and_unlinked_twice_is_served_once(office: World) -> None:
    one, two = office.add_collection("akte-1"), office.add_collection("akte-2")
    klage = office.espocrm.add_document("Klage.pdf", b"v1", collections=[one])
    await deliver(office)
    for _ in range(2):
        office.espocrm.link(klage, two)
        await office.told("update", klage)
    assert office.xai.contents(two) == [b"v1"]
    assert len(office.xai.effects("attach")) == 2
    for _ in range(2):
        office.espocrm.unlink(klage, two)
        await office.told("update", klage)
    assert office.xai.contents(two) == []
    assert len(office.xai.effects("detach")) == 1
