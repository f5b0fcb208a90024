"""What a plan costs of the brake's budgets."""

from dataclasses import replace
from typing import Any

import pytest

from bitbylaw_common.sync.brake import DELETE, DETACH, OVERWRITE, RECORD, UPLOAD
from bitbylaw_document_sync.domain.model import (
    Action,
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
from bitbylaw_document_sync.domain.spending import cost, done, overwritten, without_deletes
from unit.document_sync.fakes import DIGESTER, START

KEY = DIGESTER.key_id
INTENT = UploadIntent(
    since=START,
    attachment_id="att",
    name="n",
    content="c",
    recorded=None,
    size=2,
    run_id="run",
)
UPLOADED = Upload("att", "Klage.pdf", "application/pdf", 2, "0" * 32, INTENT)
NOTED = WriteBack(((Noted.FILE, "f2"), (Noted.STATUS, Word.SYNCED)))


def base(**changes: Any) -> DocumentBase:
    values = {"key_id": KEY, "written_at": START, "file_id": "f1", "ours": True}
    return DocumentBase.model_validate({**values, **changes})


def sight(known: DocumentBase | None = None, **changes: Any) -> Sight:
    entry = Entry("d1", "att", "Klage", xai_id="f1")
    found = Found(frozenset({"f1"}), frozenset({("f1", "A"), ("f1", "B")}))
    return replace(Sight("d1", entry, known, found, START, "run"), **changes)


def planned(*actions: Action, **more: Any) -> Plan:
    return Plan("rule", "reason", base(), actions, **{"after": base(), **more})


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((), {}),
        ((Attach("f1", "A"),), {RECORD: 1}),
        ((UPLOADED,), {RECORD: 1, UPLOAD: 1, DETACH: 2}),
        ((Detach("f1", "A"), Detach("f1", "B")), {RECORD: 1, DETACH: 2}),
        ((DeleteFile("f1"), DeleteFile("f0")), {RECORD: 1, DELETE: 2}),
        ((NOTED,), {RECORD: 1, OVERWRITE: 1}),
        ((Attach("f2", "A"), NOTED, Detach("f1", "A")), {RECORD: 1, OVERWRITE: 1, DETACH: 1}),
    ],
)
def test_a_plan_costs_what_it_changes(
    actions: tuple[Action, ...], expected: dict[str, int]
) -> None:
    assert cost(planned(*actions), sight(base()), KEY) == expected


def test_a_base_that_says_nothing_any_more_counts_as_overwritten_where_something_changes() -> None:
    lost = sight(base(key_id="another"))
    assert cost(planned(Attach("f1", "A")), lost, KEY) == {RECORD: 1, OVERWRITE: 1}
    assert cost(planned(), lost, KEY) == {}
    assert cost(planned(Attach("f1", "A")), sight(None), KEY) == {RECORD: 1}


def test_without_a_record_nothing_of_it_is_overwritten() -> None:
    assert cost(planned(NOTED), sight(base(), entry=None), KEY) == {RECORD: 1}


def test_what_was_done_is_counted_by_what_was_done() -> None:
    actions = (UPLOADED, Attach("f2", "A"), Detach("f1", "A"), Detach("f1", "B"), NOTED)
    assert done(planned(*actions, DeleteFile("f1"))) == {UPLOAD: 1, DETACH: 2, DELETE: 1}
    assert done(planned()) == {}


def test_only_our_values_that_were_there_are_overwritten() -> None:
    entry = Entry("d1", "att", "Klage", xai_id="f1", synced_hash=None, message="alt")
    back = WriteBack(
        (
            (Noted.FILE, "f2"),
            (Noted.HASH, "0" * 32),
            (Noted.COLLECTIONS, ("A",)),
            (Noted.STATUS, Word.SYNCED),
            (Noted.MESSAGE, "neu"),
        )
    )
    assert overwritten(back, entry) == 1
    full = replace(entry, synced_hash="1" * 32, collections=frozenset({"B"}))
    assert overwritten(back, full) == 3


def test_what_is_not_deleted_now_is_deleted_another_time() -> None:
    after = base(file_id="f2", retired=(Retired(file_id="f9", ours=False),))
    kept = without_deletes(planned(Detach("f1", "A"), DeleteFile("f1"), after=after))
    assert kept.actions == (Detach("f1", "A"),)
    assert kept.after is not None
    assert kept.after.file_id == "f2"
    assert kept.after.ours
    assert kept.after.retired == (
        Retired(file_id="f9", ours=False),
        Retired(file_id="f1", ours=True),
    )


def test_a_file_that_is_kept_for_now_and_was_the_document_s_own_retires() -> None:
    after = base(collections=("A",), content="c", retired=(Retired(file_id="f1", ours=False),))
    kept = without_deletes(planned(DeleteFile("f1"), after=after))
    assert kept.after is not None
    assert (kept.after.file_id, kept.after.ours, kept.after.content) == (None, False, None)
    assert kept.after.retired == (Retired(file_id="f1", ours=True),)
    assert kept.after.collections == ("A",)


def test_a_record_that_is_gone_is_remembered_until_its_file_may_go() -> None:
    gone = Plan("rule", "reason", base(collections=("A",)), (DeleteFile("f1"),), None)
    kept = without_deletes(gone)
    assert kept.actions == ()
    assert kept.after is not None
    assert (kept.after.file_id, kept.after.ours, kept.after.collections) == (None, False, ())
    assert kept.after.retired == (Retired(file_id="f1", ours=True),)


def test_a_plan_without_deletes_stays_as_it_is() -> None:
    decided = planned(Detach("f1", "A"))
    assert without_deletes(decided) is decided
    nothing_known = Plan("rule", "reason", None, (DeleteFile("f1"),), None)
    assert without_deletes(nothing_known) is nothing_known
