"""What a plan tells people: when something is over, what goes first, and what the base learns."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bitbylaw_common.outcomes import Rejected, Wait
from bitbylaw_document_sync.domain.announcing import announced
from bitbylaw_document_sync.domain.model import (
    Attach,
    Clash,
    Detach,
    DocumentBase,
    Entry,
    Found,
    Noted,
    Plan,
    Sight,
    Upload,
    UploadIntent,
    WriteBack,
)
from bitbylaw_document_sync.domain.notices import CloseTask, Kind, Notify, Told, Trouble
from unit.document_sync.fakes import DIGESTER, START, md5_of

KEY = DIGESTER.key_id
EMPTY = Trouble(Kind.EMPTY, "leer")
MISSING = Trouble(Kind.COLLECTION_MISSING, "weg")
ENTRY = Entry("d1", "att", xai_id="f1", collections=frozenset("BA"), assigned_to="anna")
INTENT = UploadIntent(since=START, attachment_id="att", name="n", content="c", size=2)
UPLOADS = Upload("att", "Klage.pdf", "application/pdf", 2, md5_of(b"v1"), INTENT)


def base(*told: Trouble, **more: Any) -> DocumentBase:
    known = tuple(Told(kind=one.kind, means=one.means, since=START) for one in told)
    return DocumentBase(key_id=KEY, written_at=START, told=known, **more)


def sight(known: DocumentBase | None, entry: Entry | None = ENTRY) -> Sight:
    return Sight("d1", entry, known, Found(), START + timedelta(days=1))


def doing(known: DocumentBase | None, *actions: Any, **more: Any) -> Plan:
    return Plan("rule", "reason", known, actions, known, **more)


def told(plan: Plan, seen: Sight, **more: Any) -> Plan:
    return announced(plan, seen, to="office", key_id=KEY, **more)


def kinds(known: DocumentBase | None) -> list[str]:
    assert known is not None
    return [one.kind for one in known.told]


@pytest.mark.parametrize(
    "unfinished",
    [
        doing(base(MISSING), UPLOADS),
        doing(base(MISSING), more=True),
        doing(base(MISSING), ending=Wait("xAI makes it searchable", timedelta(seconds=2))),
    ],
    ids=["uploads", "goes on", "waits"],
)
def test_a_plan_that_is_not_the_last_word_ends_no_trouble(unfinished: Plan) -> None:
    assert told(unfinished, sight(base(MISSING))) == unfinished


@pytest.mark.parametrize("ending", [None, Rejected("refused")])
def test_the_last_word_completes_the_tasks_of_what_is_over(ending: Rejected | None) -> None:
    known = base(MISSING)
    decided = told(doing(known, Detach("f1", "A"), ending=ending), sight(known))
    assert decided.actions == (Detach("f1", "A"), CloseTask(Kind.COLLECTION_MISSING))
    assert kinds(decided.after) == []


def test_who_asks_may_say_that_a_plan_is_not_the_last_word() -> None:
    known = base(MISSING)
    assert told(doing(known), sight(known), conclusive=False) == doing(known)


def test_a_person_is_told_before_the_record_is_written_and_after_what_comes_before_that() -> None:
    known = base()
    back = WriteBack(((Noted.HASH, "aa"),))
    decided = told(doing(known, Detach("f1", "A"), back, troubles=(EMPTY,)), sight(known))
    assert decided.actions == (Detach("f1", "A"), Notify(EMPTY, "anna"), back)


def test_where_nothing_is_written_a_person_is_told_at_the_end() -> None:
    known = base()
    decided = told(doing(known, Attach("f1", "A"), troubles=(EMPTY,)), sight(known))
    assert decided.actions == (Attach("f1", "A"), Notify(EMPTY, "anna"))


def test_a_message_is_in_the_base_ahead_and_a_task_only_once_it_is_there() -> None:
    known = base()
    decided = told(doing(known, troubles=(EMPTY, MISSING)), sight(known))
    assert kinds(decided.before) == [Kind.EMPTY]
    assert kinds(decided.after) == [Kind.EMPTY, Kind.COLLECTION_MISSING]


def test_what_the_plan_leaves_in_the_base_stays_in_it() -> None:
    plan = replace(
        doing(base(), troubles=(EMPTY,)),
        before=base(collections=("A", "B")),
        after=base(collections=("B",)),
    )
    decided = told(plan, sight(base(collections=("C",))))
    assert decided.before is not None
    assert decided.after is not None
    assert (decided.before.collections, decided.after.collections) == (("A", "B"), ("B",))


def test_a_base_that_is_made_to_remember_a_message_knows_no_more_than_the_record() -> None:
    decided = told(doing(None, troubles=(EMPTY,)), sight(None))
    assert decided.after == decided.before
    assert decided.after is not None
    assert decided.after.model_copy(update={"told": ()}) == DocumentBase(
        key_id=KEY,
        written_at=START + timedelta(days=1),
        file_id="f1",
        collections=("A", "B"),
    )


def test_a_record_that_is_gone_is_forgotten_with_its_tasks_completed() -> None:
    known = base(EMPTY, MISSING)
    gone = replace(doing(known, Detach("f1", "A")), after=None)
    decided = told(gone, sight(known, entry=None))
    assert decided.actions == (Detach("f1", "A"), CloseTask(Kind.COLLECTION_MISSING))
    assert decided.after is None


def test_an_overwritten_hash_or_status_is_nobody_s_conflict() -> None:
    clashes = (Clash(Noted.HASH, "aa", "bb"), Clash(Noted.STATUS, "synced", "neu"))
    plan = doing(base(), clashes=clashes)
    assert told(plan, sight(base())) == plan


def test_an_overwritten_field_is_told_with_its_name_in_the_crm() -> None:
    clashes = (Clash(Noted.FILE, "f1", "f7"), Clash(Noted.COLLECTIONS, "A,B", ""))
    decided = told(doing(base(), clashes=clashes), sight(base()))
    (notice,) = decided.actions
    assert isinstance(notice, Notify)
    assert notice.trouble.kind is Kind.CONFLICT
    assert "„xaiId“ stand f7, eingetragen wird f1" in notice.trouble.text
    assert "„xaiCollections“ stand nichts, eingetragen wird A,B" in notice.trouble.text
