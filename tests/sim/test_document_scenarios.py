"""The document sync scenario by scenario, over HTTP to both simulators."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from bitbylaw_common.clock import Clock
from bitbylaw_common.runtime.hosts.memory_host import MemoryHost
from world import World

SERVICE = "document-sync"


def names(world: World, since: int = 0) -> list[str]:
    """Return the kinds of effects at xAI."""
    return [effect.name for effect in world.xai.effects()[since:]]


async def synced(world: World, content: bytes = b"v1", *collections: str) -> str:
    places = collections or (world.add_collection("akte-1"),)
    klage = world.espocrm.add_document("Klage.pdf", content, collections=places)
    await world.told("create", klage)
    return klage


async def test_xai_01_a_new_document_is_uploaded_attached_and_written_back(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = await synced(world, b"Klage Version 1\n", akte)
    assert names(world) == ["upload", "attach"]
    (file,) = world.xai.files()
    record = world.espocrm.document(klage)
    assert record["xaiId"] == file.id
    assert record["xaiCollections"] == [akte]
    assert record["xaiSyncedHash"] == "1c4ac5390b02be4eba118ff1d1221a2e"
    assert record["fileStatus"] == "synced"
    assert world.xai.contents(akte) == [b"Klage Version 1\n"]


async def test_xai_02_three_collections_share_one_upload(world: World) -> None:
    places = [world.add_collection(f"akte-{number}") for number in range(3)]
    klage = await synced(world, b"v1", *places)
    assert names(world) == ["upload", "attach", "attach", "attach"]
    (file,) = world.xai.files()
    assert [world.xai.file_ids(place) for place in places] == [[file.id]] * 3
    assert world.espocrm.document(klage)["xaiCollections"] == sorted(places)


async def test_xai_03_in_no_collection_xai_hears_nothing_and_the_record_is_not_new_for_ever(
    world: World,
) -> None:
    klage = world.espocrm.add_document("Klage.pdf", b"v1")
    assert world.espocrm.document(klage)["fileStatus"] == "neu"
    await world.told("create", klage)
    assert len(world.xai.requests) == 0
    assert world.espocrm.document(klage)["fileStatus"] == "unchanged"
    effects = world.effects()
    await world.told("update", klage)
    assert world.effects() == effects


async def test_xai_04_the_same_event_five_times_is_one_upload(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    for _ in range(5):
        await world.webhook("document", "create", klage)
    await world.settle()
    for _ in range(5):
        await world.told("create", klage)
    assert names(world) == ["upload", "attach"]
    assert world.xai.contents(akte) == [b"v1"]


async def test_xai_05_told_as_changed_with_the_same_bytes_only_the_status_moves(
    world: World,
) -> None:
    klage = await synced(world)
    before, uploads = len(world.effects()), names(world)
    world.espocrm.replace_file(klage, b"v1")  # another attachment, the same bytes
    assert world.espocrm.document(klage)["fileStatus"] == "geändert"
    await world.told("update", klage)
    assert names(world) == uploads
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert len(world.effects()) == before + 1
    changed = set(world.espocrm.effects("update")[-1].changed)
    assert changed - {"modifiedById", "modifiedByName"} == {"fileStatus"}


@pytest.mark.parametrize("policy", ["keep", "delete"])
async def test_xai_07_at_every_moment_one_version_is_attached(policy: str) -> None:
    world = World(XAI_FILE_POLICY=policy)
    await world.start()
    places = [world.add_collection(f"akte-{number}") for number in range(2)]
    klage = await synced(world, b"v1", *places)
    world.espocrm.replace_file(klage, b"v2")
    seen: list[list[list[bytes]]] = []

    def look(_moment: str) -> None:
        seen.append([world.xai.contents(place) for place in places])

    world.transport.on_moment = look
    await world.told("update", klage)
    look("in the end")
    assert seen[0] == [[b"v1"], [b"v1"]]
    assert seen[-1] == [[b"v2"], [b"v2"]]
    assert all(content for moment in seen for content in moment)
    await world.stop()


@pytest.mark.parametrize("policy", ["keep", "delete"])
async def test_xai_10_unlinked_from_all_it_leaves_them_and_the_file_stays_by_policy(
    policy: str,
) -> None:
    world = World(XAI_FILE_POLICY=policy)
    await world.start()
    places = [world.add_collection(f"akte-{number}") for number in range(2)]
    klage = await synced(world, b"v1", *places)
    for place in places:
        world.espocrm.unlink(klage, place)
    await world.told("update", klage)
    assert [world.xai.contents(place) for place in places] == [[], []]
    assert world.espocrm.document(klage)["xaiCollections"] == []
    assert len(world.xai.files()) == (1 if policy == "keep" else 0)
    await world.stop()


async def test_xai_12_a_delete_of_what_nobody_knows_is_done(world: World) -> None:
    await world.told("delete", "69a68b9cd4c01ad4c")
    assert world.effects() == []
    assert len(world.xai.requests) == 0
    (end,) = [e for e in world.host.journal("69a68b9cd4c01ad4c") if e.phase == "end"]
    assert end.outcome in ("done", "skipped")
    assert world.host.dead_letters(SERVICE) == []


async def test_xai_13_after_a_delete_a_late_update_brings_nothing_back(world: World) -> None:
    klage = await synced(world)
    world.espocrm.delete(klage)
    await world.told("delete", klage)
    effects = world.effects()
    await world.told("update", klage)
    await world.told("create", klage)
    await world.advance(hours=1)
    assert world.effects() == effects
    assert world.xai.contents("akte-1") == []
    assert world.host.dead_letters(SERVICE) == []


@pytest.mark.parametrize("orphans", ["list", "delete"])
async def test_xai_14_an_upload_that_shows_after_90_seconds_is_one_attached_file(
    orphans: str,
) -> None:
    world = World(XAI_ORPHAN_POLICY=orphans, XAI_ORPHAN_SETTLE_SECONDS="60")
    await world.start()
    world.xai.faults.plan("delayed_visibility", operation="upload", seconds=90, answer="reset")
    klage = await synced(world)
    await world.advance(seconds=89)
    assert world.xai.contents("akte-1") == []
    await world.advance(minutes=10)
    assert world.xai.contents("akte-1") == [b"v1"]
    assert len(world.xai.effects("upload")) == 1
    assert len(world.xai.files()) == 1
    assert world.espocrm.document(klage)["xaiId"] == world.xai.file_ids("akte-1")[0]
    # and no night takes it for somebody else's
    effects = world.effects()
    await world.advance(hours=20)
    assert world.effects() == effects
    assert world.host.dead_letters(SERVICE) == []
    await world.stop()


async def test_xai_14_what_a_lost_upload_became_goes_when_the_bytes_changed_meanwhile(
    world: World,
) -> None:
    world.xai.faults.plan("delayed_visibility", operation="upload", seconds=90, answer="reset")
    klage = await synced(world)
    world.espocrm.replace_file(klage, b"v2")
    await world.told("update", klage)
    await world.advance(minutes=10)
    assert world.xai.contents("akte-1") == [b"v2"]
    assert [world.xai.content(file.id) for file in world.xai.files()] == [b"v2"]


async def test_xai_19_detaching_what_somebody_else_detached_is_done(world: World) -> None:
    one, two = world.add_collection("akte-1"), world.add_collection("akte-2")
    klage = await synced(world, b"v1", one, two)
    (file,) = world.xai.files()
    world.espocrm.unlink(klage, two)

    def first(moment: str) -> None:
        if moment == "before remove_from_collection" and file.id in world.xai.file_ids(two):
            world.xai.detach(two, file.id)

    world.transport.on_moment = first
    await world.told("update", klage)
    detaches = [call for call in world.xai.requests if call.operation == "detach"]
    assert [call.status for call in detaches] == [404]
    assert world.espocrm.document(klage)["xaiCollections"] == [one]
    assert world.host.dead_letters(SERVICE) == []


async def test_xai_22_the_pauses_grow_while_xai_is_away_for_the_first_documents(
    world: World,
) -> None:
    world.xai.faults.plan("status", status=503, operation="upload", times=4)
    klage = await synced(world)
    times: list[float] = []

    def note(moment: str) -> None:
        if moment == "before upload_file":
            times.append(world.host.clock.monotonic())

    world.transport.on_moment = note
    await world.advance(hours=2)
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 15 * 60


async def test_xai_23_a_refused_key_costs_three_calls_and_the_work_goes_on_once_it_is_right(
    world: World,
) -> None:
    akte = world.add_collection("akte-1")
    key, world.xai.api_key = world.xai.api_key, "xai-another-key"
    world.xai.switch({"wrong_api_key_status": "401"})
    documents = [
        world.espocrm.add_document(f"Klage {n}.pdf", b"v%d" % n, collections=[akte])
        for n in range(10)
    ]
    for document in documents:
        await world.webhook("document", "create", document)
    await world.settle()
    await world.advance(seconds=59)
    assert 1 <= sum(call.status == 401 for call in world.xai.requests) <= 3
    world.xai.api_key = key
    await world.advance(minutes=5)
    assert len(world.xai.contents(akte)) == 10
    assert world.host.dead_letters(SERVICE) == []


async def test_xai_30_a_file_that_changes_while_we_upload_ends_with_the_newest_bytes(
    world: World,
) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    changes = [b"v2", b"v3"]

    def change(moment: str) -> None:
        if moment == "after upload_file" and changes:
            world.espocrm.replace_file(klage, changes.pop(0))

    world.transport.on_moment = change
    await world.told("create", klage)
    await world.told("update", klage)
    await world.told("update", klage)
    assert world.xai.contents(akte) == [b"v3"]
    record = world.espocrm.document(klage)
    assert record["xaiSyncedHash"] == record["md5sum"]
    assert record["fileStatus"] == "synced"
    assert len(world.xai.effects("upload")) <= 3


async def test_xai_31_two_replicas_told_of_the_same_documents_upload_each_once(
    world: World,
) -> None:
    akte = world.add_collection("akte-1")
    documents = [
        world.espocrm.add_document(f"Klage {n}.pdf", b"v%d" % n, collections=[akte])
        for n in range(30)
    ]
    second = await world.host.join(SERVICE)
    for _ in range(3):
        for document in documents:
            await world.webhook("document", "create", document)
    await world.settle()
    # and when one of them goes in the middle, the other sees to its documents too
    for document in documents:
        world.espocrm.replace_file(document, b"new " + document.encode())
        await world.webhook("document", "update", document)
        if document == documents[15]:
            await world.host.crash(second)
    await world.advance(minutes=5)
    assert len(world.xai.effects("upload")) == 60
    wanted = sorted(b"new " + document.encode() for document in documents)
    assert sorted(world.xai.contents(akte)) == wanted
    assert world.host.dead_letters(SERVICE) == []


class LeftBehind:
    """Locks of which some are held by somebody who died; those run out."""

    def __init__(self, seconds: float) -> None:
        self.clock: Clock | None = None
        self.until = timedelta(seconds=seconds)
        self.held: set[str] = set()

    @asynccontextmanager
    async def hold(
        self, entity: str, entity_id: str, lost: Callable[[], None] | None = None
    ) -> AsyncIterator[bool]:
        del entity, lost
        assert self.clock is not None
        free = self.clock.monotonic() >= self.until.total_seconds()
        yield free or entity_id not in self.held


async def test_xai_32_a_lock_whose_holder_died_runs_out_and_the_event_is_not_lost() -> None:
    locks = LeftBehind(seconds=30)
    host = MemoryHost(locks=locks)
    locks.clock = host.clock
    world = World(host=host)
    await world.start()
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    other = world.espocrm.add_document("Antwort.pdf", b"a1", collections=[akte])
    locks.held = {klage}
    await world.told("create", klage)
    await world.told("create", other)
    assert world.xai.contents(akte) == [b"a1"]
    await world.advance(minutes=3)
    assert world.xai.contents(akte) == [b"a1", b"v1"]
    assert burnt(world, klage) == 0
    await world.stop()


def burnt(world: World, document: str) -> int:
    """Return how many attempts of a document failed."""
    return sum(entry.outcome == "retry" for entry in world.host.journal(document))


@pytest.mark.parametrize(
    "written", ["Geändert", "GEÄNDERT", "gea\u0308ndert", "Neu", "changed", "new"]
)
async def test_xai_45_every_word_for_changed_asks_for_a_look(world: World, written: Any) -> None:
    klage = await synced(world)
    world.espocrm.edit(klage, fileStatus=written)
    await world.told("update", klage)
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert names(world) == ["upload", "attach"]


@pytest.mark.parametrize("policy", ["keep", "delete"])
async def test_two_records_with_one_file_that_leave_a_collection_at_once_both_leave_it(
    policy: str,
) -> None:
    world = World(XAI_FILE_POLICY=policy)
    await world.start()
    one, two = world.add_collection("akte-1"), world.add_collection("akte-2")
    klage = await synced(world, b"v1", one)
    # given its copy, which notes the same file as the CRM copies it
    record = world.espocrm.document(klage)
    noted = {name: record[name] for name in ("xaiId", "xaiCollections", "xaiSyncedHash")}
    copy = world.espocrm.add_document("Klage.pdf", b"v1", collections=[two], **noted)
    # when the one is unlinked, and both are looked at in the same moment
    world.espocrm.unlink(klage, one)
    await world.webhook("document", "update", klage)
    await world.webhook("document", "create", copy)
    await world.settle()
    for document in (klage, copy):
        await world.told("update", document)
    assert (world.xai.contents(one), world.xai.contents(two)) == ([], [b"v1"])
    effects = world.effects()
    for document in (copy, klage):
        await world.told("update", document)
    assert world.effects() == effects
    await world.stop()
