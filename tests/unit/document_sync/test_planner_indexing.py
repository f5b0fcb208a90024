"""The planner while xAI indexes: what is waited for, told, tried again, and given up."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bitbylaw_common.outcomes import Rejected, Wait
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.model import (
    Attach,
    Detach,
    DocumentBase,
    Entry,
    FileFacts,
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
    WriteBack,
)
from bitbylaw_document_sync.domain.notices import CloseTask, Kind, Told
from bitbylaw_document_sync.domain.planner import (
    INDEXING_PAUSES,
    LATEST_LOOK,
    SOONEST_LOOK,
    Policy,
    gave_up,
    plan,
    refusal,
)
from unit.document_sync.fakes import DIGESTER, SETTLE, START, md5_of

M1 = md5_of(b"v1")
POLICY = Policy(DIGESTER, SETTLE, indexing=timedelta(hours=6))
MINUTE = timedelta(minutes=1)
FILE = FileFacts("att", "Klage.pdf", "application/pdf", 2)


def entry(**changes: Any) -> Entry:
    values: dict[str, Any] = {
        "md5": M1,
        "wanted": frozenset({"A", "B"}),
        "xai_id": "f1",
        "collections": frozenset({"A", "B"}),
        "synced_hash": M1,
        "fresh": True,
    }
    return replace(Entry("d1", "att", "Klage"), **{**values, **changes})


def base(**changes: Any) -> DocumentBase:
    values = {
        "key_id": DIGESTER.key_id,
        "written_at": START,
        "file_id": "f1",
        "ours": True,
        "attachment_id": "att",
        "content": DIGESTER.of(M1),
        "recorded": DIGESTER.of(M1),
        "size": 2,
        "collections": ("A", "B"),
        "indexing": START,
    }
    return DocumentBase.model_validate({**values, **changes})


def members(**states: Indexing) -> tuple[Member, ...]:
    """`members(A=FAILED)`: how far f1 is, where it is attached."""
    return tuple(
        Member("f1", place, state, error="cannot parse" if state is Indexing.FAILED else "")
        for place, state in states.items()
    )


def sight(
    known: DocumentBase | None,
    *states: Member,
    after: timedelta = timedelta(),
    told: Entry | None = None,
    **more: Any,
) -> Sight:
    found = Found(frozenset({"f1"})).with_members(states)
    asked: dict[str, Any] = {"sharers": (), "existing": frozenset("AB"), "found": found}
    values: dict[str, Any] = {**asked, **more}
    return Sight("d1", told or entry(), known, values.pop("found"), START + after, "run", **values)


def planned(seen: Sight) -> Plan:
    decided = plan(seen, POLICY)
    assert isinstance(decided, Plan)
    return decided


def noted(decided: Plan) -> dict[Noted, Any]:
    backs = [action for action in decided.actions if isinstance(action, WriteBack)]
    return {what: value for back in backs for what, value in back.values}


def outside(decided: Plan) -> list[Any]:
    return [action for action in decided.actions if isinstance(action, Attach | Detach)]


RUNNING, READY, FAILED = Indexing.RUNNING, Indexing.READY, Indexing.FAILED


@pytest.mark.parametrize(
    ("elapsed", "pause"),
    [
        (timedelta(), SOONEST_LOOK),
        (timedelta(seconds=1), SOONEST_LOOK),
        (timedelta(seconds=90), timedelta(seconds=90)),
        (timedelta(hours=2), LATEST_LOOK),
    ],
)
def test_it_is_looked_at_again_after_as_long_as_it_took_so_far(
    elapsed: timedelta, pause: timedelta
) -> None:
    decided = planned(sight(base(), *members(A=RUNNING, B=READY), after=elapsed))
    assert decided.rule == "indexing"
    assert decided.ending == Wait(
        "xAI makes it searchable", pause, until=START + 2 * POLICY.indexing
    )
    assert noted(decided) == {Noted.STATUS: Word.INDEXING}
    assert outside(decided) == []
    assert decided.after is not None
    assert decided.after.indexing == START
    assert decided.after.collections == ("A", "B")
    assert decided.reason == "it is attached, and xAI still makes it searchable"
    assert decided.before is not None
    assert (decided.before.indexing, decided.before.collections) == (START, ("A", "B"))


def test_what_a_waiting_record_says_already_is_not_written_again() -> None:
    told = entry(fresh=False, says=Word.INDEXING, words=frozenset({Word.INDEXING}))
    decided = planned(sight(base(), *members(A=RUNNING, B=READY), told=told, after=MINUTE))
    assert isinstance(decided.ending, Wait)
    assert decided.actions == ()


def test_it_is_synced_once_it_can_be_found_everywhere() -> None:
    told = entry(fresh=False, says=Word.INDEXING, words=frozenset({Word.INDEXING}))
    decided = planned(sight(base(), *members(A=READY, B=READY), told=told, after=MINUTE))
    assert noted(decided) == {Noted.STATUS: Word.SYNCED}
    assert decided.ending is None
    assert decided.after is not None
    assert decided.after.indexing is None


def test_nobody_waits_for_what_the_predecessor_left_and_the_record_tells_of() -> None:
    told = entry(fresh=False, says=Word.SYNCED, words=frozenset({Word.SYNCED}))
    for state in (RUNNING, FAILED):
        decided = planned(sight(None, *members(A=state, B=READY), told=told))
        assert decided.actions == ()
        assert decided.ending is None


def test_what_was_in_line_before_is_not_waited_for_again_but_its_failure_is_told() -> None:
    told = entry(fresh=False, says=Word.SYNCED, words=frozenset({Word.SYNCED}))
    running = planned(sight(base(indexing=None), *members(A=RUNNING, B=READY), told=told))
    assert (running.actions, running.ending) == ((), None)
    failed = planned(sight(base(indexing=None), *members(A=FAILED, B=READY), told=told))
    assert noted(failed)[Noted.STATUS] is Word.FAILED


@pytest.mark.parametrize("known", [None, base(indexing=None)])
def test_a_record_that_is_to_be_told_something_waits_from_now_on(
    known: DocumentBase | None,
) -> None:
    decided = planned(sight(known, *members(A=RUNNING, B=READY), after=MINUTE))
    assert isinstance(decided.ending, Wait)
    for left in (decided.before, decided.after):
        assert left is not None
        assert left.indexing == START + MINUTE


@pytest.mark.parametrize(
    ("told", "known"),
    [
        # it says so already, and that alone is what it waits to be told
        (entry(words=frozenset({Word.INDEXING}), xai_id=None), base()),
        # xAI tries again: what the record says of the failure stays until that is known
        (entry(), base(obstacle=Obstacle(kind="indexing", content="c", since=START))),
    ],
)
def test_a_record_that_waits_is_not_written_for_anything_else(
    told: Entry, known: DocumentBase
) -> None:
    decided = planned(sight(known, *members(A=RUNNING, B=READY), told=told))
    assert isinstance(decided.ending, Wait)
    assert decided.actions == ()


def test_while_the_new_file_cannot_be_found_the_old_one_stays_to_be_found() -> None:
    known = base(retired=(Retired(file_id="f0", ours=True),))
    both = Found(frozenset({"f0", "f1"})).with_members(
        [Member("f0", "A"), Member("f0", "B"), *members(A=RUNNING, B=READY)]
    )
    decided = planned(sight(known, found=both))
    assert isinstance(decided.ending, Wait)
    assert outside(decided) == [Detach("f0", "B")]
    assert decided.after is not None
    assert decided.after.retired == known.retired

    done = Found(frozenset({"f0", "f1"})).with_members(
        [Member("f0", "A"), *members(A=READY, B=READY)]
    )
    then = planned(sight(known, found=done))
    assert outside(then) == [Detach("f0", "A")]
    assert then.after is not None
    assert then.after.retired == ()


def test_a_file_of_another_record_too_is_not_taken_away_while_it_is_waited_for() -> None:
    known = base(retired=(Retired(file_id="f0", ours=True),))
    both = Found(frozenset({"f0", "f1"})).with_members(
        [Member("f0", "B"), *members(A=RUNNING, B=READY)]
    )
    others = (Sharer("d2", "f0", frozenset({"B"})),)
    decided = planned(sight(known, found=both, sharers=others))
    assert isinstance(decided.ending, Wait)
    assert outside(decided) == []


@pytest.mark.parametrize("state", [FAILED, RUNNING])
def test_what_fails_or_never_ends_is_told_and_tried_again_later(state: Indexing) -> None:
    after = MINUTE if state is FAILED else POLICY.indexing
    decided = planned(sight(base(), *members(A=state, B=READY), after=after))
    message = texts.not_indexed("cannot parse" if state is FAILED else "", earlier=False)
    assert decided.rule == "indexing"
    assert decided.reason == "xAI could not make it searchable, 1 times so far"
    assert noted(decided) == {Noted.STATUS: Word.FAILED, Noted.MESSAGE: message}
    assert decided.ending == Wait(
        "xAI could not make it searchable; it is to try again", INDEXING_PAUSES[0]
    )
    assert [(t.kind, t.text) for t in decided.troubles] == [(Kind.INDEXING_FAILED, message)]
    assert decided.after is not None
    assert decided.after.indexing is None
    assert decided.after.collections == ("A", "B")
    assert decided.after.obstacle == Obstacle(
        kind="indexing", content=DIGESTER.of(M1), tries=1, since=START + after, told=True
    )


def test_places_that_the_base_or_the_record_names_are_remembered_while_it_waits() -> None:
    told = entry(collections=frozenset({"A", "Y"}))
    known = base(collections=("X",))
    for states in (members(A=RUNNING, B=READY), members(A=FAILED, B=READY)):
        decided = planned(sight(known, *states, told=told, after=MINUTE))
        assert decided.before is not None
        assert decided.before.collections == ("A", "B", "X", "Y")
        assert decided.after is not None
        assert decided.after.collections == ("A", "B", "X", "Y")


def failed_before(tries: int, **changes: Any) -> DocumentBase:
    """Return the base after so many failures, told."""
    obstacle = Obstacle(
        kind="indexing", content=DIGESTER.of(M1), tries=tries, since=START, told=True
    )
    return base(**{"indexing": None, "obstacle": obstacle, **changes})


TOLD = {"fresh": False, "says": Word.FAILED, "words": frozenset({Word.FAILED})}


@pytest.mark.parametrize("tries", [1, 2])
def test_after_its_pause_it_is_attached_anew_where_it_failed(tries: int) -> None:
    pause = INDEXING_PAUSES[tries - 1]
    seen = sight(failed_before(tries), *members(A=FAILED, B=READY), told=entry(**TOLD), after=pause)
    early = planned(replace(seen, now=seen.now - MINUTE))
    assert outside(early) == []
    assert early.ending == Wait("xAI could not make it searchable; it is to try again", MINUTE)

    decided = planned(seen)
    assert outside(decided) == [Detach("f1", "A"), Attach("f1", "A")]
    assert decided.more
    assert decided.rule == "indexing"
    assert decided.reason.startswith("xAI could not make it searchable; attached anew")
    assert decided.before is not None
    assert decided.after is not None
    assert decided.after.indexing == seen.now
    assert decided.before.indexing == seen.now
    assert decided.before.obstacle == failed_before(tries).obstacle
    assert decided.before.collections == ("A", "B")


def test_the_third_failure_is_the_last() -> None:
    known = failed_before(2, indexing=START)
    decided = planned(sight(known, *members(A=FAILED, B=READY), after=MINUTE))
    assert decided.ending == Rejected(
        "xAI could not make it searchable, 3 times", error="IndexingFailed"
    )
    assert decided.after is not None
    assert decided.after.obstacle is not None
    assert decided.after.obstacle.tries == 3
    assert outside(decided) == []

    # and it stays given up, whatever is told, however long ago
    seen = sight(
        failed_before(3), *members(A=FAILED, B=READY), told=entry(**TOLD), after=timedelta(days=9)
    )
    again = planned(seen)
    assert isinstance(again.ending, Rejected)
    assert outside(again) == []


def test_a_person_s_reset_tries_at_once_and_counts_anew() -> None:
    seen = sight(failed_before(3), *members(A=FAILED, B=RUNNING), told=entry(), after=MINUTE)
    decided = planned(seen)
    assert outside(decided) == [
        Detach("f1", "A"),
        Attach("f1", "A"),
        Detach("f1", "B"),
        Attach("f1", "B"),
    ]
    assert decided.before is not None
    assert decided.before.obstacle is None
    assert decided.before.indexing == seen.now


@pytest.mark.parametrize(
    "told",
    [
        entry(words=frozenset({Word.FAILED})),  # it still tells of the failure
        entry(fresh=False),  # it cannot tell of one
    ],
)
def test_a_record_that_was_not_set_back_is_not_tried_before_its_time(told: Entry) -> None:
    decided = planned(sight(failed_before(1), *members(A=FAILED, B=READY), told=told, after=MINUTE))
    assert outside(decided) == []
    assert isinstance(decided.ending, Wait)


@pytest.mark.parametrize(
    ("md5", "known", "content"),
    [
        (None, base(), DIGESTER.of(M1)),
        (md5_of(b"v2"), base(recorded=DIGESTER.of(md5_of(b"v2"))), DIGESTER.of(md5_of(b"v2"))),
    ],
)
def test_a_failure_is_remembered_for_the_bytes_that_the_record_names_or_else_for_the_base_s(
    md5: str | None, known: DocumentBase, content: str
) -> None:
    told = entry(md5=md5, synced_hash=md5 or M1)
    facts = replace(FILE, md5=md5)
    decided = planned(sight(known, *members(A=FAILED, B=READY), told=told, file=facts))
    assert decided.after is not None
    assert decided.after.obstacle is not None
    assert decided.after.obstacle.content == content


def test_other_bytes_forget_that_their_predecessors_could_not_be_indexed() -> None:
    other = Obstacle(kind="indexing", content=DIGESTER.of("other"), tries=3, since=START)
    decided = planned(sight(base(obstacle=other), *members(A=FAILED, B=READY), after=MINUTE))
    assert decided.after is not None
    assert decided.after.obstacle is not None
    assert decided.after.obstacle.tries == 1


def test_an_earlier_version_that_stays_is_told_of() -> None:
    known = base(retired=(Retired(file_id="f0", ours=True),))
    both = Found(frozenset({"f0", "f1"})).with_members(
        [Member("f0", "A"), Member("f0", "B"), *members(A=FAILED, B=READY)]
    )
    decided = planned(sight(known, found=both))
    assert noted(decided)[Noted.MESSAGE] == texts.not_indexed("cannot parse", earlier=True)
    assert outside(decided) == [Detach("f0", "B")]


# -- refusals, and the last attempt ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "word"),
    [(413, Word.UNSUPPORTED), (415, Word.UNSUPPORTED), (400, Word.FAILED), (None, Word.FAILED)],
)
@pytest.mark.parametrize("content", [None, DIGESTER.of(M1)])
def test_a_refusal_is_told_in_the_record_and_remembered_for_these_bytes(
    status: int | None, word: Word, content: str | None
) -> None:
    known = base(indexing=None)
    seen = sight(known, told=entry(xai_id=None, collections=frozenset(), synced_hash=None))
    decided = refusal(seen, POLICY, status=status, words="upload: 400", content=content)
    message = texts.refused(status)
    assert (decided.rule, decided.reason) == ("refused", "xAI will not take the file as it is")
    assert noted(decided) == {Noted.STATUS: word, Noted.MESSAGE: message}
    assert decided.ending == Rejected("upload: 400", error="Invalid")
    assert [(t.kind, t.text) for t in decided.troubles] == [(Kind.REFUSED, message)]
    assert decided.before is not None
    assert decided.after is not None
    if content is None:
        assert decided.after.obstacle is None
        assert decided.before.obstacle is None
    else:
        remembered = Obstacle(kind="refused", content=content, since=START, status=status)
        assert decided.before.obstacle == remembered
        assert decided.after.obstacle == remembered.model_copy(update={"told": True})


def test_a_refusal_of_what_is_gone_meanwhile_is_told_nowhere() -> None:
    seen = Sight("d1", None, None, Found(), START, "run")
    decided = refusal(seen, POLICY, status=400, words="upload: 400")
    assert decided.actions == ()
    assert decided.ending == Rejected("upload: 400", error="Invalid")


@pytest.mark.parametrize("status", [413, 400])
def test_refused_bytes_are_not_sent_again_until_a_person_asks(status: int) -> None:
    obstacle = Obstacle(
        kind="refused", content=DIGESTER.of(M1), since=START, status=status, told=True
    )
    word = Word.UNSUPPORTED if status == 413 else Word.FAILED
    known = base(file_id=None, ours=False, content=None, indexing=None, obstacle=obstacle)
    never = entry(
        xai_id=None,
        collections=frozenset(),
        synced_hash=None,
        fresh=False,
        says=word,
        words=frozenset({word}),
        message=texts.refused(status),
    )
    decided = planned(sight(known, told=never, found=Found(), file=FILE))
    assert decided.rule == "refused"
    assert decided.actions == ()
    assert decided.ending == Rejected(
        "xAI refused these bytes before; they were not sent again", "Invalid"
    )
    assert [(t.kind, t.text) for t in decided.troubles] == [(Kind.REFUSED, texts.refused(status))]

    asked = replace(never, fresh=True, says=None, words=frozenset())
    assert plan(sight(known, told=asked, found=Found(), file=FILE), POLICY) != decided
    other = replace(never, md5=md5_of(b"v2"))
    assert plan(sight(known, told=other, found=Found(), file=FILE), POLICY) != decided


def test_the_last_attempt_is_told_and_ends_nothing_itself() -> None:
    known = base(indexing=None)
    seen = sight(known, *members(A=READY, B=READY))
    decided = gave_up(seen, POLICY, attempts=6)
    message = texts.gave_up(6)
    assert (decided.rule, decided.reason) == ("gave up", "attempt 6 was the last")
    assert noted(decided) == {Noted.STATUS: Word.FAILED, Noted.MESSAGE: message}
    assert decided.ending is None
    assert decided.before is not None
    assert decided.after is not None
    assert decided.before.file_id == decided.after.file_id == "f1"
    assert [(t.kind, t.text) for t in decided.troubles] == [(Kind.GAVE_UP, message)]

    still = known.model_copy(
        update={"told": (Told(kind=Kind.COLLECTION_MISSING, means="task", since=START),)}
    )
    again = gave_up(replace(seen, base=still), POLICY, attempts=6)
    assert not any(isinstance(action, CloseTask) for action in again.actions)

    gone = gave_up(replace(seen, entry=None), POLICY, attempts=6)
    assert gone == Plan("gave up", "attempt 6 was the last", known, (), known)
