"""A file that another record notes too: left to it, and not out of sight."""

from dataclasses import replace

import pytest

from bitbylaw_document_sync.domain.comparison import (
    Held,
    Listed,
    Standing,
    Survey,
    judged,
    suspects,
)
from bitbylaw_document_sync.domain.model import DeleteFile, Detach, Plan, Retired, Sharer, Sight
from bitbylaw_document_sync.domain.planner import Policy, plan
from unit.document_sync.fakes import DIGESTER, START
from unit.document_sync.test_planner import (
    POLICY,
    base,
    entry,
    found,
    outside,
    sight,
    synced,
)

COPY = Sharer("d2", "f0", frozenset("A"))
LENT = Retired(file_id="f0", ours=True, lent=True)
OTHER_BYTES = base(retired=(Retired(file_id="f0", ours=True),))
BOTH = found("f1 A", "f0 A", files=("f0", "f1"))


def decided(seen: Sight, policy: Policy = POLICY) -> Plan:
    made = plan(seen, policy)
    assert isinstance(made, Plan)
    return made


def test_an_earlier_file_that_a_copy_notes_stays_and_is_remembered() -> None:
    made = decided(sight(synced(), OTHER_BYTES, BOTH, sharers=(COPY,)))
    assert outside(made) == []
    assert made.after is not None
    assert made.after.retired == (LENT,)


def test_as_long_as_the_copy_notes_it_nothing_is_to_be_done() -> None:
    known = decided(sight(synced(), OTHER_BYTES, BOTH, sharers=(COPY,))).after
    made = decided(sight(synced(), known, BOTH, sharers=(COPY,)))
    assert (made.rule, made.reason, made.actions) == ("row 5: in line", "already in line", ())
    assert made.after is not None
    assert made.after.says_the_same_as(known)


@pytest.mark.parametrize(
    "others",
    [(), (replace(COPY, file_id="f7"),)],
    ids=["the copy is gone", "the copy has other bytes"],
)
def test_once_nobody_else_notes_it_it_is_cleared_away(others: tuple[Sharer, ...]) -> None:
    made = decided(sight(synced(), base(retired=(LENT,)), BOTH, sharers=others))
    assert outside(made) == [Detach("f0", "A"), DeleteFile("f0")]
    assert made.after is not None
    assert made.after.retired == ()


def test_a_copy_that_needs_it_elsewhere_keeps_the_file_and_not_this_place() -> None:
    elsewhere = replace(COPY, collections=frozenset("B"))
    made = decided(sight(synced(), OTHER_BYTES, BOTH, sharers=(elsewhere,)))
    assert outside(made) == [Detach("f0", "A")]
    assert made.after is not None
    assert made.after.retired == (LENT,)


def test_a_deleted_record_is_not_forgotten_before_its_file_has_another_owner() -> None:
    made = decided(sight(None, OTHER_BYTES, BOTH, sharers=(COPY,)))
    assert outside(made) == [Detach("f1", "A")]
    assert made.after is not None
    assert (made.after.file_id, made.after.retired) == (None, (LENT,))

    then = decided(sight(None, made.after, found("f0 A", files=("f0",)), sharers=()))
    assert outside(then) == [Detach("f0", "A"), DeleteFile("f0")]
    assert then.after is None


def test_a_deleted_record_remembers_what_it_lent_and_where_it_lies() -> None:
    theirs = Retired(file_id="f3", ours=False)
    known = base(retired=(theirs, *OTHER_BYTES.retired, Retired(file_id="f4", ours=True)))
    seen = found("f3 B", "f0 A", "f1 C", "f1 A", files=("f0", "f1", "f3", "f4"))
    others = (COPY, Sharer("d2", "f3", frozenset("B")), Sharer("d3", "f4", frozenset()))
    made = decided(sight(None, known, seen, sharers=others))
    assert made.rule == "row 1: record gone"
    assert made.reason == (
        "the record is gone: its file leaves every collection "
        "but where another record notes it as well"
    )
    assert made.actions == (Detach("f1", "A"), Detach("f1", "C"))
    assert made.before == known
    lent = tuple(
        Retired(file_id=file, ours=ours, lent=True)
        for file, ours in (("f0", True), ("f3", False), ("f4", True))
    )
    after = known.retiring(None).model_copy(update={"collections": ("A", "B"), "retired": lent})
    assert made.after == after


def test_a_deletion_that_is_put_off_for_a_copy_s_sake_is_remembered() -> None:
    policy = Policy(DIGESTER, POLICY.settle, delete_files=True)
    copy = Sharer("d2", "f1", frozenset())
    made = decided(sight(None, base(), found("f1 A"), sharers=(copy,)), policy)
    assert made.actions == (Detach("f1", "A"),)
    assert made.after is not None
    assert made.after.retired == (Retired(file_id="f1", ours=True, lent=True),)


def test_an_earlier_file_in_a_collection_on_hold_is_kept_and_not_lent() -> None:
    waiting = synced(on_hold=frozenset("B"))
    made = decided(sight(waiting, OTHER_BYTES, found("f1 A", "f0 B", files=("f0", "f1"))))
    assert made.actions == ()
    assert made.after is not None
    assert made.after.retired == OTHER_BYTES.retired


def test_an_unlinked_document_tells_what_it_lent_from_what_is_on_hold() -> None:
    files = ("f0", "f2", "f3", "f4")
    known = base(retired=tuple(Retired(file_id=file, ours=False) for file in files))
    unlinked = synced(wanted=frozenset(), on_hold=frozenset("B"))
    seen = found("f0 A", "f2 B", "f3 A", "f1 A", "f2 A", files=("f0", "f1", "f2", "f3", "f4"))
    others = (COPY, Sharer("d2", "f2", frozenset("A")))
    made = decided(sight(unlinked, known, seen, sharers=others))
    assert outside(made) == [Detach("f1", "A"), Detach("f3", "A")]
    assert made.after is not None
    assert made.after.retired == (
        Retired(file_id="f0", ours=False, lent=True),
        Retired(file_id="f2", ours=False),
    )
    assert made.after.collections == ("A",)


def test_a_file_that_is_no_more_the_document_s_is_lent_with_whom_it_belongs_to() -> None:
    policy = Policy(DIGESTER, POLICY.settle, delete_files=True)
    copy = replace(COPY, file_id="f1", collections=frozenset())
    unlinked = sight(synced(wanted=frozenset()), base(), found("f1 A"), sharers=(copy,))
    made = decided(unlinked, policy)
    assert outside(made) == [Detach("f1", "A")]
    assert made.after is not None
    assert made.after.file_id is None
    assert made.after.retired == (Retired(file_id="f1", ours=True, lent=True),)
    kept = decided(unlinked)
    assert kept.after is not None
    assert (kept.after.file_id, kept.after.retired) == ("f1", ())


def test_only_what_is_really_taken_away_names_the_rule() -> None:
    """What stays for another record's sake is no change, so nothing is told of it every night."""
    both = found("f1 A", "f1 B", "f0 A", files=("f0", "f1"))
    others = (COPY, Sharer("d2", "f1", frozenset("B")))
    still = decided(sight(synced(), base(retired=(LENT,)), both, sharers=others))
    assert (still.rule, still.actions) == ("row 5: in line", ())
    left = decided(sight(synced(), base(retired=(LENT,)), both, sharers=(COPY,)))
    assert (left.rule, left.actions[0]) == ("row 9: collections left", Detach("f1", "B"))
    gone = decided(sight(synced(), base(retired=(LENT,)), both, sharers=others[1:]))
    assert (gone.rule, outside(gone)) == (
        "row 7: other bytes",
        [Detach("f0", "A"), DeleteFile("f0")],
    )


@pytest.mark.parametrize("delete", [False, True], ids=["keep", "delete"])
def test_an_unlinked_file_that_a_copy_notes_is_cleared_away_after_the_copy(delete: bool) -> None:
    policy = Policy(DIGESTER, POLICY.settle, delete_files=delete)
    unlinked, copy = synced(wanted=frozenset()), replace(COPY, file_id="f1")
    made = decided(sight(unlinked, base(), found("f1 A"), sharers=(copy,)), policy)
    assert outside(made) == []
    noted = unlinked if not delete else entry(wanted=frozenset())
    then = decided(sight(noted, made.after, found("f1 A"), sharers=()), policy)
    assert outside(then) == [Detach("f1", "A"), *([DeleteFile("f1")] if delete else [])]


def test_what_is_lent_alone_makes_nobody_look_every_quarter_of_an_hour() -> None:
    members = {"A": {"f1": Held("f1"), "f0": Held("f0")}}
    survey = Survey(START, {"d1": base(retired=(LENT,))}, {"d1": {"A"}}, members=dict(members))
    assert list(suspects(survey)) == []
    survey = Survey(START, {"d1": OTHER_BYTES}, {"d1": {"A"}}, members=dict(members))
    assert list(suspects(survey)) == ["d1"]


def test_the_nightly_comparison_finds_it_once_the_copy_is_gone() -> None:
    members = {"A": {"f1": Held("f1"), "f0": Held("f0")}}
    known = decided(sight(synced(), OTHER_BYTES, BOTH, sharers=(COPY,))).after
    assert known is not None
    survey = Survey(START, {"d1": known}, {"d1": {"A"}}, members=dict(members))
    found_out = judged(survey.knowing(()), "d1", Listed(synced(), START), POLICY)
    assert found_out is not None
    assert getattr(found_out, "standing", None) is Standing.PENDING
    still = judged(survey.knowing((COPY,)), "d1", Listed(synced(), START), POLICY)
    assert getattr(still, "standing", None) is Standing.IN_SYNC


def test_of_a_deleted_record_that_lent_its_file_the_comparison_says_nothing() -> None:
    gone = decided(sight(None, OTHER_BYTES, BOTH, sharers=(COPY,))).after
    assert gone is not None
    survey = Survey(START, {"d1": gone}, members={"A": {"f0": Held("f0")}})
    known = survey.knowing((COPY,))
    assert getattr(judged(known, "d1", None, POLICY), "standing", None) is Standing.EXCLUDED
    alone = survey.knowing(())
    assert getattr(judged(alone, "d1", None, POLICY), "standing", None) is Standing.PENDING
