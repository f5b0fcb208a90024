"""The document sync whole: webhooks, log, clients, and both other sides as simulators."""

import io
import sys
import unicodedata
from collections.abc import Iterator

import pytest

from bitbylaw_common import logs, topics
from bitbylaw_simulators.espocrm import EspoQuirks
from bitbylaw_simulators.xai import XaiQuirks
from world import World

SERVICE = "document-sync"


async def synced(world: World, content: bytes = b"v1", *collections: str) -> str:
    places = collections or (world.add_collection("akte-1"),)
    klage = world.espocrm.add_document("Klage.pdf", content, collections=places)
    await world.told("create", klage)
    return klage


async def test_xai_06_a_changed_file_takes_the_old_one_s_place(world: World) -> None:
    klage = await synced(world)
    world.espocrm.replace_file(klage, b"v2")
    await world.told("update", klage)
    assert world.xai.contents("akte-1") == [b"v2"]
    assert len(world.xai.files()) == 1
    assert world.espocrm.document(klage)["xaiSyncedHash"] == world.espocrm.document(klage)["md5sum"]


async def test_xai_08_and_09_links_decide_where_it_is(world: World) -> None:
    one, two = world.add_collection("akte-1"), world.add_collection("akte-2")
    klage = await synced(world, b"v1", one)
    world.espocrm.link(klage, two)
    await world.told("update", klage)
    assert world.espocrm.document(klage)["xaiCollections"] == sorted([one, two])
    world.espocrm.unlink(klage, one)
    await world.told("update", klage)
    assert (world.xai.contents(one), world.xai.contents(two)) == ([], [b"v1"])
    assert len(world.xai.effects("upload")) == 1


async def test_xai_11_a_deleted_document_leaves_its_collection(world: World) -> None:
    klage = await synced(world)
    world.espocrm.delete(klage)
    await world.told("delete", klage)
    assert world.xai.contents("akte-1") == []
    assert len(world.xai.files()) == 1
    # and a late word of it brings nothing back
    effects = world.effects()
    await world.told("update", klage)
    assert world.effects() == effects


async def test_xai_14_an_upload_whose_answer_was_lost_is_adopted(world: World) -> None:
    world.xai.faults.plan("reset_after", operation="upload")
    klage = await synced(world)
    assert world.xai.contents("akte-1") == [b"v1"]
    assert len(world.xai.files()) == 1
    assert world.espocrm.document(klage)["fileStatus"] == "synced"


async def test_xai_14_an_upload_that_shows_late_is_not_made_twice(world: World) -> None:
    world.xai.faults.plan("delayed_visibility", operation="upload", seconds=100, answer="reset")
    klage = await synced(world)
    assert world.xai.contents("akte-1") == []
    await world.advance(minutes=30)
    assert world.xai.contents("akte-1") == [b"v1"]
    assert len(world.xai.files()) == 1
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert world.host.dead_letters(SERVICE) == []


async def test_xai_15_and_16_a_worker_killed_anywhere_uploads_once(world: World) -> None:
    collection = world.add_collection("akte-1")
    for number, operation in enumerate(("upload", "attach", "update")):
        side = world.espocrm if operation == "update" else world.xai
        side.faults.plan("reset_after", operation=operation)
        klage = world.espocrm.add_document(
            f"Klage {number}.pdf", b"v%d" % number, collections=[collection]
        )
        await world.told("create", klage)
        await world.host.restart(SERVICE)
        await world.advance(minutes=30)
        assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert world.xai.contents(collection) == [b"v0", b"v1", b"v2"]
    assert len(world.xai.files()) == 3


async def test_xai_17_a_file_deleted_at_xai_comes_back(world: World) -> None:
    klage = await synced(world)
    world.xai.remove_file(world.xai.files()[0].id)
    await world.told("update", klage)
    assert world.xai.contents("akte-1") == [b"v1"]
    assert world.espocrm.document(klage)["xaiId"] == world.xai.file_ids("akte-1")[0]


async def test_xai_18_a_deleted_collection_is_told_and_the_others_are_served(world: World) -> None:
    one, two = world.add_collection("akte-1"), world.add_collection("akte-2")
    world.xai.remove_collection(two)
    klage = await synced(world, b"v1", one, two)
    assert world.xai.contents(one) == [b"v1"]
    assert world.espocrm.document(klage)["xaiCollections"] == [one]
    (letter,) = world.host.dead_letters(SERVICE)
    assert two in letter.reason


@pytest.mark.parametrize("answer", ["200", "409"])
async def test_xai_20_a_double_attach_is_done(answer: str) -> None:
    world = World(xai=XaiQuirks(double_attach=answer))  # type: ignore[arg-type]  # both are options
    await world.start()
    world.xai.faults.plan("reset_after", operation="attach")
    await synced(world)
    await world.advance(minutes=5)
    assert world.xai.contents("akte-1") == [b"v1"]
    await world.stop()


async def test_xai_21_asked_for_patience_it_waits_that_long(world: World) -> None:
    world.xai.faults.plan("rate_limit", operation="upload", retry_after=7)
    klage = await synced(world)
    calls = len(world.xai.requests)
    await world.advance(seconds=6)
    assert len(world.xai.requests) == calls
    await world.advance(seconds=2)
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert len(world.xai.files()) == 1


async def test_xai_22_an_outage_of_ten_minutes_is_sat_out(world: World) -> None:
    world.xai.faults.plan("status", status=503, times=None)
    klage = await synced(world)
    await world.advance(minutes=10)
    world.xai.faults.clear()
    await world.advance(minutes=20)
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert len(world.xai.files()) == 1
    assert world.host.dead_letters(SERVICE) == []


async def test_uploads_that_fail_for_ever_end_among_the_dead_letters(world: World) -> None:
    world.xai.faults.plan("status", status=500, operation="upload", times=None)
    await synced(world)
    await world.advance(hours=12)
    (letter,) = world.host.dead_letters(SERVICE)
    assert "upload" in letter.reason
    assert world.xai.files() == []


async def test_xai_24_what_xai_refuses_is_a_dead_letter_and_the_next_document_goes_on(
    world: World,
) -> None:
    world.xai.faults.plan("status", status=400, operation="upload")
    klage = await synced(world)
    assert len(world.host.dead_letters(SERVICE)) == 1
    assert world.espocrm.document(klage).get("xaiId") is None
    await synced(world, b"a", world.xai.collection_ids()[0])
    assert world.xai.contents("akte-1") == [b"a"]
    assert len(world.host.dead_letters(SERVICE)) == 1


async def test_xai_25_to_27_what_does_not_fit_is_told_and_not_uploaded(world: World) -> None:
    akte = world.add_collection("akte-1")
    empty = world.espocrm.add_document("Leer.pdf", b"", collections=[akte])
    program = world.espocrm.add_document("Setup.exe", b"MZ", collections=[akte])
    large = world.espocrm.add_document("Scan.pdf", bytes(49 * 1024 * 1024), collections=[akte])
    for document in (empty, program, large):
        await world.told("create", document)
    effects = world.effects()
    for document in (empty, program, large):
        await world.told("update", document)
    assert world.effects() == effects
    assert world.xai.effects() == []
    assert world.host.dead_letters(SERVICE) == []


async def test_xai_28_a_difficult_name_stays_readable(world: World) -> None:
    akte = world.add_collection("akte-1")
    name = ('Räumungsklage "Müller/Straße" ' + "überaus " * 40)[:250] + ".pdf"
    klage = world.espocrm.add_document(name, b"v1", collections=[akte])
    world.xai.faults.plan("reset_after", operation="upload")
    await world.told("create", klage)
    (stored,) = world.xai.files()
    assert stored.filename.startswith("Räumungsklage")
    assert stored.filename.endswith(".pdf")
    assert world.espocrm.document(klage)["xaiId"] == stored.id


async def test_xai_29_a_torn_download_is_repeated_and_nothing_torn_is_uploaded(
    world: World,
) -> None:
    world.espocrm.faults.plan("torn", path="/Attachment/file/", share=0.5)
    await synced(world, b"x" * 100_000)
    await world.advance(minutes=5)
    assert world.xai.contents("akte-1") == [b"x" * 100_000]
    assert len(world.xai.effects("upload")) == 1


async def test_xai_37_our_own_write_back_starts_no_loop(world: World) -> None:
    klage = await synced(world)
    effects = world.effects()
    for _ in range(10):
        await world.told("update", klage)
    assert world.effects() == effects


async def test_xai_39_a_paused_knowledge_base_is_left_alone(world: World) -> None:
    akte = world.add_collection("akte-1")
    base = world.espocrm.add_knowledge("Akte 1", akte, "paused")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[base])
    await world.told("create", klage)
    assert world.xai.effects() == []
    world.espocrm.edit(base, entity="CAIKnowledge", aktivierungsstatus="active")
    await world.told("update", klage)
    assert world.xai.contents(akte) == [b"v1"]


@pytest.mark.parametrize("generation", ["seed", "march", "later"])
@pytest.mark.parametrize("locked", [False, True])
async def test_every_generation_of_the_crm_comes_to_rest(generation: str, locked: bool) -> None:
    quirks = EspoQuirks(
        generation=generation,  # type: ignore[arg-type]  # one of the options
        optimistic_locking=("CDokumente",) if locked else (),
        validate_enums=True,
    )
    world = World(espocrm=quirks)
    await world.start()
    klage = await synced(world)
    assert world.xai.contents("akte-1") == [b"v1"]
    world.espocrm.replace_file(klage, b"v2")
    await world.told("update", klage)
    assert world.xai.contents("akte-1") == [b"v2"]
    unlinked = world.espocrm.add_document("Notiz.txt", b"n")
    await world.told("create", unlinked)
    effects = world.effects()
    for document in (klage, unlinked):
        await world.told("update", document)
    assert world.effects() == effects
    assert world.host.dead_letters(SERVICE) == []
    await world.stop()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
async def test_xai_45_the_word_for_changed_is_known_in_every_form(world: World, form: str) -> None:
    klage = await synced(world)
    word = unicodedata.normalize(form, "GEÄNDERT")  # type: ignore[arg-type]  # one of the forms
    world.espocrm.edit(klage, fileStatus=word)
    await world.told("update", klage)
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    assert len(world.xai.effects("upload")) == 1


async def test_a_link_that_the_crm_does_not_have_empties_nothing(world: World) -> None:
    klage = await synced(world)
    other = World(DOCUMENT_COLLECTION_LINKS="gibtEsNicht:datenbankId")
    other.espocrm, other.xai = world.espocrm, world.xai
    other.transport = world.transport
    await other.start()
    await other.told("update", klage)
    (letter,) = other.host.dead_letters(SERVICE)
    assert "DOCUMENT_COLLECTION_LINKS" in letter.reason
    assert world.xai.contents("akte-1") == [b"v1"]
    await other.stop()


async def test_a_file_field_that_the_crm_does_not_have_empties_nothing(world: World) -> None:
    klage = await synced(world)
    other = World(DOCUMENT_FILE_LINK="gibtEsNicht")
    other.transport = world.transport
    await other.start()
    await other.told("update", klage)
    (letter,) = other.host.dead_letters(SERVICE)
    assert "DOCUMENT_FILE_LINK" in letter.reason
    assert world.xai.contents("akte-1") == [b"v1"]
    await other.stop()


async def test_xai_43_replay_of_a_hundred_documents_reads_only(world: World) -> None:
    akte = world.add_collection("akte-1")
    documents = [
        world.espocrm.add_document(f"Klage {n}.pdf", b"v%d" % n, collections=[akte])
        for n in range(100)
    ]
    for document in documents:
        await world.webhook("document", "create", document)
    await world.settle()
    assert len(world.xai.contents(akte)) == 100
    effects, calls = world.effects(), len(world.xai.requests)
    await world.host.restart(SERVICE)
    for document in documents:
        await world.webhook("document", "update", document)
    await world.settle()
    assert world.effects() == effects
    assert len(world.xai.requests) - calls == 200  # the file, and its place in the collection


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything that is logged, down to debug."""
    stream = io.StringIO()
    logs.configure("json", "debug", stream)
    yield stream
    logs.configure("json", "warning", sys.stderr)


async def test_no_name_and_no_byte_of_a_document_is_written_anywhere(
    lines: io.StringIO, world: World
) -> None:
    akte = world.add_collection("akte-1")
    names = ("Mandant Zwiebelfisch.pdf", "Zwiebelfisch gegen Ohrwurm.exe", "Zwiebelfisch.txt")
    for number, name in enumerate(names):
        if number == 2:
            world.xai.faults.plan("status", status=400, operation="upload")
        klage = world.espocrm.add_document(name, b"Zwiebelfisch %d" % number, collections=[akte])
        world.xai.faults.plan("reset_after", operation="attach")
        await world.told("create", klage)
        await world.advance(hours=1)
    assert world.host.dead_letters(SERVICE)
    kinds = (topics.JOURNAL, topics.base(SERVICE), topics.schedule(SERVICE), topics.dlq(SERVICE))
    told = [record for topic in kinds for record in world.host.log.records(topic.name)]
    assert len(told) > 10
    for record in told:
        assert b"Zwiebelfisch" not in (record.value or b"")
        assert not any("Zwiebelfisch" in text for text in record.headers.values())
    assert "run ended" in lines.getvalue()
    assert "Zwiebelfisch" not in lines.getvalue()


async def test_the_journal_tells_what_was_decided_and_done(world: World) -> None:
    klage = await synced(world)
    intents = [entry for entry in world.host.journal(klage) if entry.phase == "intent"]
    (end,) = [entry for entry in world.host.journal(klage) if entry.phase == "end"]
    assert len(intents) == 3  # to upload, to attach what was uploaded, to tell the record
    assert (end.rule, end.outcome) == ("row 4: new document", "done")
    assert [effect.method for effect in end.effects] == [
        "upload_file",
        "add_to_collection",
        "update_entity",
    ]
    assert end.effects[1].target == f"{world.xai.collection_ids()[0]}/{world.xai.files()[0].id}"


async def test_what_the_predecessor_synced_is_adopted_without_a_write(world: World) -> None:
    # given a document with id, hash and collections set, and no base of ours
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte], silent=True)
    file = world.xai.add_file("Klage.pdf", b"v1")
    world.xai.attach(akte, file)
    world.espocrm.edit(
        klage,
        silent=True,
        xaiId=file,
        xaiCollections=[akte],
        xaiSyncedHash=world.espocrm.document(klage)["md5sum"],
        fileStatus="synced",
    )
    before = world.effects()

    # when it is told, and told again after a restart
    await world.told("update", klage)
    await world.host.restart(SERVICE)
    await world.told("update", klage)

    # then nothing is written outside, and the journal says why
    assert world.effects() == before
    first, second = (e for e in world.host.journal(klage) if e.phase == "end")
    assert (first.rule, second.rule) == ("row 5: adopted", "row 5: in line")
    assert [*first.effects, *second.effects] == []
