"""Where the document's file is put and taken away, and which places the base remembers."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bitbylaw_common.outcomes import Rejected
from bitbylaw_document_sync.domain.model import (
    AskSharers,
    Attach,
    DeleteFile,
    Detach,
    DocumentBase,
    Found,
    Indexing,
    Member,
    Noted,
    Obstacle,
    Plan,
    Retired,
    Sharer,
    Sight,
    Word,
)
from bitbylaw_document_sync.domain.planner import plan
from unit.document_sync.fakes import DIGESTER, START
from unit.document_sync.test_planner import (
    M1,
    POLICY,
    base,
    found,
    noted,
    outside,
    sight,
    synced,
)

DELETING = replace(POLICY, delete_files=True)
HALF = POLICY.indexing / 2
OUR_F0 = (Retired(file_id="f0", ours=True),)
THEIR_F0 = (Retired(file_id="f0", ours=False),)


def planned(seen: Sight) -> Plan:
    decided = plan(seen, POLICY)
    assert isinstance(decided, Plan)
    return decided


def bases(decided: Plan) -> tuple[DocumentBase, DocumentBase]:
    assert decided.before is not None
    assert decided.after is not None
    return decided.before, decided.after


def running(*places: str) -> Found:
    members = [Member("f1", place, Indexing.RUNNING) for place in places]
    return Found(frozenset({"f0", "f1"})).with_members(members)


# -- in place ---------------------------------------------------------------------------------------


def test_every_place_that_anybody_names_is_in_the_base_until_it_is_left() -> None:
    told = synced(collections=frozenset("Y"))
    before, after = bases(planned(sight(told, base(collections=("X",)), found("f1 A"))))
    assert before.collections == ("A", "X", "Y")
    assert after.collections == ("A",)


def test_a_place_where_the_file_stays_for_another_record_s_sake_is_looked_at_again() -> None:
    others = (Sharer("d2", "f1", frozenset("B")),)
    decided = planned(sight(synced(), base(), found("f1 A", "f1 B"), sharers=others))
    assert outside(decided) == []
    _, after = bases(decided)
    assert after.collections == ("A", "B")


@pytest.mark.parametrize("obstacle", ["refused", "indexing", "hash"])
def test_what_lies_in_line_has_nothing_in_its_way_any_more(obstacle: Any) -> None:
    known = base(obstacle=Obstacle(kind=obstacle, content="c", since=START))
    _, after = bases(planned(sight(synced(), known, found("f1 A"))))
    assert after.obstacle is None


@pytest.mark.parametrize(
    ("retired", "seen"),
    [
        (THEIR_F0, found("f1 A", "f0 A", files=("f0", "f1"))),  # to be taken out
        (OUR_F0, found("f1 A", files=("f0", "f1"))),  # to be deleted
    ],
)
def test_an_earlier_file_leaves_after_it_is_known_who_else_uses_it(
    retired: tuple[Retired, ...], seen: Found
) -> None:
    told = sight(synced(), base(retired=retired), seen)
    assert plan(replace(told, sharers=None), POLICY) == AskSharers(("f0", "f1"))
    decided = planned(told)
    assert (decided.rule, decided.reason) == (
        "row 7: other bytes",
        "an earlier file of it is to be cleared away",
    )
    assert len(decided.actions) == 1
    joining = replace(told, entry=synced(wanted=frozenset("AB")))
    assert planned(joining).rule == "row 7: other bytes"


# -- attached ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elapsed", "since"),
    [
        (None, timedelta()),
        (HALF, -HALF),
        (HALF * 0.8, -HALF * 0.8),
        (HALF + timedelta(seconds=1), timedelta()),
    ],
)
def test_a_collection_that_is_added_late_gets_its_time_to_be_indexed(
    elapsed: timedelta | None, since: timedelta
) -> None:
    known = base(indexing=None if elapsed is None else START - elapsed, collections=("X",))
    told = synced(wanted=frozenset("AB"), collections=frozenset("Y"))
    decided = planned(sight(told, known, found("f1 A")))
    assert decided.actions == (Attach("f1", "B"),)
    before, after = bases(decided)
    assert before == after
    assert before.indexing == START + since
    assert before.collections == ("A", "B", "X", "Y")


def test_where_a_collection_is_gone_nobody_waits_for_the_others() -> None:
    told = synced(wanted=frozenset("ABX"))
    joined = planned(sight(told, base(), found("f1 A")))
    assert joined.actions == (Attach("f1", "B"),)
    assert bases(joined)[0].indexing is None

    seen = running("A", "B").with_members([Member("f0", "A")])
    obstacle = Obstacle(kind="indexing", content=DIGESTER.of(M1), since=START)
    known = base(retired=THEIR_F0, obstacle=obstacle)
    decided = planned(sight(told, known, seen))
    assert decided.rule == "row 18: collection gone"
    assert outside(decided) == [Detach("f0", "A")]
    assert noted(decided)[Noted.STATUS] is Word.FAILED
    assert isinstance(decided.ending, Rejected)
    assert bases(decided)[1].obstacle == obstacle


# -- unlinked ---------------------------------------------------------------------------------------


def test_an_unlinked_document_keeps_what_is_on_hold_and_forgets_what_has_left() -> None:
    gone = Retired(file_id="f9", ours=False)
    known = base(collections=("A", "X"), retired=(*OUR_F0, gone))
    told = synced(wanted=frozenset(), on_hold=frozenset("B"), collections=frozenset("Y"))
    seen = found("f0 B", "f1 A", "f1 B", files=("f0", "f1"))
    decided = planned(sight(told, known, seen))
    assert outside(decided) == [Detach("f1", "A")]
    assert noted(decided) == {Noted.COLLECTIONS: ("B",)}
    before, after = bases(decided)
    assert before.collections == ("A", "X", "Y")
    assert after.collections == ("B",)
    assert after.retired == OUR_F0
    assert (after.file_id, after.ours) == ("f1", True)


def test_an_unlinked_document_that_asks_for_a_word_is_told_that_nothing_wants_it() -> None:
    decided = planned(sight(synced(wanted=frozenset(), fresh=True), base(), found("f1 A")))
    assert noted(decided) == {Noted.COLLECTIONS: (), Noted.STATUS: Word.UNWANTED}


@pytest.mark.parametrize(
    ("policy", "seen"), [(DELETING, found("f1 A")), (POLICY, Found())], ids=["deleted", "gone"]
)
def test_a_file_that_is_no_more_is_not_the_document_s(policy: Any, seen: Found) -> None:
    decided = plan(sight(synced(wanted=frozenset()), base(), seen), policy)
    assert isinstance(decided, Plan)
    assert noted(decided) == {Noted.FILE: None, Noted.HASH: None, Noted.COLLECTIONS: ()}
    _, after = bases(decided)
    assert (after.file_id, after.ours, after.content) == (None, False, None)


def test_a_file_that_somebody_else_noted_stays_noted_where_the_document_has_none() -> None:
    known = base(file_id=None, ours=False, content=None)
    told = synced(xai_id="f7", wanted=frozenset())
    decided = planned(sight(told, known, Found(frozenset({"f7"}), frozenset({("f7", "A")}))))
    assert outside(decided) == [Detach("f7", "A")]
    assert noted(decided) == {Noted.COLLECTIONS: ()}


def test_a_deletion_alone_waits_for_the_word_of_who_else_uses_the_file() -> None:
    told = sight(synced(wanted=frozenset()), base(retired=OUR_F0), Found(frozenset({"f0", "f1"})))
    assert plan(replace(told, sharers=None), POLICY) == AskSharers(("f0", "f1"))
    assert outside(planned(told)) == [DeleteFile("f0")]
