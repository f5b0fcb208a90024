"""Whose words stand in our fields: what is agreed, what is under way, and what somebody else wrote."""

from dataclasses import replace
from typing import Any

import pytest

from bitbylaw_document_sync.domain.model import (
    Clash,
    DocumentBase,
    Entry,
    Indexing,
    Member,
    Noted,
    Noting,
    Plan,
    Sight,
    Word,
)
from bitbylaw_document_sync.domain.planner import plan
from unit.document_sync.fakes import DIGESTER, START
from unit.document_sync.test_planner import (
    M1,
    M2,
    POLICY,
    base,
    entry,
    found,
    noted,
    sight,
    synced,
)

WATCHED = (Noted.FILE, Noted.COLLECTIONS, Noted.HASH, Noted.STATUS)
IN_LINE = synced(says=Word.SYNCED, words=frozenset({Word.SYNCED}), status_said="Synchron")


def shown(told: Entry) -> dict[Noted, str]:
    return {what: DIGESTER.of(told.value_of(what)) for what in WATCHED}


def agreed(told: Entry = IN_LINE, **changes: Any) -> DocumentBase:
    """Return a base of when the record showed this."""
    return base(**{"noted": shown(told), **changes})


def planned(told: Entry, known: DocumentBase | None, **more: Any) -> Plan:
    decided = plan(sight(told, known, more.pop("seen", found("f1 A")), **more), POLICY)
    assert isinstance(decided, Plan)
    return decided


def bases(decided: Plan) -> tuple[DocumentBase, DocumentBase]:
    assert decided.before is not None
    assert decided.after is not None
    return decided.before, decided.after


NOTING = Noting(version=3, target={Noted.FILE: DIGESTER.of("f1")})


# -- what the base says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "known",
    [
        agreed(),
        agreed(synced(), noting=NOTING),
        base(noting=NOTING),
        base(key_id="old", noted=shown(synced()), noting=NOTING),
    ],
)
def test_a_run_that_ends_in_line_agrees_on_what_the_record_shows(known: DocumentBase) -> None:
    decided = planned(IN_LINE, known)
    assert decided.actions == ()
    for left in bases(decided):
        assert (left.noted, left.noting) == (shown(IN_LINE), None)


RUNNING = found().with_members([Member("f1", "A", Indexing.RUNNING)])


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        (replace(IN_LINE, wanted=frozenset("AB")), found("f1 A")),  # it goes on
        (replace(IN_LINE, fresh=True, words=frozenset(Word)), RUNNING),  # it waits
    ],
)
def test_a_run_that_is_not_at_its_end_leaves_open_what_was_open(told: Entry, seen: Any) -> None:
    known = agreed(synced(), noting=NOTING, indexing=START)
    decided = planned(told, known, seen=seen)
    assert decided.more or decided.ending is not None
    for left in bases(decided):
        assert (left.noted, left.noting) == (shown(synced()), NOTING)


@pytest.mark.parametrize(
    "known",
    [
        base(noting=NOTING),
        base(key_id="old", noted=shown(synced()), noting=NOTING),
    ],
)
def test_a_base_that_cannot_be_compared_starts_with_what_the_record_shows(
    known: DocumentBase,
) -> None:
    told = replace(IN_LINE, wanted=frozenset("AB"))
    for left in bases(planned(told, known)):
        assert (left.noted, left.noting) == (shown(told), None)


def test_what_is_to_be_written_is_in_the_base_before_and_agreed_on_after() -> None:
    told = replace(IN_LINE, xai_id=None, collections=frozenset("B"), synced_hash=None, version=7)
    seen = found("f1 A", "f1 B")
    wanted = replace(told, wanted=frozenset("AB"))
    decided = planned(wanted, agreed(told, noting=NOTING), seen=seen)
    assert noted(decided) == {Noted.FILE: "f1", Noted.COLLECTIONS: ("A", "B"), Noted.HASH: M1}
    target = {
        Noted.FILE: DIGESTER.of("f1"),
        Noted.COLLECTIONS: DIGESTER.of("A,B"),
        Noted.HASH: DIGESTER.of(M1),
    }
    before, after = bases(decided)
    assert before.noted == shown(told)
    assert before.noting == Noting(version=7, target=target)
    assert after.noted == shown(told) | target
    assert after.noting is None
    assert decided.clashes == ()


def test_the_first_time_that_something_is_written_what_stood_there_is_taken_down() -> None:
    told = replace(IN_LINE, synced_hash=M2)
    before, after = bases(planned(told, base()))
    assert before.noted == shown(told)
    assert after.noted == shown(told) | {Noted.HASH: DIGESTER.of(M1)}


def test_a_field_that_is_emptied_is_agreed_on_as_empty() -> None:
    policy = replace(POLICY, delete_files=True)
    told = replace(IN_LINE, wanted=frozenset(), message="alt")
    decided = plan(sight(told, agreed(), found("f1 A")), policy)
    assert isinstance(decided, Plan)
    assert noted(decided)[Noted.FILE] is None
    assert noted(decided)[Noted.MESSAGE] is None
    before, after = bases(decided)
    assert before.noting is not None
    empty = dict.fromkeys((Noted.FILE, Noted.COLLECTIONS, Noted.HASH), DIGESTER.of(""))
    assert before.noting.target == empty
    assert after.noted == shown(told) | empty


# -- what somebody else wrote -----------------------------------------------------------------------

EDITED = replace(IN_LINE, synced_hash=M2)


def test_a_value_of_somebody_else_that_is_overwritten_is_a_clash() -> None:
    decided = planned(EDITED, agreed())
    assert noted(decided) == {Noted.HASH: M1}
    assert decided.clashes == (Clash(Noted.HASH, M1, M2),)
    asked_anew = planned(replace(EDITED, fresh=True), agreed())
    assert asked_anew.clashes == decided.clashes


@pytest.mark.parametrize(
    "known",
    [
        None,
        base(),
        agreed(EDITED),
        agreed(key_id="old"),
        agreed(noting=Noting(target={Noted.HASH: DIGESTER.of(M2)})),
    ],
    ids=["no base", "never noted", "agreed on", "another key", "ours, under way"],
)
def test_a_value_that_may_be_ours_or_the_predecessor_s_is_none(known: DocumentBase | None) -> None:
    decided = planned(EDITED, known)
    assert decided.clashes == ()


def test_another_field_s_value_under_way_does_not_make_this_one_ours() -> None:
    noting = Noting(target={Noted.FILE: DIGESTER.of(M2)})
    assert planned(EDITED, agreed(noting=noting)).clashes != ()


FAILED = replace(IN_LINE, says=Word.FAILED, words=frozenset({Word.FAILED}), status_said="Fehler")


def test_a_status_that_somebody_set_is_a_clash_in_the_words_it_is_spelt() -> None:
    decided = planned(FAILED, agreed())
    assert noted(decided) == {Noted.STATUS: Word.SYNCED}
    assert decided.clashes == (Clash(Noted.STATUS, "synced", "Fehler"),)


def test_a_status_that_asks_for_a_sync_is_never_one() -> None:
    fresh = replace(IN_LINE, fresh=True, says=None, words=frozenset(), status_said="geändert")
    decided = planned(fresh, agreed())
    assert noted(decided) == {Noted.STATUS: Word.SYNCED}
    assert decided.clashes == ()


def test_a_spelling_that_stands_for_two_of_our_words_is_ours_if_it_is_either_s() -> None:
    both = replace(FAILED, words=frozenset({Word.FAILED, Word.UNSUPPORTED}))
    was = agreed(replace(IN_LINE, says=Word.UNSUPPORTED))
    assert planned(both, was).clashes == ()
    assert planned(FAILED, was).clashes == (Clash(Noted.STATUS, "synced", "Fehler"),)


# -- what is not worth a write ----------------------------------------------------------------------


def test_an_old_message_goes_with_the_next_thing_written_and_not_alone() -> None:
    told = replace(IN_LINE, message="alt")
    assert planned(told, agreed()).actions == ()
    assert noted(planned(replace(told, synced_hash=None), agreed())) == {
        Noted.HASH: M1,
        Noted.MESSAGE: None,
    }


def test_an_unlinked_record_that_says_so_is_not_called_synced() -> None:
    told = synced(wanted=frozenset(), says=Word.UNWANTED, words=frozenset({Word.UNWANTED}))
    assert noted(planned(told, base())) == {Noted.COLLECTIONS: ()}


def test_of_a_record_that_is_gone_nothing_is_agreed_on() -> None:
    gone = plan(Sight("d1", None, agreed(), found(), sight(entry(), None, found()).now), POLICY)
    assert isinstance(gone, Plan)
    assert (gone.before, gone.after) == (agreed(), None)
