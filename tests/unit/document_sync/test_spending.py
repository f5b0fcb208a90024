"""What a plan costs of the brake's budgets, and what it can do without."""

from dataclasses import replace
from datetime import timedelta

from bitbylaw_common.sync.brake import DELETE, DETACH, OVERWRITE, RECORD, UPLOAD
from bitbylaw_document_sync.domain.model import (
    Attach,
    DeleteFile,
    Detach,
    DocumentBase,
    Entry,
    Found,
    Noted,
    Plan,
    Retired,
    Sight,
    Upload,
    UploadIntent,
    Word,
    WriteBack,
)
from bitbylaw_document_sync.domain.planner import Policy, plan
from bitbylaw_document_sync.domain.spending import cost, done, without_deletes
from unit.document_sync.fakes import DIGESTER, START, md5_of

KEY = DIGESTER.key_id
MD5 = md5_of(b"v1")
BASE = DocumentBase(
    key_id=KEY, written_at=START, file_id="f1", ours=True, collections=("A",), content="c"
)
ENTRY = Entry(
    "d1", "att", "Klage", xai_id="f1", collections=frozenset("A"), synced_hash=MD5, fresh=True
)
FOUND = Found(frozenset({"f1"}), frozenset({("f1", "A"), ("f1", "B")}))
SIGHT = Sight("d1", ENTRY, BASE, FOUND, START)
INTENT = UploadIntent(since=START, attachment_id="att", name="n", content="c", size=2)
UPLOADS = Upload("att", "Klage.pdf", "application/pdf", 2, MD5, INTENT)


def doing(*actions: object) -> Plan:
    return Plan("rule", "reason", BASE, tuple(actions), BASE)  # type: ignore[arg-type]  # of a test's making


def test_doing_nothing_costs_nothing() -> None:
    assert cost(doing(), SIGHT, KEY) == {}


def test_an_upload_costs_the_detaches_that_must_follow_it() -> None:
    assert cost(doing(UPLOADS), SIGHT, KEY) == {RECORD: 1, UPLOAD: 1, DETACH: 2}
    assert done(doing(UPLOADS)) == {UPLOAD: 1}


def test_what_was_empty_is_not_overwritten_and_a_status_is_no_value() -> None:
    first = WriteBack(((Noted.FILE, "f2"), (Noted.HASH, MD5), (Noted.STATUS, Word.SYNCED)))
    assert cost(doing(first), SIGHT, KEY) == {RECORD: 1, OVERWRITE: 2}
    new = Sight("d1", Entry("d1", "att", "Klage"), BASE, FOUND, START)
    assert cost(doing(first), new, KEY) == {RECORD: 1}


def test_a_base_that_another_key_made_counts_as_overwritten_once_anything_is_changed() -> None:
    assert cost(doing(Attach("f1", "C")), SIGHT, "another") == {RECORD: 1, OVERWRITE: 1}
    assert cost(doing(), SIGHT, "another") == {}


def test_without_its_deletes_a_plan_keeps_the_files_to_be_deleted_later() -> None:
    whole = doing(Attach("f2", "A"), Detach("f1", "A"), DeleteFile("f1"))
    kept = without_deletes(whole)
    assert kept.actions == (Attach("f2", "A"), Detach("f1", "A"))
    assert kept.after is not None
    assert kept.after.retired == (Retired(file_id="f1", ours=True),)
    assert kept.after.file_id is None
    assert cost(kept, SIGHT, KEY) == {RECORD: 1, DETACH: 1}
    assert cost(whole, SIGHT, KEY)[DELETE] == 1


def test_a_plan_without_deletes_is_the_same_without_them() -> None:
    whole = doing(Detach("f1", "A"))
    assert without_deletes(whole) == whole
    forgetting = replace(whole, after=None)
    assert without_deletes(forgetting) == forgetting


def test_the_document_keeps_its_file_where_only_an_earlier_one_s_deletion_is_put_off() -> None:
    others = (Retired(file_id="f8", ours=True), Retired(file_id="f0", ours=True))
    after = BASE.model_copy(update={"retired": others, "collections": ("B",)})
    kept = without_deletes(replace(doing(DeleteFile("f0")), after=after))
    assert kept.after == after
    assert kept.actions == ()


def test_a_file_whose_deletion_is_put_off_is_not_the_document_s_any_more() -> None:
    kept = without_deletes(doing(DeleteFile("f1")))
    assert kept.after == BASE.model_copy(
        update={
            "file_id": None,
            "ours": False,
            "content": None,
            "retired": (Retired(file_id="f1", ours=True),),
        }
    )


def test_of_a_record_that_is_gone_only_the_files_still_to_be_deleted_are_remembered() -> None:
    known = BASE.model_copy(update={"retired": (Retired(file_id="f0", ours=True),)})
    whole = replace(doing(Detach("f1", "A"), DeleteFile("f0")), before=known, after=None)
    kept = without_deletes(whole)
    assert kept.after == DocumentBase(
        key_id=KEY, written_at=START, retired=(Retired(file_id="f0", ours=True),)
    )


def test_what_was_put_off_for_a_record_that_is_gone_is_all_that_is_left_to_do() -> None:
    policy = Policy(DIGESTER, timedelta(seconds=180), delete_files=True)
    gone = Sight("d1", None, BASE, FOUND, START, sharers=())
    whole = plan(gone, policy)
    assert isinstance(whole, Plan)
    assert whole.after is None
    kept = without_deletes(whole)
    later = Sight("d1", None, kept.after, Found(frozenset({"f1"})), START, sharers=())
    rest = plan(later, policy)
    assert isinstance(rest, Plan)
    assert rest.actions == (DeleteFile("f1"),)
    assert rest.after is None
