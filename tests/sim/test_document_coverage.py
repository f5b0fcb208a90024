"""Coverage whole: what no webhook told arrives all the same, and what is told twice is written once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from bitbylaw_common import metrics
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_document_sync.domain.coverage import CoverageState
from bitbylaw_document_sync.steps.document_coverage_cron_step import document_coverage
from bitbylaw_simulators.espocrm import Delivery, EspoQuirks
from world import World

SERVICE = "document-sync"
FUNCTION = document_coverage.function_id()
TICK = timedelta(minutes=15)


class Died(BaseException):
    """The process was killed."""


async def ticks(world: World, count: int = 1) -> None:
    """Let so many ticks of coverage pass, and what they tell come to its end."""
    await world.advance(minutes=15 * count, seconds=20)


def remembered(world: World) -> CoverageState:
    """Return what the last tick left behind, as it lies in the log."""
    key = f"cron:{FUNCTION}".encode()
    values = [r.value for r in world.host.log.records("document-sync.base") if r.key == key]
    assert values
    assert values[-1] is not None
    return CoverageState.from_bytes(values[-1])


def checks(world: World) -> list[str]:
    """Return the documents that were told to be looked at, in no order."""
    topic = "vmh.document.sync_check"
    return [(r.key or b"").decode() for r in world.host.log.records(topic)]


def silently(world: World, document: str, knowledge: str, *, linked: bool = True) -> None:
    """Link or unlink as the web client's "select" does: no webhook, no stamp."""
    change = world.espocrm.link if linked else world.espocrm.unlink
    change(document, knowledge, silent=True)


# -- webhooks switched off entirely ----------------------------------------------------------------


async def test_without_any_webhook_everything_arrives_within_two_ticks(world: World) -> None:
    # given four documents that were never told of
    labels = {"service": SERVICE, "entity": "document", "found_by": "coverage"}
    before = metrics.value("bitbylaw_sync_checks_total", **labels)
    one, two = world.add_collection("akte-1"), world.add_collection("akte-2")
    crm = world.espocrm
    edited = crm.add_document("Klage.pdf", b"v1", collections=[one])
    deleted = crm.add_document("Entwurf.pdf", b"weg", collections=[one])
    linked = crm.add_document("Vollmacht.pdf", b"vollmacht", collections=[one])
    asked = crm.add_document("Anlage.pdf", b"anlage", collections=[one])
    await ticks(world, 2)
    assert sorted(world.xai.contents(one)) == [b"anlage", b"v1", b"vollmacht", b"weg"]
    assert {crm.document(d)["fileStatus"] for d in (edited, deleted, linked, asked)} == {"synced"}

    # when each is changed in its own way, and again nothing is told
    crm.replace_file(edited, b"v2")
    crm.delete(deleted)
    silently(world, linked, two)
    silently(world, linked, one, linked=False)
    crm.edit(asked, fileStatus="geändert")
    await ticks(world, 2)

    # then all of it arrived
    found = metrics.value("bitbylaw_sync_checks_total", **labels) - before
    assert found == len(checks(world))
    assert sorted(world.xai.contents(one)) == [b"anlage", b"v2"]
    assert world.xai.contents(two) == [b"vollmacht"]
    assert crm.document(linked)["xaiCollections"] == [two]
    assert crm.document(asked)["fileStatus"] == "synced"
    assert remembered(world).gaps == ()

    # and telling it all now, however late, writes nothing
    effects = world.effects()
    for action, document in (
        ("create", edited),
        ("update", edited),
        ("update", asked),
        ("update", linked),
        ("delete", deleted),
    ):
        await world.told(action, document)
    await ticks(world, 2)
    assert world.effects() == effects


@pytest.mark.parametrize("generation", ["seed", "march", "later"])
async def test_whatever_the_crm_calls_its_status_a_quiet_world_is_told_nothing(
    generation: str,
) -> None:
    quirks = EspoQuirks(generation=generation, knowledge_link="wissen")  # type: ignore[arg-type]  # all are options
    world = World(
        espocrm=quirks,
        DOCUMENT_COLLECTION_LINKS="wissen:datenbankId:aktivierungsstatus",
    )
    await world.start()
    akte = world.add_collection("akte-1")
    for number in range(5):
        world.espocrm.add_document(f"Klage {number}.pdf", b"v%d" % number, collections=[akte])
    world.espocrm.add_document("Setup.exe", b"MZ", collections=[akte])
    world.espocrm.add_document("Leer.pdf", b"", collections=[akte])
    world.espocrm.add_document("Ohne Akte.pdf", b"frei")
    world.espocrm.add_document("Ohne Datei", None, collections=[akte])
    await ticks(world, 2)
    assert len(world.xai.contents(akte)) == 5
    told, effects = len(checks(world)), world.effects()
    await ticks(world, 8)
    assert len(checks(world)) == told
    assert world.effects() == effects
    assert remembered(world).gaps == ()
    await world.stop()


async def test_a_knowledge_base_that_becomes_active_gets_its_documents(world: World) -> None:
    akte = world.xai.add_collection("akte-1")
    base = world.espocrm.add_knowledge("Akte 1", akte, "paused")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[base])
    await ticks(world, 2)
    assert world.xai.contents(akte) == []
    world.espocrm.edit(base, entity="CAIKnowledge", aktivierungsstatus="active")
    await ticks(world, 2)
    assert world.xai.contents(akte) == [b"v1"]
    assert world.espocrm.document(klage)["xaiCollections"] == [akte]


async def test_what_somebody_took_out_of_a_collection_at_xai_comes_back(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await world.told("create", klage)
    world.xai.detach(akte, world.xai.file_ids(akte)[0])
    await ticks(world, 2)
    assert world.xai.contents(akte) == [b"v1"]
    assert len(world.xai.effects("upload")) == 1


# -- the scenarios of the CRM's own mechanics -----------------------------------------------------


@pytest.fixture
async def told(world: World) -> World:
    """Give a world whose CRM has the three webhooks of documents."""
    world.register_webhooks()
    return world


async def passes(world: World, *, minutes: int) -> None:
    """Let time pass with the CRM's job every two minutes."""
    for _ in range(minutes // 2):
        await world.deliver()
        await world.advance(minutes=2)


async def answered(world: World, status: int) -> list[int]:
    """Let the CRM's job post what is due to something that answers so instead of ingest."""

    async def post(_delivery: Delivery) -> int:
        return status

    return [int(done["status"]) for done in await world.espocrm.deliver_pass(post)]


async def test_espo_17_a_batch_that_a_proxy_answered_502_is_lost_and_found(
    told: World,
) -> None:
    world = told
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    assert await answered(world, 502) == [502]
    await passes(world, minutes=30)
    assert world.xai.contents(akte) == [b"v1"]
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert checks(world) == [klage]


async def test_espo_18_changes_arrive_though_the_crm_removed_its_webhook(
    told: World,
) -> None:
    world = told
    akte = world.add_collection("akte-1")
    world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    assert await answered(world, 410) == [410]
    world.espocrm.add_document("Anlage.pdf", b"v2", collections=[akte])
    assert await world.deliver() == []
    await ticks(world, 2)
    assert sorted(world.xai.contents(akte)) == [b"v1", b"v2"]


async def test_espo_25_lists_longer_than_a_page_are_read_to_their_end(world: World) -> None:
    crm = world.espocrm
    documents = [crm.add_document(f"Klage {n}.pdf", b"v%d" % n) for n in range(450)]
    await ticks(world, 1)
    assert sorted(checks(world)) == sorted(documents)
    assert {crm.document(document)["fileStatus"] for document in documents} == {"unchanged"}
    await ticks(world, 1)
    assert len(checks(world)) == 450


async def test_espo_34_both_of_two_saves_in_one_second_are_seen(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v0", collections=[akte])
    await ticks(world, 2)
    # given a tick that reads in the very second of the first save
    due = datetime(2026, 3, 2, 9, 45, tzinfo=UTC)
    await world.advance(seconds=(due - world.host.clock.now()).total_seconds() - 1)
    world.host.clock.move(1)
    world.espocrm.replace_file(klage, b"v1")
    stamp = world.espocrm.document(klage)["modifiedAt"]
    await world.settle()
    assert remembered(world).complete_until == due
    assert remembered(world).watermark == due

    # when the second save has the same stamp
    world.espocrm.replace_file(klage, b"v2", modifiedAt=stamp)
    assert world.espocrm.document(klage)["modifiedAt"] == stamp
    await ticks(world, 2)

    # then it is seen all the same
    assert world.xai.contents(akte) == [b"v2"]


@pytest.mark.slow
async def test_espo_35_a_mass_update_arrives_long_before_its_webhooks(told: World) -> None:
    world, crm = told, told.espocrm
    documents = [
        crm.add_document(f"Klage {n}.pdf", b"v%d" % n, silent=True, fileStatus="unchanged")
        for n in range(1_000)
    ]
    await ticks(world, 1)
    effects = world.effects()
    for document in documents:
        crm.edit(document, fileStatus="geändert")

    # the CRM tells of 20 at each pass, so of 300 within two ticks
    await passes(world, minutes=30)
    assert {crm.document(document)["fileStatus"] for document in documents} == {"unchanged"}
    ours = [effect for effect in world.effects()[len(effects) :] if effect[1] == "update"]
    assert len(ours) >= 1_000

    # and the rest of its telling changes nothing
    effects = world.effects()
    await passes(world, minutes=20)
    assert world.effects() == effects


async def test_espo_37_what_the_crm_gave_up_after_45_minutes_is_repaired_by_the_next_tick(
    told: World,
) -> None:
    world = told
    akte = world.add_collection("akte-1")
    # given that we are away for 45 minutes, all of us
    await world.host.crash(SERVICE)
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    for _ in range(23):
        await answered(world, 0)
        world.host.clock.move(120)
    assert await world.deliver() == []

    # when we are back
    await world.host.start_again(SERVICE, SERVICE)
    await ticks(world, 1)

    # then it is there
    assert world.xai.contents(akte) == [b"v1"]
    assert world.espocrm.document(klage)["fileStatus"] == "synced"


# -- what it remembers ----------------------------------------------------------------------------


async def test_the_watermark_survives_a_restart_and_nothing_before_it_is_listed_again(
    world: World,
) -> None:
    akte = world.add_collection("akte-1")
    for number in range(3):
        world.espocrm.add_document(f"Klage {number}.pdf", b"v%d" % number, collections=[akte])
    await ticks(world, 2)
    before = remembered(world)
    assert before.watermark is not None
    await world.host.restart(SERVICE)
    await ticks(world, 1)
    after = remembered(world)
    assert after.watermark == before.watermark
    assert after.complete_since == before.complete_since
    assert before.complete_until is not None
    assert after.complete_until == before.complete_until + TICK


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_clock_of_the_crm_that_is_wrong_hides_nothing(world: World, hours: int) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    stamp = (world.host.clock.now() + timedelta(hours=hours)).strftime("%Y-%m-%d %H:%M:%S")
    world.espocrm.edit(klage, modifiedAt=stamp)
    await ticks(world, 2)
    assert world.xai.contents(akte) == [b"v1"]
    world.espocrm.replace_file(klage, b"v2")
    await ticks(world, 1)
    assert world.xai.contents(akte) == [b"v2"]


async def test_a_gap_that_stays_is_an_alarm_after_15_minutes_and_told_ever_less_often(
    world: World,
) -> None:
    # given a document whose step does not run
    world.xai.faults.plan("status", status=500, operation="upload", times=None)
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await ticks(world, 1)

    # then its retry stands for it, and no second word is needed
    await ticks(world, 2)
    assert checks(world) == [klage]
    (gap,) = remembered(world).gaps
    assert gap.handling == "waiting"

    # and once it is given up, the dead letter does; nothing tells it again for days
    await world.advance(hours=30)
    assert len(world.host.dead_letters(SERVICE)) == 1
    (gap,) = remembered(world).gaps
    assert gap.handling == "given up"
    assert checks(world) == [klage]
    assert (
        metrics.value(
            "bitbylaw_coverage_gaps", service=SERVICE, entity="document", state="given up"
        )
        == 1
    )

    # but a change of it is news
    world.xai.faults.clear()
    world.espocrm.replace_file(klage, b"v2")
    await ticks(world, 2)
    assert world.xai.contents(akte) == [b"v2"]
    assert remembered(world).gaps == ()


async def test_what_xai_cannot_make_searchable_is_not_told_for_ever(world: World) -> None:
    world.xai.faults.plan("indexing_failed", operation="attach", message="no text", times=None)
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Scan.pdf", b"v1", collections=[akte])
    await world.told("create", klage)
    await world.advance(hours=8)
    assert world.espocrm.document(klage)["fileStatus"] == "failed"
    told, effects = len(checks(world)), world.effects()
    await ticks(world, 8)
    assert len(checks(world)) == told
    assert world.effects() == effects


async def test_lists_that_break_off_conclude_nothing(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await world.told("create", klage)
    await ticks(world, 1)
    until = remembered(world).complete_until
    world.xai.faults.plan("status", status=503, operation="list_documents", times=40)
    await world.advance(minutes=16)
    assert checks(world) == []
    assert remembered(world).complete_until == until
    labels = {"service": SERVICE, "entity": "document"}
    assert until is not None
    complete = metrics.value("bitbylaw_coverage_complete_timestamp_seconds", **labels)
    assert complete == until.timestamp()
    world.xai.faults.clear()
    await ticks(world, 2)
    assert remembered(world).complete_until != until
    assert checks(world) == []


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("moment", range(7))
async def test_whenever_the_process_dies_the_tick_finds_everything_and_writes_it_once(
    world: World, moment: int, *, stored: bool
) -> None:
    # given a process that dies at the moment-th record that it writes in a tick
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    left = moment

    def die(_: Sequence[Outgoing]) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise Died

    await world.advance(minutes=14)
    log = world.host.log
    log.on_append, log.on_stored = (log.on_append, die) if stored else (die, log.on_stored)
    try:
        await ticks(world, 1)
    except Died:
        await world.host.restart(SERVICE)
    # however far it came, the document is there after the next tick at the latest, and once
    await ticks(world, 2)
    assert left < 0
    assert world.xai.contents(akte) == [b"v1"]
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert len(world.xai.effects("upload")) == 1
    assert remembered(world).gaps == ()


async def test_long_work_goes_on_in_parts_under_one_instant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitbylaw_document_sync.surveying.PARTS_AT_ONCE", 2)
    for number in range(6):
        akte = world.add_collection(f"akte-{number}")
        world.espocrm.add_document(f"Klage {number}.pdf", b"v%d" % number, collections=[akte])
    await ticks(world, 1)
    ends = [entry for entry in world.host.journal(FUNCTION) if entry.phase == "end"]
    assert {entry.outcome for entry in ends[:-1]} == {"wait"}
    assert len(ends) > 6
    assert ends[-1].outcome == "done"
    assert len({entry.run_id for entry in ends}) == 1
    await ticks(world, 1)
    assert len(world.xai.files()) == 6


async def test_a_survey_that_died_halfway_begins_anew_under_the_same_instant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitbylaw_document_sync.surveying.PARTS_AT_ONCE", 2)
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    world.host.clock.move(TICK.total_seconds())
    world.xai.faults.plan("status", status=503, operation="list_documents", times=4)
    await world.settle()
    await world.host.restart(SERVICE)
    world.xai.faults.clear()
    await world.advance(minutes=10)
    ends = [entry for entry in world.host.journal(FUNCTION) if entry.phase == "end"]
    assert len({entry.run_id for entry in ends}) == 1
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert checks(world) == [klage]
