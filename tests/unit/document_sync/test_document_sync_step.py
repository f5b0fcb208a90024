"""The scenarios of the document sync over fakes of its ports; numbers as in the domain's list."""

from datetime import timedelta

import pytest

from bitbylaw_common.errors import Invalid, RateLimited, Transient
from bitbylaw_common.outcomes import Done, Rejected, Retry, Skipped, Wait
from bitbylaw_common.runtime.context import Context
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.model import DocumentBase, Plan, Sight
from bitbylaw_document_sync.steps import document_sync_event_step
from unit.document_sync.fakes import Bench, Died, md5_of


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.xai.add_collection("akte-1", "akte-2", "akte-3")
    return bench


async def in_line(bench: Bench, content: bytes = b"Klage, erste Fassung") -> str:
    bench.crm.add("d1", content, "akte-1")
    assert isinstance(await bench.run("d1", "create"), Done)
    return "d1"


async def test_xai_01_a_new_document_is_uploaded_attached_and_written_back(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1")
    assert await bench.run("d1", "create") == Done("1 uploaded, 1 attached, EspoCRM told")
    row = bench.crm.rows["d1"]
    assert bench.xai.contents("akte-1") == [b"Klage"]
    assert row.xai_id == bench.xai.collections["akte-1"][0]
    assert (row.collections, row.synced_hash, row.status) == (
        ("akte-1",),
        md5_of(b"Klage"),
        "synced",
    )
    assert bench.facts.rule == "row 4: new document"
    assert [effect.method for effect in bench.facts.effects] == [
        "upload_file",
        "add_to_collection",
        "update_entity",
    ]


async def test_xai_02_three_collections_share_one_upload(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1", "akte-2", "akte-3")
    await bench.run("d1")
    assert len(bench.xai.uploads) == 1
    assert [bench.xai.contents(c) for c in ("akte-1", "akte-2", "akte-3")] == [[b"Klage"]] * 3


async def test_xai_03_without_a_collection_xai_hears_nothing(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage")
    await bench.run("d1")
    assert bench.xai.calls == []
    assert bench.crm.rows["d1"].status == "unchanged"
    assert isinstance(await bench.run("d1"), Skipped)


async def test_xai_04_the_same_event_five_times_is_one_upload(bench: Bench) -> None:
    await in_line(bench)
    effects, bases = bench.effects(), bench.base_writes
    for _ in range(4):
        assert isinstance(await bench.run("d1", "create"), Skipped)
    assert (bench.effects(), bench.base_writes) == (effects, bases)


async def test_xai_05_told_as_changed_with_the_same_bytes_only_the_status_moves(
    bench: Bench,
) -> None:
    await in_line(bench)
    bench.crm.replace_file("d1", b"Klage, erste Fassung")
    calls = list(bench.xai.calls)
    assert await bench.run("d1") == Done("EspoCRM told")
    assert bench.facts.rule == "row 6: same bytes"
    assert bench.xai.calls == calls
    assert bench.crm.rows["d1"].status == "synced"


async def test_xai_06_other_bytes_take_the_old_ones_place(bench: Bench) -> None:
    await in_line(bench)
    bench.crm.replace_file("d1", b"zweite Fassung")
    await bench.run("d1")
    assert bench.xai.contents("akte-1") == [b"zweite Fassung"]
    assert [stored.content for stored in bench.xai.files.values()] == [b"zweite Fassung"]
    assert bench.crm.rows["d1"].synced_hash == md5_of(b"zweite Fassung")
    assert bench.facts.rule == "row 7: other bytes"


async def test_xai_07_at_every_moment_one_version_is_attached(bench: Bench) -> None:
    await in_line(bench)
    bench.crm.replace_file("d1", b"zweite Fassung")
    seen: list[list[bytes]] = []
    bench.xai.on_change = lambda: seen.append(bench.xai.contents("akte-1"))
    await bench.run("d1")
    assert len(seen) == 4
    assert all(seen)


async def test_xai_08_a_further_collection_is_one_attach(bench: Bench) -> None:
    await in_line(bench)
    bench.crm.rows["d1"].links.add("akte-2")
    before = list(bench.xai.calls)
    await bench.run("d1")
    assert bench.xai.calls[len(before) :] == ["attach akte-2"]
    assert bench.crm.rows["d1"].collections == ("akte-1", "akte-2")


async def test_xai_09_unlinked_from_one_of_two_is_one_detach(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1", "akte-2")
    await bench.run("d1")
    bench.crm.rows["d1"].links.discard("akte-2")
    before = list(bench.xai.calls)
    await bench.run("d1")
    assert bench.xai.calls[len(before) :] == ["detach akte-2"]
    assert len(bench.xai.files) == 1


async def test_xai_10_unlinked_from_all_keeps_the_file(bench: Bench) -> None:
    await in_line(bench)
    bench.crm.rows["d1"].links.clear()
    await bench.run("d1")
    assert bench.xai.contents("akte-1") == []
    assert bench.crm.rows["d1"].collections == ()
    assert len(bench.xai.files) == 1
    # and linked again it needs no second upload
    bench.crm.rows["d1"].links.add("akte-2")
    await bench.run("d1")
    assert bench.xai.contents("akte-2") == [b"Klage, erste Fassung"]
    assert len(bench.xai.uploads) == 1


async def test_unlinked_from_all_deletes_the_file_where_the_firm_wants_that() -> None:
    bench = Bench(delete_files=True)
    bench.xai.add_collection("akte-1")
    await in_line(bench)
    bench.crm.rows["d1"].links.clear()
    await bench.run("d1")
    assert bench.xai.files == {}
    assert (bench.crm.rows["d1"].xai_id, bench.crm.rows["d1"].synced_hash) == (None, None)
    assert isinstance(await bench.run("d1"), Skipped)


@pytest.mark.parametrize("delete_files", [False, True])
async def test_xai_11_a_deleted_record_leaves_every_collection(delete_files: bool) -> None:
    bench = Bench(delete_files=delete_files)
    bench.xai.add_collection("akte-1", "akte-2")
    bench.crm.add("d1", b"Klage", "akte-1", "akte-2")
    await bench.run("d1")
    del bench.crm.rows["d1"]
    await bench.run("d1", "delete")
    assert bench.xai.contents("akte-1") == bench.xai.contents("akte-2") == []
    assert len(bench.xai.files) == (0 if delete_files else 1)
    assert bench.bases == {}


async def test_xai_12_and_13_what_is_unknown_or_deleted_stays_away(bench: Bench) -> None:
    assert isinstance(await bench.run("d9", "delete"), Skipped)
    await in_line(bench)
    del bench.crm.rows["d1"]
    await bench.run("d1", "delete")
    calls = list(bench.xai.calls)
    assert isinstance(await bench.run("d1", "update"), Skipped)
    assert (bench.xai.calls, bench.base_writes) == (calls, bench.base_writes)


def lose_the_answer(bench: Bench, times: int = 1) -> None:
    """Let uploads be stored and their answers be lost."""
    left = [times]

    def trouble(moment: str) -> None:
        if moment == "after upload" and left[0]:
            left[0] -= 1
            raise Transient("xai", "upload_file", ambiguous=True)

    bench.moments.trouble = trouble


async def test_xai_14_an_upload_whose_answer_was_lost_is_found_at_once(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1")
    lose_the_answer(bench)
    assert isinstance(await bench.run("d1"), Done)
    assert bench.xai.uploads == [b"Klage"]
    assert bench.xai.contents("akte-1") == [b"Klage"]


async def test_xai_14_an_upload_that_shows_late_is_waited_for(bench: Bench) -> None:
    bench.xai.visible_after = timedelta(seconds=90)
    bench.crm.add("d1", b"Klage", "akte-1")
    lose_the_answer(bench)
    outcome = await bench.run("d1")
    assert isinstance(outcome, Retry)
    assert outcome.not_before == timedelta(seconds=180)
    bench.advance(timedelta(seconds=100))
    assert isinstance(await bench.run("d1"), Done)
    assert bench.xai.uploads == [b"Klage"]


async def test_an_upload_that_never_happened_is_repeated_after_the_settling_time(
    bench: Bench,
) -> None:
    bench.crm.add("d1", b"Klage", "akte-1")
    bench.moments.fatal = 2  # after the intent, before the upload
    with pytest.raises(Died, match="before upload"):
        await bench.run("d1")
    bench.restart()
    outcome = await bench.run("d1")
    assert isinstance(outcome, Wait)
    assert outcome.after == timedelta(seconds=180)
    assert bench.facts.rule == "upload's fate unknown"
    bench.advance(timedelta(seconds=180))
    assert isinstance(await bench.run("d1"), Done)
    assert bench.xai.uploads == [b"Klage"]


async def test_an_upload_that_keeps_losing_answers_uses_attempts_up(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1")
    bench.xai.refuse = Transient("xai", "upload_file", status=500, ambiguous=True)
    assert isinstance(await bench.run("d1"), Retry)


async def test_a_file_with_equal_name_and_bytes_of_another_record_is_not_taken(
    bench: Bench,
) -> None:
    bench.crm.add("d1", b"Klage", "akte-1")
    bench.crm.add("d2", b"Klage", "akte-2")
    await bench.run("d2")
    bench.moments.names.clear()
    bench.moments.fatal = 2
    with pytest.raises(Died, match="before upload"):
        await bench.run("d1")
    bench.restart()
    assert isinstance(await bench.settle("d1"), Done)
    assert bench.crm.rows["d1"].xai_id != bench.crm.rows["d2"].xai_id
    assert len(bench.xai.uploads) == 2


async def test_xai_17_a_file_that_vanished_at_xai_is_uploaded_again(bench: Bench) -> None:
    await in_line(bench)
    bench.xai.files.clear()
    bench.xai.collections["akte-1"].clear()
    await bench.run("d1")
    assert bench.facts.rule == "row 11: file gone"
    assert bench.xai.contents("akte-1") == [b"Klage, erste Fassung"]
    assert bench.crm.rows["d1"].xai_id == bench.xai.collections["akte-1"][0]


async def test_xai_18_a_deleted_collection_does_not_hold_up_the_others(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1", "weg")
    outcome = await bench.run("d1")
    assert isinstance(outcome, Rejected)
    assert "weg" in outcome.reason
    assert bench.xai.contents("akte-1") == [b"Klage"]
    row = bench.crm.rows["d1"]
    assert (row.status, row.collections) == ("failed", ("akte-1",))
    assert row.message is not None
    assert "weg" in row.message
    # told again it writes nothing; repaired, it is in line and says so
    effects = bench.effects()
    assert isinstance(await bench.run("d1"), Rejected)
    assert bench.effects() == effects
    bench.xai.add_collection("weg")
    assert isinstance(await bench.run("d1"), Done)
    repaired = bench.crm.rows["d1"]
    assert (repaired.status, repaired.message) == ("synced", None)
    assert repaired.collections == ("akte-1", "weg")


async def test_a_document_only_in_a_deleted_collection_is_not_uploaded(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "weg")
    assert isinstance(await bench.run("d1"), Rejected)
    assert bench.xai.uploads == []


async def test_xai_21_asked_for_patience_nothing_is_pending(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1")
    bench.xai.refuse = RateLimited("xai", "upload_file", retry_after=timedelta(seconds=7))
    with pytest.raises(RateLimited):
        await bench.run("d1")
    bench.xai.refuse = None
    assert isinstance(await bench.run("d1"), Done)
    assert len(bench.xai.uploads) == 1


async def test_xai_24_what_xai_refuses_is_rejected_and_the_record_says_so(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1")
    bench.xai.refuse = Invalid("xai", "upload_file", status=400, detail="INVALID_ARGUMENT")
    outcome = await bench.run("d1")
    assert isinstance(outcome, Rejected)
    assert bench.crm.rows["d1"].status == "failed"
    assert bench.crm.rows["d1"].message is not None
    assert "400" in bench.crm.rows["d1"].message
    effects = bench.effects()
    assert isinstance(await bench.run("d1"), Rejected)
    assert bench.effects() == effects


async def test_xai_26_and_27_empty_and_unsupported_files_are_told_once(bench: Bench) -> None:
    bench.crm.add("leer", b"", "akte-1")
    bench.crm.add("programm", b"MZ", "akte-1", name="Setup.EXE")
    for document in ("leer", "programm"):
        assert isinstance(await bench.run(document), Done)
        assert bench.crm.rows[document].status == "unsupported"
        assert isinstance(await bench.run(document), Skipped)
    assert bench.xai.calls == []


async def test_an_unsupported_successor_leaves_the_earlier_version_where_it_is(
    bench: Bench,
) -> None:
    await in_line(bench)
    bench.crm.replace_file("d1", b"MZ", name="Klage.zip")
    bench.crm.rows["d1"].links.add("akte-2")
    await bench.run("d1")
    assert bench.xai.contents("akte-1") == bench.xai.contents("akte-2")
    assert bench.xai.contents("akte-1") == [b"Klage, erste Fassung"]
    assert bench.crm.rows["d1"].status == "unsupported"
    assert "frühere" in (bench.crm.rows["d1"].message or "")
    assert isinstance(await bench.run("d1"), Skipped)
    # and a readable one takes its place
    bench.crm.replace_file("d1", b"dritte Fassung")
    await bench.run("d1")
    assert bench.xai.contents("akte-1") == bench.xai.contents("akte-2") == [b"dritte Fassung"]
    assert (bench.crm.rows["d1"].status, bench.crm.rows["d1"].message) == ("synced", None)


async def test_xai_29_a_torn_download_uploads_nothing(bench: Bench) -> None:
    bench.crm.add("d1", b"eine laengere Klage", "akte-1")
    bench.crm.torn_downloads = 1
    with pytest.raises(Transient):
        await bench.run("d1")
    assert bench.xai.uploads == []
    assert isinstance(await bench.run("d1"), Done)
    assert bench.xai.uploads == [b"eine laengere Klage"]


async def test_row_13_bytes_that_are_not_what_the_record_says_count(bench: Bench) -> None:
    bench.crm.add("d1", b"die wahren Bytes", "akte-1")
    bench.crm.rows["d1"].md5 = md5_of(b"andere")
    assert isinstance(await bench.run("d1"), Done)
    assert bench.xai.uploads == [b"die wahren Bytes"]
    assert bench.crm.rows["d1"].synced_hash == md5_of(b"die wahren Bytes")
    assert any("not the ones" in line for line, _ in bench.log.lines)
    # and the wrong word of the record starts no loop
    effects = bench.effects()
    assert isinstance(await bench.run("d1"), Skipped)
    assert bench.effects() == effects


async def test_xai_30_a_record_that_changes_while_we_upload_ends_with_the_newest_bytes(
    bench: Bench,
) -> None:
    bench.crm.add("d1", b"erste", "akte-1")
    changed = [False]

    def edit(moment: str) -> None:
        if moment == "after upload" and not changed[0]:
            changed[0] = True
            bench.crm.replace_file("d1", b"zweite")

    bench.moments.trouble = edit
    await bench.run("d1")
    await bench.run("d1")
    assert bench.xai.contents("akte-1") == [b"zweite"]
    assert [stored.content for stored in bench.xai.files.values()] == [b"zweite"]
    assert bench.crm.rows["d1"].synced_hash == md5_of(b"zweite")


async def test_a_record_that_never_stands_still_is_looked_at_later(bench: Bench) -> None:
    await in_line(bench)

    def edit(moment: str) -> None:
        if moment == "before write_back":
            bench.crm.rows["d1"].version += 1

    bench.moments.trouble = edit
    bench.crm.rows["d1"].links.add("akte-2")
    assert isinstance(await bench.run("d1"), Retry)


async def test_xai_37_our_own_write_back_plans_nothing(bench: Bench) -> None:
    await in_line(bench)
    effects, bases = bench.effects(), bench.base_writes
    for _ in range(10):
        assert isinstance(await bench.run("d1"), Skipped)
    assert (bench.effects(), bench.base_writes) == (effects, bases)


async def test_xai_39_a_paused_collection_is_left_as_it_is(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1", "akte-2")
    bench.crm.paused.add("akte-2")
    await bench.run("d1")
    assert (bench.xai.contents("akte-1"), bench.xai.contents("akte-2")) == ([b"Klage"], [])
    bench.crm.paused = {"akte-1"}
    assert isinstance(await bench.run("d1"), Done)
    assert (bench.xai.contents("akte-1"), bench.xai.contents("akte-2")) == ([b"Klage"], [b"Klage"])
    bench.crm.replace_file("d1", b"neu")
    await bench.run("d1")
    assert (bench.xai.contents("akte-1"), bench.xai.contents("akte-2")) == ([b"Klage"], [b"neu"])
    bench.crm.paused.clear()
    await bench.run("d1")
    assert (bench.xai.contents("akte-1"), bench.xai.contents("akte-2")) == ([b"neu"], [b"neu"])
    assert len(bench.xai.files) == 1


async def test_what_the_predecessor_synced_is_adopted_without_a_write(bench: Bench) -> None:
    bench.crm.add("d1", b"Klage", "akte-1")
    file_id = bench.xai.put("Klage.pdf", b"Klage")
    bench.xai.collections["akte-1"].append(file_id)
    row = bench.crm.rows["d1"]
    row.xai_id, row.collections, row.synced_hash = file_id, ("akte-1",), md5_of(b"Klage")
    row.status = "synced"
    assert isinstance(await bench.run("d1"), Skipped)
    assert bench.facts.rule == "row 5: adopted"
    assert (bench.effects(), bench.base_writes) == ((0, 0), 1)
    base = DocumentBase.from_bytes(bench.bases["d1"])
    assert (base.file_id, base.ours, base.collections) == (file_id, False, ("akte-1",))
    # a replaced file that we did not upload is detached, never deleted
    bench.crm.replace_file("d1", b"zweite")
    await bench.run("d1")
    assert bench.xai.contents("akte-1") == [b"zweite"]
    assert file_id in bench.xai.files


async def test_a_file_that_a_copied_record_notes_too_stays_where_that_one_needs_it(
    bench: Bench,
) -> None:
    await in_line(bench)
    row = bench.crm.rows["d1"]
    bench.crm.add("kopie", b"Klage, erste Fassung", "akte-1")
    copy = bench.crm.rows["kopie"]
    copy.xai_id, copy.collections, copy.synced_hash = row.xai_id, row.collections, row.synced_hash
    copy.status = "synced"
    assert isinstance(await bench.run("kopie"), Skipped)
    bench.crm.replace_file("d1", b"zweite")
    await bench.run("d1")
    assert sorted(bench.xai.contents("akte-1")) == [b"Klage, erste Fassung", b"zweite"]
    assert copy.xai_id in bench.xai.files


async def test_xai_43_replay_reads_only(bench: Bench) -> None:
    for number in range(20):
        bench.crm.add(f"d{number}", b"Klage %d" % number, "akte-1")
        await bench.run(f"d{number}")
    effects, bases = bench.effects(), bench.base_writes
    bench.restart()
    for number in range(20):
        await bench.run(f"d{number}")
    assert (bench.effects(), bench.base_writes) == (effects, bases)


async def test_without_a_hash_in_the_record_the_bytes_are_read_once_to_decide(
    bench: Bench,
) -> None:
    bench.crm.knows_md5 = False
    await in_line(bench)
    assert bench.crm.rows["d1"].synced_hash == md5_of(b"Klage, erste Fassung")
    downloads = bench.crm.downloads
    assert isinstance(await bench.run("d1"), Skipped)
    assert bench.crm.downloads == downloads
    bench.crm.replace_file("d1", b"Klage, erste Fassung")
    assert await bench.run("d1") == Done("EspoCRM told")
    assert len(bench.xai.uploads) == 1


async def test_a_file_taken_away_from_the_record_leaves_the_collections(bench: Bench) -> None:
    await in_line(bench)
    bench.crm.rows["d1"].attachment_id = bench.crm.rows["d1"].md5 = None
    await bench.run("d1")
    assert bench.facts.rule == "row 2: file taken away"
    assert bench.xai.contents("akte-1") == []


async def test_a_record_without_a_file_is_skipped(bench: Bench) -> None:
    bench.crm.add("d1", None, "akte-1")
    await bench.run("d1")
    assert bench.crm.rows["d1"].status == "failed"
    assert isinstance(await bench.run("d1"), Skipped)
    assert bench.xai.calls == []


async def test_neither_base_nor_journal_nor_log_holds_names_or_bytes_in_the_clear(
    bench: Bench,
) -> None:
    bench.crm.add("d1", b"Geheimnis des Mandanten", "akte-1", name="Mandant Meier.pdf")
    bench.moments.fatal = 2
    with pytest.raises(Died, match="before upload"):
        await bench.run("d1")
    pending = bench.bases["d1"]
    bench.restart()
    await bench.settle("d1")
    told = [pending, bench.bases["d1"], repr(bench.log.lines).encode()]
    told += [effect.model_dump_json().encode() for effect in bench.facts.effects]
    for text in told:
        assert b"Meier" not in text
        assert b"Geheimnis" not in text
        assert md5_of(b"Geheimnis des Mandanten").encode() not in text


async def test_a_file_that_another_document_of_this_process_has_is_not_taken(
    bench: Bench,
) -> None:
    # given a document whose file EspoCRM does not know of yet
    bench.crm.add("d2", b"Klage", "akte-2")

    def unreachable(moment: str) -> None:
        if moment == "before write_back":
            raise Transient("espocrm", "update_entity", status=503)

    bench.moments.trouble = unreachable
    with pytest.raises(Transient):
        await bench.run("d2")

    # when another with the same name and bytes loses an answer, and nothing was stored
    bench.crm.add("d1", b"Klage", "akte-1")
    bench.moments.trouble = None
    bench.xai.refuse = Transient("xai", "upload_file", ambiguous=True)
    outcome = await bench.run("d1")

    # then it does not take the first one's file, but makes its own
    assert isinstance(outcome, Retry)
    bench.xai.refuse = None
    await bench.settle("d1")
    await bench.settle("d2")
    assert bench.crm.rows["d1"].xai_id != bench.crm.rows["d2"].xai_id
    assert len(bench.xai.uploads) == 2


async def test_a_plan_without_an_end_is_a_bug_and_no_run_without_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    async def never_done(sight: Sight, ctx: Context[Deps]) -> tuple[Plan, Sight]:
        nonlocal rounds
        rounds += 1
        return Plan("row 0: again", "there is always more", sight.base, (), more=True), sight

    monkeypatch.setattr(document_sync_event_step, "decided", never_done)
    bench.crm.add("d1", b"Klage", "akte-1")
    with pytest.raises(AssertionError, match="no end: row 0: again"):
        await bench.run("d1", "create")
    assert rounds <= 50
