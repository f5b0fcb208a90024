"""The full comparison whole: what only it can find, what is nobody's, and what it costs."""

import hashlib
import time
import uuid
from datetime import UTC, datetime

import pytest

from bitbylaw_common import metrics, topics
from bitbylaw_common.events import RunRequested
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.hosts import memory_host
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_document_sync.app import deps_over
from bitbylaw_document_sync.domain.comparison import Held, Survey
from bitbylaw_document_sync.domain.coverage import ComparisonState
from bitbylaw_document_sync.domain.model import Plan, Sight
from bitbylaw_document_sync.domain.planner import plan
from bitbylaw_document_sync.settings import DocumentSyncSettings
from bitbylaw_document_sync.steps.document_comparison_cron_step import document_comparison
from bitbylaw_document_sync.steps.document_coverage_cron_step import document_coverage
from bitbylaw_simulators.xai import XaiQuirks
from world import World

SERVICE = "document-sync"
FUNCTION = document_comparison.function_id()
COVERAGE = document_coverage.function_id()


def remembered(world: World) -> list[ComparisonState]:
    """Return what each comparison left behind, as it lies in the log."""
    key = f"cron:{FUNCTION}".encode()
    records = [r for r in world.host.log.records("document-sync.base") if r.key == key]
    return [ComparisonState.from_bytes(record.value or b"") for record in records]


async def by_hand(world: World, function_id: str) -> None:
    """Ask for a run of a cron now, and let it end."""
    run_id = uuid.uuid4().hex
    asked = RunRequested(function_id=function_id, run_id=run_id, subject=function_id)
    now = world.host.clock.now()
    record = codec.encode(topics.requests(SERVICE), asked, event_id=run_id, source="test", now=now)
    await world.host.log.append([record])
    await world.settle()


async def compared(world: World, *, after_hours: float = 2) -> ComparisonState:
    """Compare everything some hours later, and return what that left behind."""
    # in one leap: the ticks of coverage between are the matter of other tests
    world.host.clock.move(after_hours * 3600)
    await world.settle()
    await by_hand(world, FUNCTION)
    await world.advance(seconds=20)
    return remembered(world)[-1]


def checks(world: World) -> list[str]:
    """Return the documents that were told to be looked at, in no order."""
    topic = "vmh.document.sync_check"
    return [(r.key or b"").decode() for r in world.host.log.records(topic)]


async def told(world: World, name: str, content: bytes, *collections: str) -> str:
    """Add a document and have it synced by its webhook."""
    document = world.espocrm.add_document(name, content, collections=collections)
    await world.told("create", document)
    return document


async def test_every_record_has_one_standing(world: World) -> None:
    akte, gone = world.add_collection("akte-1"), world.add_collection("akte-2")
    fine = await told(world, "Klage.pdf", b"v1", akte)
    program = await told(world, "Setup.exe", b"MZ", akte)
    world.espocrm.add_document("Ohne Akte.pdf", b"frei", fileStatus="unchanged")
    lost = await told(world, "Anlage.pdf", b"v2", gone)
    world.xai.remove_collection(gone)
    copy = world.espocrm.add_document(
        "Kopie.pdf",
        b"v1",
        collections=[akte],
        xaiId=world.espocrm.document(fine)["xaiId"],
        xaiCollections=[akte],
        xaiSyncedHash=world.espocrm.document(fine)["md5sum"],
        fileStatus="synced",
    )
    await world.advance(minutes=46)
    assert program not in checks(world)
    state = await compared(world)
    assert state.counts == {
        "in_sync": 0,
        "pending": 0,
        "conflict": 1,
        "duplicate": 2,
        "excluded": 2,
        "orphan": 0,
    }
    assert state.conflicts == (lost,)
    assert state.duplicates == tuple(sorted([fine, copy]))
    name = "bitbylaw_comparison_records"
    labels = {"service": SERVICE, "entity": "document"}
    assert metrics.value(name, standing="conflict", **labels) == 1
    began = metrics.value("bitbylaw_comparison_complete_timestamp_seconds", **labels)
    assert 0 < began <= world.host.clock.now().timestamp()


async def test_silent_edits_and_untold_deletions_arrive_with_the_nightly_comparison(
    world: World,
) -> None:
    akte = world.add_collection("akte-1")
    klage = await told(world, "Klage.pdf", b"v1", akte)
    kept = await told(world, "Entwurf.pdf", b"weg", akte)
    world.espocrm.unlink(kept, akte)
    await world.told("update", kept)
    await world.advance(minutes=46)
    other = await told(world, "Anlage.pdf", b"anlage")
    await world.advance(minutes=16)

    # when an import replaces a file without a stamp, and an unlinked document is deleted
    world.espocrm.replace_file(klage, b"v2", silent=True)
    world.espocrm.delete(kept, silent=True)
    await world.advance(minutes=46)
    assert world.xai.contents(akte) == [b"v1"]
    await compared(world)

    # then both are known
    assert world.xai.contents(akte) == [b"v2"]
    assert sorted(set(checks(world))) == sorted([klage, kept])
    assert world.espocrm.document(other)["fileStatus"] == "unchanged"
    keys = {r.key: r.value for r in world.host.log.records("document-sync.base")}
    assert keys[f"document:{kept}".encode()] is None
    told_so_far, effects = len(checks(world)), world.effects()
    await compared(world)
    assert len(checks(world)) == told_so_far
    assert world.effects() == effects


@pytest.mark.parametrize("left", ["vanish", "stay"])
async def test_a_file_deleted_at_xai_comes_back_whatever_its_collection_goes_on_to_list(
    left: str,
) -> None:
    world = World(xai=XaiQuirks(delete_attached=left))  # type: ignore[arg-type]  # both are options
    await world.start()
    akte = world.add_collection("akte-1")
    klage = await told(world, "Klage.pdf", b"v1", akte)
    await world.advance(minutes=1)
    world.xai.remove_file(world.xai.file_ids(akte)[0])
    await compared(world)
    await world.advance(minutes=1)
    assert world.espocrm.document(klage)["xaiId"] in {file.id for file in world.xai.files()}
    assert world.xai.content(world.espocrm.document(klage)["xaiId"]) == b"v1"
    await world.stop()


# -- orphans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "in_collection", "files"),
    [("list", 2, 2), ("detach", 1, 2), ("delete", 1, 1)],
)
async def test_xai_41_an_orphan_is_listed_and_removed_as_the_policy_says(
    policy: str, in_collection: int, files: int
) -> None:
    world = World(XAI_ORPHAN_POLICY=policy, XAI_ORPHAN_SETTLE_SECONDS="3600")
    await world.start()
    akte = world.add_collection("akte-1")
    await told(world, "Klage.pdf", b"v1", akte)
    stranger = world.xai.add_file("Fremd.pdf", b"fremd")
    world.xai.attach(akte, stranger)

    # given the comparison that finds it: listed, whatever the policy
    state = await compared(world)
    assert [orphan.file_id for orphan in state.orphans] == [stranger]
    assert len(world.xai.contents(akte)) == 2

    # then one that finds it again, long enough after, removes it or does not
    state = await compared(world)
    assert len(world.xai.contents(akte)) == in_collection
    assert len(world.xai.files()) == files
    assert b"v1" in world.xai.contents(akte)
    assert state.removed == (0 if policy == "list" else 1)
    await world.stop()


async def test_an_upload_under_way_is_no_orphan() -> None:
    world = World(XAI_ORPHAN_POLICY="delete", XAI_ORPHAN_SETTLE_SECONDS="1")
    await world.start()
    young = world.xai.add_file("Jung.pdf", b"jung")
    assert (await compared(world, after_hours=0.9)).orphans == ()
    (orphan,) = (await compared(world, after_hours=0.2)).orphans
    assert orphan.file_id == young
    assert (await compared(world, after_hours=0.1)).removed == 1
    await world.stop()


async def test_a_lost_upload_s_twin_is_told_as_one_and_goes() -> None:
    world = World(XAI_ORPHAN_POLICY="delete", XAI_ORPHAN_SETTLE_SECONDS="3600")
    await world.start()
    akte = world.add_collection("akte-1")
    klage = await told(world, "Klage.pdf", b"v1", akte)
    twin = world.xai.add_file("Klage.pdf", b"v1")
    state = await compared(world)
    (orphan,) = state.orphans
    assert (orphan.file_id, orphan.twin_of) == (twin, klage)
    await compared(world)
    assert [file.id for file in world.xai.files()] == world.xai.file_ids(akte)
    await world.stop()


async def test_a_file_that_lies_where_its_document_is_not_linked_is_nobody_s_there() -> None:
    world = World(XAI_ORPHAN_POLICY="detach", XAI_ORPHAN_SETTLE_SECONDS="3600")
    await world.start()
    one, two = world.add_collection("akte-1"), world.add_collection("akte-2")
    klage = await told(world, "Klage.pdf", b"v1", one)
    await told(world, "Anlage.pdf", b"v2", two)
    world.xai.attach(two, world.xai.file_ids(one)[0])
    (orphan,) = (await compared(world)).orphans
    assert (orphan.collection, orphan.owned) == (two, True)
    await compared(world)
    assert world.xai.contents(two) == [b"v2"]
    assert world.xai.contents(one) == [b"v1"]
    assert world.espocrm.document(klage)["xaiCollections"] == [one]
    await world.stop()


# -- lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [2, 100])
async def test_xai_44_a_collection_of_250_is_seen_whole_through_its_tokens(page_size: int) -> None:
    world = World(xai=XaiQuirks(page_size=page_size))
    await world.start()
    akte = world.xai.add_collection("akte-1")
    world.espocrm.add_knowledge("Akte 1", akte)
    strangers = set()
    for number in range(250):
        file_id = world.xai.add_file(f"Fremd {number}.pdf", b"fremd %d" % number)
        world.xai.attach(akte, file_id)
        strangers.add(file_id)
    state = await compared(world)
    found = [orphan.file_id for orphan in state.orphans]
    assert len(found) == 250
    assert set(found) == strangers
    await world.stop()


async def test_a_list_that_breaks_off_concludes_nothing_about_absence() -> None:
    world = World(XAI_ORPHAN_POLICY="delete", XAI_ORPHAN_SETTLE_SECONDS="1")
    await world.start()
    akte = world.add_collection("akte-1")
    await told(world, "Klage.pdf", b"v1", akte)
    await compared(world)
    effects, asked = world.effects(), len(checks(world))
    world.espocrm.faults.plan("status", status=503, path="/CDokumente", times=None)
    world.host.clock.move(3600)
    await world.settle()
    await by_hand(world, FUNCTION)
    await world.advance(minutes=10)
    world.espocrm.faults.clear()
    assert len(remembered(world)) == 1
    assert world.effects() == effects
    assert len(checks(world)) == asked
    await world.stop()


async def test_it_runs_at_two_in_the_night() -> None:
    world = World()
    world.host.clock.move(15.8 * 3600)  # until 01:48 in Berlin
    await world.start()
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte], silent=True)
    await world.advance(minutes=13)
    (state,) = remembered(world)
    assert state.began == datetime(2026, 3, 3, 1, 0, tzinfo=UTC)
    assert klage in checks(world)
    await world.stop()


# -- what it costs ----------------------------------------------------------------------------------

MANY = 10_000


async def synced_by_the_predecessor(world: World, count: int) -> None:
    """Have so many documents in line on both sides, each with a base as a first look leaves it."""
    akten = [world.xai.add_collection(f"akte-{number}") for number in range(20)]
    knowledge = [world.espocrm.add_knowledge(f"Akte {n}", akte) for n, akte in enumerate(akten)]
    members: dict[str, dict[str, Held]] = {akte: {} for akte in akten}
    survey = Survey(world.host.clock.now(), members=dict(members))
    for number in range(count):
        name, content = f"Klage {number}.pdf", b"v%d" % number
        akte, md5 = akten[number % 20], hashlib.md5(content, usedforsecurity=False).hexdigest()
        file_id = world.xai.add_file(name, content)
        world.xai.attach(akte, file_id)
        document = world.espocrm.add_document(
            name,
            content,
            collections=[knowledge[number % 20]],
            xaiId=file_id,
            xaiCollections=[akte],
            xaiSyncedHash=md5,
            fileStatus="synced",
        )
        survey.wanted[document] = {akte}
        members[akte][file_id] = Held(file_id)
    await world.advance(minutes=1)  # until xAI has indexed them
    deps = deps_over(world.transport, DocumentSyncSettings.from_env(world.env), world.host.clock)
    bases = []
    async for listed in deps.lists.registers.listed(None):
        entry = survey.linked(listed.entry)
        sight = Sight(entry.id, entry, None, survey.found(entry, None), survey.now)
        first = plan(sight, deps.policy)
        assert isinstance(first, Plan)
        assert first.after is not None
        assert not first.actions
        key = f"document:{entry.id}".encode()
        home = codec.partition_of(entry.id.encode())
        value = first.after.to_bytes()
        bases.append(Outgoing("document-sync.base", key, value, partition=home))
    await world.host.log.append(bases)
    await deps.circuits.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("cron", "count", "reads"),
    [(FUNCTION, MANY, 0.032), (COVERAGE, MANY // 5, 0.028)],
    ids=["comparison", "coverage"],
)
async def test_unchanged_documents_cost_few_reads_and_no_write(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    cron: str,
    count: int,
    reads: float,
) -> None:
    # it takes seconds of a quiet processor, and a busy one is no finding
    monkeypatch.setattr(memory_host, "SETTLE_SECONDS", 120.0)
    world = World()
    await synced_by_the_predecessor(world, count)
    await world.start()
    effects = len(world.effects())
    before = len(world.espocrm.requests) + len(world.xai.requests)
    began = time.perf_counter()
    await by_hand(world, cron)
    took = time.perf_counter() - began
    asked = len(world.espocrm.requests) + len(world.xai.requests) - before
    with capsys.disabled():
        print(  # noqa: T201 - the numbers are what the test is for
            f"\n{cron} of {count} unchanged documents: {asked} reads, "
            f"{asked / count:.3f} for a record, {took:.1f} s"
        )
    assert checks(world) == []
    assert len(world.effects()) == effects
    # one read for 200 records, 200 links, 100 members and 100 files, and a few for each collection
    assert asked / count < reads
    await world.stop()
