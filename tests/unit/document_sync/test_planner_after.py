"""What each row of the decision table says in the journal, and leaves in the base."""

from dataclasses import replace
from typing import Any

import pytest

from bitbylaw_common.outcomes import Rejected
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.model import (
    Absent,
    DocumentBase,
    Entry,
    FileFacts,
    Found,
    Noted,
    Obstacle,
    Plan,
    Sight,
    Word,
)
from bitbylaw_document_sync.domain.notices import Kind
from bitbylaw_document_sync.domain.planner import plan
from unit.document_sync.fakes import DIGESTER, START, md5_of
from unit.document_sync.test_planner import (
    CASES,
    KNOWN,
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

CONTENTS = {DIGESTER.of(M1): "v1", DIGESTER.of(M2): "v2", None: "unknown"}


def told(known: DocumentBase | None) -> str:
    """Return a base in words."""
    if known is None:
        return "nothing"
    words = [known.file_id or "no file", *(["ours"] if known.ours else [])]
    words.append(f"{CONTENTS[known.content]}, recorded {CONTENTS[known.recorded]}")
    words.append(f"in {'+'.join(known.collections) or 'none'}")
    words += [f"{'our ' if r.ours else ''}{r.file_id} retired" for r in known.retired]
    return ", ".join(words)


GONE = "the record is gone: its file leaves every collection"
ADDED = "it is wanted where it is not yet"
LEFT = "it is where it is not wanted any more"
SAME = "told as new or changed, but the bytes are the same"
CLEARED = "an earlier file of it is to be cleared away"
UNWANTED = "no active collection wants it"
NEVER = "no active collection wants it, and it was never uploaded"
OURS = "f1, ours, v1, recorded v1, in A"
THEIRS = "f1, v1, recorded v1, in A"
NEXT = "f2, ours, v2, recorded v2, in A"
ROWS = {
    "1 gone": (GONE, OURS, "nothing"),
    "1 gone, with a file that was to be cleared away": (GONE, f"{OURS}, our f0 retired", "nothing"),
    "1 gone and unknown": ("the record is gone, and nothing of it is known", "nothing", "nothing"),
    "2 no file": ("the record carries no file", "nothing", "nothing"),
    "2 no file, told as new": ("the record carries no file", "nothing", "nothing"),
    "2 file taken away": (
        "the record carries no file now",
        OURS,
        "f1, ours, v1, recorded v1, in none",
    ),
    "3 in no collection": (NEVER, "nothing", "nothing"),
    "3 in no collection, told as new": (NEVER, "nothing", "nothing"),
    "5 in line, no base": (
        "both sides agree already, as somebody before us left them",
        THEIRS,
        THEIRS,
    ),
    "5 in line": ("already in line", OURS, OURS),
    "5 the record lost what we wrote": (
        "it is in line at xAI, the record does not say so",
        OURS,
        OURS,
    ),
    "6 same bytes, no base": (SAME, THEIRS, THEIRS),
    "6 same bytes": (SAME, OURS, OURS),
    "8 added": (ADDED, f"{OURS}+B", f"{OURS}+B"),
    "8 added, no base": (ADDED, f"{THEIRS}+B", f"{THEIRS}+B"),
    "8 fallen out at xAI": (ADDED, OURS, OURS),
    "9 left": (LEFT, f"{OURS}+B", OURS),
    "9 left, no base": (LEFT, f"{THEIRS}+B", THEIRS),
    "8 and 9 moved": ("it is wanted elsewhere than it is", f"{OURS}+B", f"{OURS}+B"),
    "10 unlinked": (UNWANTED, OURS, "f1, ours, v1, recorded v1, in none"),
    "10 unlinked, no base": (UNWANTED, THEIRS, "f1, v1, recorded v1, in none"),
    "7 second half: the old file is cleared away last": (
        CLEARED,
        f"{NEXT}, our f1 retired",
        f"{NEXT}, our f1 retired",
    ),
    "7 second half: an old file that is not ours stays": (
        CLEARED,
        f"{NEXT}, f1 retired",
        f"{NEXT}, f1 retired",
    ),
    "7 second half: another record uses the old file": (
        CLEARED,
        f"{NEXT}, our f1 retired",
        f"{NEXT}, our f1 retired",
    ),
    "12 unsupported": (
        "files of this type hold no text that xAI could search",
        "nothing",
        "nothing",
    ),
    "12 too large": ("the file is larger than 48 MiB", "nothing", "nothing"),
    "12 empty": ("the file is empty", "nothing", "nothing"),
    "12 said already": ("the file is empty", "nothing", "nothing"),
    "18 one of two is gone": ("a collection is gone", OURS, OURS),
}


def planned(seen: Sight) -> Plan:
    decided = plan(seen, POLICY)
    assert isinstance(decided, Plan)
    return decided


def test_every_row_has_its_words() -> None:
    assert ROWS.keys() == CASES.keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_why_and_leaves_this_in_the_base(name: str) -> None:
    case = CASES[name]
    decided = planned(sight(case.told, case.knows, case.seen, **case.more))
    assert (decided.reason, told(decided.before), told(decided.after)) == ROWS[name]


REFUSED = Obstacle(kind="refused", content=DIGESTER.of(M2), since=START, status=415)
WORDS: dict[str, Any] = {
    "fresh": False,
    "says": Word.UNSUPPORTED,
    "words": frozenset({Word.UNSUPPORTED}),
}


def test_bytes_that_were_refused_leave_the_earlier_version_where_it_is() -> None:
    known = base(obstacle=REFUSED)
    facts = FileFacts("att2", "Klage.pdf", "application/pdf", 2)
    other: Entry = synced(md5=M2, attachment_id="att2", fresh=True)
    decided = planned(sight(other, known, found("f1 A"), file=facts))
    message = texts.refused(415)
    assert decided.rule == "refused"
    assert noted(decided) == {Noted.STATUS: Word.UNSUPPORTED, Noted.MESSAGE: message}
    assert decided.ending == Rejected(
        "xAI refused these bytes before; they were not sent again", "Invalid"
    )
    assert [(t.kind, t.text) for t in decided.troubles] == [(Kind.REFUSED, message)]
    assert decided.after is not None
    assert (decided.after.file_id, decided.after.collections) == ("f1", ("A",))


def test_a_refusal_that_the_record_does_not_tell_of_yet_is_told() -> None:
    known = base(
        file_id=None,
        ours=False,
        content=None,
        recorded=None,
        obstacle=REFUSED.model_copy(update={"content": DIGESTER.of(M1)}),
    )
    decided = planned(sight(entry(fresh=True), known, Found(), file=KNOWN))
    message = texts.refused(415)
    assert (decided.rule, decided.reason) == ("refused", "xAI would not take these bytes before")
    assert noted(decided) == {Noted.STATUS: Word.UNSUPPORTED, Noted.MESSAGE: message}
    assert told(decided.before) == "no file, unknown, recorded unknown, in A"
    assert decided.after is not None
    assert decided.after.obstacle is not None
    assert decided.after.obstacle.told
    assert decided.before is not None
    assert decided.before.obstacle is not None
    assert not decided.before.obstacle.told
    assert [(t.kind, t.text) for t in decided.troubles] == [(Kind.REFUSED, message)]


def test_where_nothing_is_that_wants_it_says_so_and_ends() -> None:
    told_new = entry(fresh=True, wanted=frozenset({"X", "Y"}))
    decided = planned(sight(told_new, None, Found(), file=replace(KNOWN, md5=md5_of(b"v1"))))
    message = texts.collections_missing({"X", "Y"})
    assert (decided.rule, decided.reason) == (
        "row 18: collection gone",
        "no collection that wants it exists at xAI",
    )
    assert noted(decided) == {Noted.STATUS: Word.FAILED, Noted.MESSAGE: message}
    assert [(t.kind, t.text) for t in decided.troubles] == [(Kind.COLLECTION_MISSING, message)]
    assert isinstance(decided.ending, Rejected)
    known = base(file_id=None, ours=False, content=None, recorded=None, collections=())
    again = planned(sight(told_new, known, Found(), file=replace(KNOWN, md5=md5_of(b"v1"))))
    assert told(again.before) == told(again.after) == "no file, unknown, recorded unknown, in none"


@pytest.mark.parametrize("fresh", [True, False])
def test_a_record_without_a_file_says_so_where_somebody_waits_for_a_word(fresh: bool) -> None:
    known = base(file_id=None, ours=False, content=None, recorded=None)
    empty = entry(attachment_id=None, md5=None, fresh=fresh, message="von Hand")
    decided = planned(sight(empty, known, Found()))
    assert told(decided.before) == told(decided.after) == "no file, unknown, recorded unknown, in A"
    if fresh:
        assert noted(decided) == {Noted.STATUS: Word.FAILED, Noted.MESSAGE: texts.NO_FILE}
        assert [(t.kind, t.text) for t in decided.troubles] == [(Kind.NO_FILE, texts.NO_FILE)]
    else:
        assert decided.actions == ()
        assert decided.troubles == ()


@pytest.mark.parametrize("why", ["empty", "absent"])
def test_the_earlier_version_of_what_cannot_be_uploaded_stays_and_is_told(why: str) -> None:
    other = synced(md5=M2, attachment_id="att2", fresh=True)
    facts = (
        FileFacts("att2", "Klage.pdf", "application/pdf", 0) if why == "empty" else Absent("att2")
    )
    decided = planned(sight(other, base(), found("f1 A"), file=facts))
    rule, reason, kind = {
        "empty": ("row 12: not fit for xAI", "the file is empty", Kind.EMPTY),
        "absent": ("row 2: no file", "EspoCRM does not have the file", Kind.NO_FILE),
    }[why]
    assert (decided.rule, decided.reason) == (rule, f"{reason}; the earlier version stays")
    (trouble,) = decided.troubles
    assert trouble.kind is kind
    assert noted(decided)[Noted.MESSAGE] == trouble.text
    assert told(decided.after) == OURS
