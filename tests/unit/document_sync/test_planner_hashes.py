"""The hash that xAI reports of a file, and the one that the record notes."""

from dataclasses import replace
from typing import Any

import pytest

from bitbylaw_common.outcomes import Rejected
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.model import (
    Absent,
    AskFile,
    AskSharers,
    Attach,
    DocumentBase,
    Found,
    Indexing,
    Member,
    Noted,
    Obstacle,
    Plan,
    Sight,
    Upload,
    Word,
)
from bitbylaw_document_sync.domain.notices import Kind
from bitbylaw_document_sync.domain.planner import plan
from unit.document_sync.fakes import DIGESTER, START, md5_of
from unit.document_sync.test_planner import (
    KNOWN,
    M1,
    M2,
    POLICY,
    base,
    noted,
    outside,
    sight,
    synced,
)

OURS, THEIRS = "1" * 64, "9" * 64
M3 = md5_of(b"v3")
WRONG = Obstacle(kind="hash", content=DIGESTER.of(M1), since=START, file_id="f1")


def sent(**changes: Any) -> DocumentBase:
    """Return a base that knows what xAI may report of its file."""
    return base(**{"hashes": (DIGESTER.of(OURS),), **changes})


def reported(hash: str, *places: str, file: str = "f1") -> Found:  # noqa: A002 - xAI's word
    members = [Member(file, place, Indexing.READY, hash) for place in places or ("A",)]
    return Found(frozenset({file})).with_members(members)


def planned(seen: Sight) -> Plan:
    decided = plan(seen, POLICY)
    assert isinstance(decided, Plan)
    return decided


# -- what xAI reports -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "hash_"),
    [
        (sent(), OURS),
        (sent(), ""),
        (sent(), "9" * 63),
        (sent(), M2),
        (sent(hashes=()), THEIRS),
        (sent(key_id="old"), THEIRS),
        (sent(content=None), THEIRS),
        (None, THEIRS),
    ],
)
def test_only_another_hash_of_the_kind_that_xai_was_sent_proves_anything(
    known: DocumentBase | None, hash_: str
) -> None:
    decided = planned(sight(synced(), known, reported(hash_)))
    assert decided.rule in ("row 5: in line", "row 5: adopted")
    assert decided.actions == ()


@pytest.mark.parametrize("obstacle", [None, WRONG])
def test_bytes_that_xai_tells_otherwise_of_are_sent_again_until_they_are(
    obstacle: Obstacle | None,
) -> None:
    known = sent(obstacle=obstacle, collections=("A", "X"))
    decided = planned(sight(synced(), known, reported(THEIRS)))
    assert (decided.rule, decided.reason) == (
        "hash differs",
        "xAI reports the hash of other bytes: sent again, once",
    )
    (upload,) = decided.actions
    assert isinstance(upload, Upload)
    assert decided.before == decided.after
    assert decided.before is not None
    assert decided.before.pending == upload.intent
    assert decided.before.obstacle == WRONG
    assert decided.before.collections == ("A", "X")
    assert decided.more
    assert decided.ending is None


def test_another_obstacle_with_these_bytes_does_not_count_as_having_sent_them_again() -> None:
    failed = Obstacle(kind="indexing", content=DIGESTER.of(M1), since=START, file_id="f0")
    decided = planned(sight(synced(), sent(obstacle=failed), reported(THEIRS)))
    assert decided.before is not None
    assert decided.before.obstacle == WRONG


SENT_AGAIN = sent(file_id="f2", obstacle=WRONG)


def test_where_it_helps_nothing_the_record_says_so_and_a_person_is_told() -> None:
    told = synced(xai_id="f2", fresh=True)
    decided = planned(sight(told, SENT_AGAIN, reported(THEIRS, file="f2")))
    assert (decided.rule, decided.reason) == (
        "hash differs",
        "xAI reports the hash of other bytes again",
    )
    assert outside(decided) == []
    assert noted(decided) == {Noted.STATUS: Word.FAILED, Noted.MESSAGE: texts.HASH_DIFFERS}
    assert decided.ending == Rejected(
        "xAI reports the hash of other bytes, twice", error="HashDiffers"
    )
    (trouble,) = decided.troubles
    assert (trouble.kind, trouble.text) == (Kind.INDEXING_FAILED, texts.HASH_DIFFERS)
    assert decided.after is not None
    assert decided.after.obstacle == WRONG


def test_once_the_hash_is_the_right_one_nothing_is_in_the_way_any_more() -> None:
    decided = planned(sight(synced(xai_id="f2"), SENT_AGAIN, reported(OURS, file="f2")))
    assert decided.actions == ()
    assert decided.after is not None
    assert decided.after.obstacle is None


def test_a_file_with_a_wrong_hash_is_still_put_where_it_is_wanted_first() -> None:
    told = synced(xai_id="f2", wanted=frozenset("AB"))
    decided = planned(sight(told, SENT_AGAIN, reported(THEIRS, file="f2")))
    assert decided.actions == (Attach("f2", "B"),)
    assert decided.ending is None
    assert decided.more
    unasked = sight(synced(xai_id="f2"), SENT_AGAIN, reported(THEIRS, "A", "B", file="f2"))
    assert plan(replace(unasked, sharers=None), POLICY) == AskSharers(("f2",))


# -- what the record notes --------------------------------------------------------------------------

# The CRM named M2 from the beginning; what was uploaded had M1.
MISNAMED = {"md5": M2, "synced_hash": M2}
KNEW = base(recorded=DIGESTER.of(M2))


def test_the_record_notes_the_hash_of_the_bytes() -> None:
    decided = planned(sight(synced(synced_hash=M3), base(), reported("")))
    assert noted(decided) == {Noted.HASH: M1}


def test_where_the_crm_may_be_wrong_the_bytes_are_read() -> None:
    seen = sight(synced(**MISNAMED), KNEW, reported(""))
    assert plan(seen, POLICY) == AskFile("att", hashed=True)
    assert plan(replace(seen, file=None), POLICY) == AskFile("att", hashed=True)
    by_sha = synced(**{**MISNAMED, "sha256": M2})
    assert plan(replace(seen, entry=by_sha), POLICY) == AskFile("att", hashed=True)
    read = planned(replace(seen, file=replace(KNOWN, md5=M1)))
    assert noted(read) == {Noted.HASH: M1}


@pytest.mark.parametrize("facts", [Absent("att"), replace(KNOWN, md5=M3)])
def test_a_hash_that_nothing_confirms_stays_as_it_is(facts: Any) -> None:
    decided = planned(sight(synced(**MISNAMED), KNEW, reported(""), file=facts))
    assert decided.actions == ()


def test_a_hash_that_cannot_be_noted_is_not_worth_reading_the_bytes() -> None:
    told = synced(**MISNAMED, writable=frozenset({Noted.STATUS}))
    assert planned(sight(told, KNEW, reported(""))).actions == ()


def test_a_record_that_notes_the_sha_256_of_these_bytes_keeps_it() -> None:
    told = synced(sha256="abc", synced_hash="abc")
    assert planned(sight(told, base(), reported(""))).actions == ()
    other = synced(sha256="abc", synced_hash=M3)
    assert noted(planned(sight(other, base(), reported("")))) == {Noted.HASH: M1}
