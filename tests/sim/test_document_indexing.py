"""Attached is not searchable: what the record says meanwhile, and what becomes of failures."""

import hashlib
from datetime import timedelta
from typing import Any

import blake3
import pytest

from bitbylaw_common.outcomes import Rejected, Skipped, Wait
from bitbylaw_simulators.xai import XaiQuirks
from unit.document_sync.fakes import Bench, Died, md5_of
from world import World

SERVICE = "document-sync"


async def slow_world(**quirks: Any) -> World:
    world = World(xai=XaiQuirks(**quirks))
    await world.start()
    return world


async def told(world: World, content: bytes = b"v1") -> str:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", content, collections=[akte])
    await world.told("create", klage)
    return klage


async def test_xai_34_forty_polls_long_it_is_not_synced_and_nothing_else_waits() -> None:
    world = await slow_world(indexing_by="polls", indexing_stage_polls=10)
    klage = await told(world)
    assert world.espocrm.document(klage)["fileStatus"] == "neu"
    other = world.espocrm.add_document("Ohne.pdf", b"x")
    await world.told("create", other)
    assert world.espocrm.document(other)["fileStatus"] == "unchanged"
    (entry,) = [e for e in world.host.worker(SERVICE).schedule.entries() if e.kind == "wait"]
    assert (entry.attempt, entry.reason) == (0, "xAI makes it searchable")
    await world.advance(hours=3)
    record = world.espocrm.document(klage)
    assert record["fileStatus"] == "synced"
    assert record["xaiSyncedHash"] == record["md5sum"]
    assert len(world.xai.effects("upload")) == 1
    assert len(world.xai.effects("attach")) == 1
    assert world.host.dead_letters(SERVICE) == []
    await world.stop()


async def test_xai_07_the_version_before_stays_until_the_new_one_can_be_found() -> None:
    world = await slow_world(indexing_stage_seconds=10)
    klage = await told(world)
    await world.advance(minutes=2)
    assert world.espocrm.document(klage)["fileStatus"] == "synced"
    world.espocrm.replace_file(klage, b"v2")
    await world.told("update", klage)
    assert sorted(world.xai.contents("akte-1")) == [b"v1", b"v2"]
    await world.advance(seconds=20)
    assert sorted(world.xai.contents("akte-1")) == [b"v1", b"v2"]
    await world.advance(minutes=2)
    assert world.xai.contents("akte-1") == [b"v2"]
    assert len(world.xai.files()) == 1
    await world.stop()


async def test_xai_35_a_status_nobody_knows_is_still_processing_and_ends_some_day(
    world: World,
) -> None:
    world.xai.faults.plan("unknown_status", operation="attach", name="SUMMARIZING")
    klage = await told(world)
    await world.advance(hours=5)
    assert world.espocrm.document(klage)["fileStatus"] == "neu"
    await world.advance(hours=2)
    assert world.espocrm.document(klage)["fileStatus"] == "failed"


async def test_xai_33_failed_indexing_is_told_in_german_and_tried_again_a_few_times(
    world: World,
) -> None:
    world.xai.faults.plan("indexing_failed", operation="attach", message="no text", times=None)
    klage = await told(world)
    record = world.espocrm.document(klage)
    assert record["fileStatus"] == "failed"
    assert "nicht durchsuchbar" in record["syncErrorMessage"]
    assert "no text" in record["syncErrorMessage"]
    await world.advance(days=2)
    assert len(world.xai.effects("attach")) == 3
    assert len(world.xai.effects("upload")) == 1
    (letter,) = world.host.dead_letters(SERVICE)
    assert letter.error == "IndexingFailed"
    # and further events change nothing
    effects = world.effects()
    await world.told("update", klage)
    assert world.effects() == effects


async def test_indexing_that_fails_once_ends_well(world: World) -> None:
    world.xai.faults.plan("indexing_failed", operation="attach")
    klage = await told(world)
    assert world.espocrm.document(klage)["fileStatus"] == "failed"
    await world.advance(minutes=6)
    record = world.espocrm.document(klage)
    assert record["fileStatus"] == "synced"
    assert not record.get("syncErrorMessage")
    assert world.host.dead_letters(SERVICE) == []


async def test_while_the_new_version_cannot_be_indexed_the_one_before_is_found(
    world: World,
) -> None:
    klage = await told(world)
    world.xai.faults.plan("indexing_failed", operation="attach", times=None)
    world.espocrm.replace_file(klage, b"v2")
    await world.told("update", klage)
    await world.advance(days=1)
    assert b"v1" in world.xai.contents("akte-1")
    assert "frühere Fassung" in world.espocrm.document(klage)["syncErrorMessage"]


async def test_a_person_who_sets_it_back_gets_another_try(world: World) -> None:
    world.xai.faults.plan("indexing_failed", operation="attach", times=3)
    klage = await told(world)
    await world.advance(days=1)
    assert len(world.host.dead_letters(SERVICE)) == 1
    world.espocrm.edit(klage, fileStatus="geändert")
    await world.told("update", klage)
    assert world.espocrm.document(klage)["fileStatus"] == "synced"


# -- over small fakes -------------------------------------------------------------------------------


def bench(**quirks: Any) -> Bench:
    made = Bench(**quirks)
    made.xai.add_collection("akte-1", "akte-2")
    made.crm.add("d1", b"erste", "akte-1")
    return made


async def test_a_crm_with_a_word_for_it_shows_that_xai_is_indexing() -> None:
    it = bench()
    it.crm.says_indexing = True
    it.xai.indexing_looks = 3
    outcome = await it.run("d1")
    assert isinstance(outcome, Wait)
    row = it.crm.rows["d1"]
    assert (row.status, row.collections, row.synced_hash) == ("pending_sync", ("akte-1",), None)
    assert row.xai_id in it.xai.files
    await it.settle("d1")
    assert (row.status, row.synced_hash) == ("synced", md5_of(b"erste"))


async def test_what_the_predecessor_synced_is_adopted_without_a_write_and_without_waiting() -> None:
    it = bench()
    row = it.crm.rows["d1"]
    file = it.xai.put("Klage.pdf", b"erste")
    it.xai.collections["akte-1"].append(file)
    it.xai.indexing_looks = 10_000  # xAI makes its index anew
    row.xai_id, row.collections, row.synced_hash = file, ("akte-1",), md5_of(b"erste")
    row.status = "synced"
    assert isinstance(await it.run("d1"), Skipped)
    assert isinstance(await it.run("d1"), Skipped)
    assert it.effects() == (0, 0)


async def test_looking_grows_rarer_the_longer_it_takes() -> None:
    it = bench()
    it.xai.indexing_looks = 10_000
    pauses = []
    for _ in range(12):
        outcome = await it.run("d1")
        assert isinstance(outcome, Wait)
        assert outcome.until is not None
        pauses.append(outcome.after)
        it.advance(outcome.after)
    assert pauses[0] == timedelta(seconds=2)
    assert pauses == sorted(pauses)
    assert pauses[-1] == timedelta(minutes=5)


async def test_xai_36_a_hash_of_other_bytes_is_uploaded_again_once_and_then_failed() -> None:
    it = bench()
    it.xai.reported_hash = blake3.blake3(b"etwas anderes").hexdigest()
    outcome = await it.settle("d1")
    assert isinstance(outcome, Rejected)
    assert outcome.error == "HashDiffers"
    assert it.xai.uploads == [b"erste", b"erste"]
    assert len(it.xai.files) == 1
    assert it.crm.rows["d1"].status == "failed"
    assert any("hash" in event for event, _ in it.log.lines)
    again = await it.run("d1")
    assert isinstance(again, Rejected)
    assert it.xai.uploads == [b"erste", b"erste"]


async def test_xai_36_a_hash_that_is_right_the_second_time_is_the_end_of_it() -> None:
    it = bench()
    it.xai.reported_hash = blake3.blake3(b"etwas anderes").hexdigest()
    it.xai.on_change = lambda: (
        setattr(it.xai, "reported_hash", None) if len(it.xai.uploads) == 2 else None
    )
    await it.settle("d1")
    assert it.crm.rows["d1"].status == "synced"
    assert it.xai.contents("akte-1") == [b"erste"]


async def test_xai_s_hash_may_be_sha_256_as_well() -> None:
    it = bench()
    it.xai.reported_hash = hashlib.sha256(b"erste").hexdigest()
    await it.settle("d1")
    assert it.crm.rows["d1"].status == "synced"
    assert it.xai.uploads == [b"erste"]


async def test_without_a_hash_from_xai_nothing_is_concluded() -> None:
    it = bench()
    await it.settle("d1")
    it.xai.reported_hash = " "
    assert isinstance(await it.run("d1"), Skipped)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("failures", [0, 1])
async def test_a_death_at_any_moment_of_slow_indexing_changes_nothing_in_the_end(
    failures: int, replaced: bool
) -> None:
    async def told() -> Bench:
        it = bench()
        if replaced:
            await it.settle("d1")
            it.crm.replace_file("d1", b"zweite")
        it.xai.indexing_looks, it.xai.indexing_failures = 2, failures
        it.moments.names.clear()
        return it

    whole = await told()
    await whole.settle("d1")
    moments = list(whole.moments.names)
    assert whole.crm.rows["d1"].status == "synced"
    for fatal, moment in enumerate(moments):
        it = await told()
        it.moments.fatal = fatal
        with pytest.raises(Died):
            await it.settle("d1")
        it.restart()
        await it.settle("d1")
        assert it.world() == whole.world(), moment
        assert it.xai.uploads == whole.xai.uploads, moment


# -- refusals ---------------------------------------------------------------------------------------


async def test_bytes_that_xai_refused_are_not_sent_again_at_each_event(world: World) -> None:
    world.xai.faults.plan("status", status=400, operation="upload", times=None)
    klage = await told(world)
    posts = world.calls(world.xai, "upload")
    assert posts == 1
    assert world.espocrm.document(klage)["fileStatus"] == "failed"
    effects = world.effects()
    for _ in range(3):
        await world.advance(hours=1)
        await world.told("update", klage)
    assert world.calls(world.xai, "upload") == posts
    assert world.effects() == effects


async def test_other_bytes_after_a_refusal_are_sent(world: World) -> None:
    world.xai.faults.plan("status", status=400, operation="upload")
    klage = await told(world)
    world.espocrm.replace_file(klage, b"v2")
    await world.told("update", klage)
    assert world.xai.contents("akte-1") == [b"v2"]
    assert world.espocrm.document(klage)["fileStatus"] == "synced"


async def test_a_person_who_sets_the_status_back_has_refused_bytes_sent_again(
    world: World,
) -> None:
    world.xai.faults.plan("status", status=400, operation="upload")
    klage = await told(world)
    world.espocrm.edit(klage, fileStatus="geändert")
    await world.told("update", klage)
    assert world.xai.contents("akte-1") == [b"v1"]


@pytest.mark.parametrize("status", [413, 415])
async def test_too_large_or_not_supported_in_xai_s_judgement_is_unsupported(
    world: World, status: int
) -> None:
    world.xai.faults.plan("status", status=status, operation="upload", times=None)
    klage = await told(world)
    assert world.espocrm.document(klage)["fileStatus"] in ("unsupported", "failed")
    await world.told("update", klage)
    assert world.calls(world.xai, "upload") == 1
