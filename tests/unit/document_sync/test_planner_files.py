"""Which file at xAI is the document's, and what the base knows of it."""

from dataclasses import replace
from typing import Any

import pytest

from bitbylaw_common.outcomes import Rejected
from bitbylaw_common.sync.digests import NORMALISER
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.filetypes import Unfit
from bitbylaw_document_sync.domain.model import (
    Absent,
    AskFile,
    AskSharers,
    Attach,
    DeleteFile,
    Detach,
    DocumentBase,
    Entry,
    FileFacts,
    Found,
    Noted,
    Obstacle,
    Plan,
    Retired,
    Sharer,
    Sight,
    Upload,
    UploadIntent,
    Word,
)
from bitbylaw_document_sync.domain.naming import trace
from bitbylaw_document_sync.domain.notices import Kind
from bitbylaw_document_sync.domain.planner import plan
from unit.document_sync.fakes import DIGESTER, SETTLE, START
from unit.document_sync.test_planner import (
    KNOWN,
    M1,
    M2,
    PENDING,
    POLICY,
    UNSURE,
    base,
    entry,
    found,
    noted,
    outside,
    sight,
    synced,
)
from unit.document_sync.test_planner_after import told


def planned(seen: Sight) -> Plan:
    decided = plan(seen, POLICY)
    assert isinstance(decided, Plan)
    return decided


def after(seen: Sight) -> DocumentBase:
    left = planned(seen).after
    assert left is not None
    return left


OUR_F1 = (Retired(file_id="f1", ours=True),)
THEIR_F1 = (Retired(file_id="f1", ours=False),)

# -- which file -------------------------------------------------------------------------------------


def test_a_record_is_believed_that_notes_another_file_with_these_bytes() -> None:
    known = base(file_id="f2", content=DIGESTER.of(M2), recorded=None, retired=OUR_F1)
    seen = sight(synced(), known, found("f1 A", "f2 A", files=("f1", "f2")))
    assert outside(planned(seen)) == [Detach("f2", "A"), DeleteFile("f2")]
    assert told(after(seen)) == "f1, ours, v1, recorded v1, in A"
    other = replace(seen, base=known.model_copy(update={"retired": THEIR_F1}))
    assert told(after(other)) == "f1, v1, recorded v1, in A"


def test_a_record_is_not_believed_about_bytes_that_the_base_knows_better() -> None:
    known = base(content=DIGESTER.of(M2), recorded=None)
    decided = planned(sight(synced(), known, found("f1 A")))
    assert decided.rule == "row 7: other bytes"


def test_bytes_that_nobody_ever_knew_are_not_taken_for_the_same() -> None:
    never = base(content=None, recorded=None)
    decided = planned(sight(synced(synced_hash=None), never, found("f1 A")))
    assert decided.rule == "row 7: other bytes"


def test_what_is_known_of_another_attachment_is_not_this_one_s() -> None:
    other = FileFacts("other", "Anlage.pdf", "application/pdf", 2, M2)
    assert plan(sight(entry(), None, Found(), file=other), POLICY) == AskFile("att", hashed=False)


# -- an upload --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "seen", "reason"),
    [
        (entry(), Found(), "it is wanted and was never uploaded"),
        (synced(), Found(), "xAI does not have its file any more"),
        (synced(md5=M2), found("f1 A"), "its bytes are not the ones at xAI"),
    ],
)
def test_an_upload_says_why_and_the_base_knows_of_it_before(
    record: Entry, seen: Found, reason: str
) -> None:
    old = Obstacle(kind="refused", content="x", since=START)
    known = base(content="x", recorded=None, collections=("X",), obstacle=old)
    if record.xai_id is None:
        known = known.model_copy(update={"file_id": None, "ours": False})
    decided = planned(sight(record, known, seen))
    intent = UploadIntent(
        since=START,
        attachment_id="att",
        name=DIGESTER.of(trace("Klage.pdf")),
        content=DIGESTER.of(record.md5 or ""),
        recorded=DIGESTER.of(record.md5 or ""),
        size=2,
        run_id="run",
    )
    assert decided.reason == reason
    assert decided.actions == (
        Upload("att", "Klage.pdf", "application/pdf", 2, record.md5 or "", intent),
    )
    assert decided.more
    assert decided.before == decided.after
    assert decided.before is not None
    assert decided.before.pending == intent
    assert decided.before.collections == ("A", "X")
    assert decided.before.obstacle is None


def test_without_a_base_an_upload_remembers_the_places_that_the_record_names() -> None:
    decided = planned(sight(synced(md5=M2, collections=frozenset("Y")), None, found("f1 A")))
    assert decided.before is not None
    assert decided.before.collections == ("A", "Y")


def test_a_record_without_a_hash_leaves_none_in_the_intent() -> None:
    decided = planned(sight(entry(md5=None), None, Found(), file=replace(KNOWN, md5=M1)))
    (upload,) = decided.actions
    assert isinstance(upload, Upload)
    assert (upload.md5, upload.intent.content, upload.intent.recorded) == (
        M1,
        DIGESTER.of(M1),
        None,
    )


def test_an_upload_of_unknown_fate_is_remembered_while_it_is_waited_for() -> None:
    known = UNSURE.model_copy(update={"collections": ("A", "X"), "retired": OUR_F1})
    decided = planned(sight(entry(), known, Found(), uploads=()))
    assert decided.reason == "an upload began and no answer came; uploading now could make a twin"
    for left in (decided.before, decided.after):
        assert left is not None
        assert (left.pending, left.collections, left.retired) == (PENDING, ("A", "X"), OUR_F1)


def test_an_upload_that_never_came_to_be_is_forgotten_and_nothing_else() -> None:
    known = UNSURE.model_copy(update={"collections": ("X",)})
    unlinked = sight(entry(wanted=frozenset()), known, Found(), uploads=())
    decided = planned(replace(unlinked, now=START + SETTLE))
    assert decided.rule == "row 3: not wanted"
    for left in (decided.before, decided.after):
        assert left is not None
        assert left.pending is None
        assert left.collections == ("X",)


# -- what cannot be uploaded ------------------------------------------------------------------------

EMPTY = replace(KNOWN, attachment_id="att2", size=0)
OTHER = synced(md5=M2, attachment_id="att2")


def test_an_attachment_that_is_gone_and_was_never_at_xai_leaves_nothing_earlier() -> None:
    decided = planned(sight(synced(fresh=True), base(), Found(), file=Absent("att")))
    assert (decided.rule, decided.reason) == (
        "row 2: no file",
        "the record names a file that EspoCRM does not have",
    )
    assert noted(decided) == {Noted.STATUS: Word.FAILED, Noted.MESSAGE: texts.NO_FILE}


def test_an_attachment_that_is_gone_makes_the_record_failed_while_the_earlier_one_stays() -> None:
    decided = planned(sight(OTHER, base(), found("f1 A"), file=Absent("att2")))
    assert noted(decided) == {Noted.STATUS: Word.FAILED, Noted.MESSAGE: texts.NO_FILE}


def test_an_earlier_file_that_is_gone_at_xai_does_not_stay() -> None:
    decided = planned(sight(OTHER, base(), Found(), file=EMPTY))
    message = texts.not_uploaded(Unfit.EMPTY, earlier=False)
    assert noted(decided)[Noted.MESSAGE] == message
    assert [(one.kind, one.text) for one in decided.troubles] == [(Kind.EMPTY, message)]
    assert outside(decided) == []


@pytest.mark.parametrize(
    ("file_id", "files", "stays"),
    [("f2", ("f1", "f2"), "f2"), ("f0", ("f1", "f2"), "f1"), (None, ("f2", "f1"), "f1")],
)
def test_of_several_earlier_files_the_document_s_own_stays(
    file_id: str | None, files: tuple[str, ...], stays: str
) -> None:
    retired = tuple(Retired(file_id=one, ours=False) for one in ("f1", "f2") if one != file_id)
    known = base(file_id=file_id, retired=retired)
    told = replace(OTHER, xai_id=file_id or "f1")
    decided = planned(sight(told, known, Found(frozenset(files)), file=EMPTY))
    assert outside(decided) == [Attach(stays, "A")]


def test_who_else_uses_earlier_files_is_asked_before_they_leave() -> None:
    seen = sight(OTHER, base(), found("f1 A", "f1 B"), file=EMPTY, sharers=None)
    assert plan(seen, POLICY) == AskSharers(("f1",))
    gone = sight(synced(wanted=frozenset("AX")), base(), found("f1 A", "f1 B"), sharers=None)
    assert plan(gone, POLICY) == AskSharers(("f1",))


def test_an_earlier_version_is_not_called_the_record_s_bytes() -> None:
    """It is not known whose they are; nor is the file that the base has as its own cleared away."""
    never = base(content=None, recorded=None, attachment_id=None, retired=OUR_F1)
    left = after(sight(OTHER, never, found("f1 A"), file=EMPTY))
    assert (left.content, left.recorded, left.attachment_id) == (None, None, None)
    assert (left.file_id, left.retired) == ("f1", ())
    knew = sight(OTHER, base(retired=OUR_F1), found("f1 A"), file=EMPTY)
    assert told(after(knew)) == "f1, ours, v1, recorded v1, in A"
    assert outside(planned(knew)) == []


# -- refused ----------------------------------------------------------------------------------------

REFUSED = Obstacle(kind="refused", content=DIGESTER.of(M1), since=START, status=415, told=True)
NEVER = base(file_id=None, ours=False, content=None, recorded=None, obstacle=REFUSED)


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        ({"fresh": True}, True),
        ({"fresh": True, "words": frozenset({Word.FAILED})}, True),
        ({"fresh": True, "words": frozenset({Word.UNSUPPORTED})}, False),
        ({"words": frozenset()}, False),
    ],
)
def test_refused_bytes_are_sent_again_once_a_person_set_the_record_back(
    changes: dict[str, Any], sent: bool
) -> None:
    decided = planned(sight(entry(**changes), NEVER, Found()))
    assert isinstance(decided.actions[0], Upload) is sent


def test_refused_bytes_whose_earlier_version_is_gone_leave_only_words() -> None:
    known = base(obstacle=REFUSED, content=DIGESTER.of(M2), recorded=None)
    decided = planned(sight(synced(synced_hash=M2), known, Found()))
    assert (decided.rule, decided.reason) == ("refused", "xAI would not take these bytes before")
    assert outside(decided) == []
    assert decided.before is not None
    assert decided.before.obstacle == REFUSED
    assert decided.before.file_id == "f1"


# -- collections that are gone ----------------------------------------------------------------------


def test_collections_that_are_gone_are_named_to_the_operator() -> None:
    decided = planned(sight(entry(wanted=frozenset("YX")), None, Found()))
    assert decided.ending == Rejected(
        "xAI has no such collection: X, Y; correct the knowledge base, then redrive",
        error="CollectionMissing",
    )


# -- the base ---------------------------------------------------------------------------------------


def test_a_base_is_made_of_what_the_record_proves() -> None:
    proved = sight(synced(wanted=frozenset()), None, found())
    left = after(proved)
    assert told(left) == "f1, v1, recorded v1, in none"
    assert left.attachment_id == "att"
    for unproved in (
        synced(wanted=frozenset(), md5=M2),
        synced(wanted=frozenset(), md5=None),
        synced(wanted=frozenset(), md5=None, sha256=M1),
    ):
        left = after(sight(unproved, None, found()))
        assert told(left) == "f1, unknown, recorded unknown, in none"
        assert left.attachment_id is None
    before = planned(sight(synced(wanted=frozenset(), collections=frozenset("BA")), None, found()))
    assert before.before is not None
    assert before.before.collections == ("A", "B")


def test_a_base_of_another_key_keeps_the_file_and_forgets_every_digest() -> None:
    old = base(key_id="old", normaliser=0, content="x", recorded="x", hashes=("x",))
    left = after(sight(synced(wanted=frozenset(), md5=M2), old, found("f1 A")))
    assert (left.key_id, left.normaliser) == (DIGESTER.key_id, NORMALISER)
    assert (left.content, left.recorded, left.hashes) == (None, None, ())
    assert (left.file_id, left.ours) == ("f1", True)


def test_an_adopted_file_is_known_by_the_attachment_that_it_was_made_of() -> None:
    left = after(sight(synced(), base(attachment_id=None, content=None), found("f1 A")))
    assert told(left) == "f1, ours, v1, recorded v1, in A"
    assert left.attachment_id == "att"


# -- the record is gone -----------------------------------------------------------------------------


def test_who_else_uses_the_file_of_a_record_that_is_gone_is_asked_before_anything_goes() -> None:
    known = base(retired=(Retired(file_id="f0", ours=True),))
    for seen in (found("f1 A"), Found(frozenset({"f0"}))):
        gone = sight(None, known, seen, sharers=None)
        assert plan(gone, POLICY) == AskSharers(("f0", "f1"))
    nothing = planned(sight(None, known, Found(), sharers=None))
    assert nothing.actions == ()


def test_a_file_that_another_record_notes_is_not_deleted_with_this_one() -> None:
    known = base(retired=(Retired(file_id="f0", ours=True), Retired(file_id="f2", ours=True)))
    seen = Found(frozenset({"f0", "f2"}))
    others = (Sharer("d2", "f0", frozenset()),)
    assert planned(sight(None, known, seen, sharers=others)).actions == (DeleteFile("f2"),)
