"""The decision table of the document sync, row by row, with and without a base."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbylaw_common.outcomes import Rejected, Wait
from bitbylaw_common.sync.digests import Digester
from bitbylaw_document_sync.domain.model import (
    Absent,
    Action,
    AskCollections,
    AskFile,
    AskSharers,
    AskUploads,
    Attach,
    DeleteFile,
    Detach,
    DocumentBase,
    Entry,
    FileFacts,
    Found,
    Member,
    Noted,
    Plan,
    Retired,
    Sharer,
    Sight,
    Upload,
    UploadIntent,
    Word,
    WriteBack,
)
from bitbylaw_document_sync.domain.naming import trace
from bitbylaw_document_sync.domain.planner import Policy, plan, resembles
from unit.document_sync.fakes import DIGESTER, SETTLE, START, md5_of

M1, M2 = md5_of(b"v1"), md5_of(b"v2")
POLICY = Policy(DIGESTER, SETTLE)
KNOWN = FileFacts("att", "Klage.pdf", "application/pdf", 2)


def entry(**changes: Any) -> Entry:
    return replace(Entry("d1", "att", "Klage", md5=M1, wanted=frozenset({"A"})), **changes)


def synced(**changes: Any) -> Entry:
    return entry(**{"xai_id": "f1", "collections": frozenset({"A"}), "synced_hash": M1, **changes})


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
        "collections": ("A",),
    }
    return DocumentBase.model_validate({**values, **changes})


def found(*attached: str, files: tuple[str, ...] = ("f1",)) -> Found:
    """`found("f1 A")`: f1 exists and is attached to A."""
    pairs = frozenset((file, place) for file, place in (pair.split() for pair in attached))
    return Found(frozenset(files), pairs)


def sight(told: Entry | None, known: DocumentBase | None, seen: Found, **more: Any) -> Sight:
    asked: dict[str, Any] = {
        "file": KNOWN if told is not None and told.attachment_id else None,
        "sharers": (),
        "existing": frozenset("ABC"),
    }
    return Sight("d1", told, known, seen, START, "run", **{**asked, **more})


def whole(seen: Sight, policy: Policy = POLICY) -> Plan:
    """Return all that is done about the sight where xAI is done at once, as if it were one plan."""
    decided = plan(seen, policy)
    assert isinstance(decided, Plan)
    if not decided.more or isinstance(decided.actions[0], Upload):
        return decided
    joined = [Member(a.file_id, a.collection) for a in decided.actions if isinstance(a, Attach)]
    then = whole(replace(seen, base=decided.after, found=seen.found.with_members(joined)), policy)
    return replace(decided, actions=(*decided.actions, *then.actions), after=then.after, more=False)


def noted(plan: Plan) -> dict[Noted, Any]:
    return {
        what: value
        for action in plan.actions
        if isinstance(action, WriteBack)
        for what, value in action.values
    }


def outside(plan: Plan) -> list[Action]:
    return [action for action in plan.actions if not isinstance(action, WriteBack)]


@dataclass
class Case:
    told: Entry | None
    seen: Found
    rule: str
    does: list[Action] = field(default_factory=list)
    notes: dict[Noted, Any] = field(default_factory=dict)
    knows: DocumentBase | None = None
    more: dict[str, Any] = field(default_factory=dict)


C = frozenset
CASES = {
    "1 gone": Case(None, found("f1 A"), "row 1: record gone", [Detach("f1", "A")], knows=base()),
    "1 gone, with a file that was to be cleared away": Case(
        None,
        found("f1 A", "f0 A", files=("f0", "f1")),
        "row 1: record gone",
        [Detach("f0", "A"), Detach("f1", "A"), DeleteFile("f0")],
        knows=base(retired=(Retired(file_id="f0", ours=True),)),
    ),
    "1 gone and unknown": Case(None, Found(), "row 1: record gone"),
    "2 no file": Case(entry(attachment_id=None, md5=None), Found(), "row 2: no file"),
    "2 no file, told as new": Case(
        entry(attachment_id=None, md5=None, fresh=True),
        Found(),
        "row 2: no file",
        notes={Noted.STATUS: Word.FAILED},
    ),
    "2 file taken away": Case(
        synced(attachment_id=None, md5=None),
        found("f1 A"),
        "row 2: file taken away",
        [Detach("f1", "A")],
        {Noted.COLLECTIONS: ()},
        knows=base(),
    ),
    "3 in no collection": Case(entry(wanted=C()), Found(), "row 3: not wanted"),
    "3 in no collection, told as new": Case(
        entry(wanted=C(), fresh=True),
        Found(),
        "row 3: not wanted",
        notes={Noted.STATUS: Word.UNWANTED},
    ),
    "5 in line, no base": Case(synced(), found("f1 A"), "row 5: adopted"),
    "5 in line": Case(synced(), found("f1 A"), "row 5: in line", knows=base()),
    "5 the record lost what we wrote": Case(
        entry(),
        found("f1 A"),
        "row 5: in line",
        [],
        {Noted.FILE: "f1", Noted.COLLECTIONS: ("A",), Noted.HASH: M1},
        knows=base(),
    ),
    "6 same bytes, no base": Case(
        synced(fresh=True),
        found("f1 A"),
        "row 6: same bytes",
        notes={Noted.STATUS: Word.SYNCED},
    ),
    "6 same bytes": Case(
        synced(fresh=True),
        found("f1 A"),
        "row 6: same bytes",
        notes={Noted.STATUS: Word.SYNCED},
        knows=base(),
    ),
    "8 added": Case(
        synced(wanted=C("AB")),
        found("f1 A"),
        "row 8: collections added",
        [Attach("f1", "B")],
        {Noted.COLLECTIONS: ("A", "B")},
        knows=base(),
    ),
    "8 added, no base": Case(
        synced(wanted=C("AB")),
        found("f1 A"),
        "row 8: collections added",
        [Attach("f1", "B")],
        {Noted.COLLECTIONS: ("A", "B")},
    ),
    "8 fallen out at xAI": Case(
        synced(), found(), "row 8: collections added", [Attach("f1", "A")], knows=base()
    ),
    "9 left": Case(
        synced(collections=C("AB")),
        found("f1 A", "f1 B"),
        "row 9: collections left",
        [Detach("f1", "B")],
        {Noted.COLLECTIONS: ("A",)},
        knows=base(collections=("A", "B")),
    ),
    "9 left, no base": Case(
        synced(collections=C("AB")),
        found("f1 A", "f1 B"),
        "row 9: collections left",
        [Detach("f1", "B")],
        {Noted.COLLECTIONS: ("A",)},
    ),
    "8 and 9 moved": Case(
        synced(wanted=C("B")),
        found("f1 A"),
        "row 8 and 9: collections",
        [Attach("f1", "B"), Detach("f1", "A")],
        {Noted.COLLECTIONS: ("B",)},
        knows=base(),
    ),
    "10 unlinked": Case(
        synced(wanted=C()),
        found("f1 A"),
        "row 10: unlinked",
        [Detach("f1", "A")],
        {Noted.COLLECTIONS: ()},
        knows=base(),
    ),
    "10 unlinked, no base": Case(
        synced(wanted=C()),
        found("f1 A"),
        "row 10: unlinked",
        [Detach("f1", "A")],
        {Noted.COLLECTIONS: ()},
    ),
    "7 second half: the old file is cleared away last": Case(
        synced(md5=M2),
        found("f1 A", files=("f1", "f2")),
        "row 7: other bytes",
        [Attach("f2", "A"), Detach("f1", "A"), DeleteFile("f1")],
        {Noted.FILE: "f2", Noted.HASH: M2},
        knows=base(
            file_id="f2",
            content=DIGESTER.of(M2),
            recorded=DIGESTER.of(M2),
            retired=(Retired(file_id="f1", ours=True),),
        ),
    ),
    "7 second half: an old file that is not ours stays": Case(
        synced(md5=M2),
        found("f1 A", files=("f1", "f2")),
        "row 7: other bytes",
        [Attach("f2", "A"), Detach("f1", "A")],
        {Noted.FILE: "f2", Noted.HASH: M2},
        knows=base(file_id="f2", content=DIGESTER.of(M2), recorded=DIGESTER.of(M2)),
    ),
    "7 second half: another record uses the old file": Case(
        synced(md5=M2),
        found("f1 A", files=("f1", "f2")),
        "row 7: other bytes",
        [Attach("f2", "A")],
        {Noted.FILE: "f2", Noted.HASH: M2},
        knows=base(
            file_id="f2",
            content=DIGESTER.of(M2),
            recorded=DIGESTER.of(M2),
            retired=(Retired(file_id="f1", ours=True),),
        ),
        more={"sharers": (Sharer("d2", "f1", C("A")),)},
    ),
    "12 unsupported": Case(
        entry(),
        Found(),
        "row 12: not fit for xAI",
        notes={Noted.STATUS: Word.UNSUPPORTED},
        more={"file": replace(KNOWN, name="Setup.exe")},
    ),
    "12 too large": Case(
        entry(),
        Found(),
        "row 12: not fit for xAI",
        notes={Noted.STATUS: Word.UNSUPPORTED},
        more={"file": replace(KNOWN, size=48 * 1024 * 1024 + 1)},
    ),
    "12 empty": Case(
        entry(),
        Found(),
        "row 12: not fit for xAI",
        notes={Noted.STATUS: Word.UNSUPPORTED},
        more={"file": replace(KNOWN, size=0)},
    ),
    "12 said already": Case(
        entry(words=C({Word.UNSUPPORTED}), says=Word.UNSUPPORTED, writable=C({Noted.STATUS})),
        Found(),
        "row 12: not fit for xAI",
        more={"file": replace(KNOWN, size=0)},
    ),
    "18 one of two is gone": Case(
        synced(wanted=C("AX")),
        found("f1 A"),
        "row 18: collection gone",
        notes={Noted.STATUS: Word.FAILED},
        knows=base(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_row_does_what_the_table_says(name: str) -> None:
    case = CASES[name]
    decided = whole(sight(case.told, case.knows, case.seen, **case.more))
    assert decided.rule == case.rule
    assert outside(decided) == case.does
    told = noted(decided)
    told.pop(Noted.MESSAGE, None)
    assert told == case.notes
    assert decided.reason


@pytest.mark.parametrize("knows", [None, base(file_id=None, content=None, collections=())])
@pytest.mark.parametrize(
    ("told", "seen", "rule"),
    [
        (entry(), Found(), "row 4: new document"),
        (entry(fresh=True), Found(), "row 4: new document"),
        (synced(md5=M2), found("f1 A"), "row 7: other bytes"),
        (synced(), Found(), "row 11: file gone"),
    ],
)
def test_an_upload_stands_alone_and_after_its_intent(
    told: Entry, seen: Found, rule: str, knows: DocumentBase | None
) -> None:
    decided = plan(sight(told, knows, seen), POLICY)
    assert isinstance(decided, Plan)
    assert decided.rule == rule
    (upload,) = decided.actions
    assert isinstance(upload, Upload)
    assert (upload.md5, upload.size, upload.name) == (told.md5, 2, "Klage.pdf")
    assert decided.before is not None
    assert decided.before.pending == upload.intent
    assert "A" in decided.before.collections
    assert upload.intent.content == DIGESTER.of(upload.md5)


def test_other_bytes_with_a_base_are_uploaded_and_the_old_file_retires() -> None:
    decided = plan(sight(synced(md5=M2, attachment_id="att"), base(), found("f1 A")), POLICY)
    assert isinstance(decided, Plan)
    (upload,) = decided.actions
    assert isinstance(upload, Upload)
    assert decided.before is not None
    after = decided.before.with_file("f2", upload.intent)
    assert after.retired == (Retired(file_id="f1", ours=True),)
    assert (after.file_id, after.ours, after.pending) == ("f2", True, None)


def test_another_attachment_with_the_same_bytes_is_no_upload() -> None:
    decided = plan(sight(synced(attachment_id="other"), base(), found("f1 A")), POLICY)
    assert isinstance(decided, Plan)
    assert decided.actions == ()


def test_the_same_attachment_is_believed_over_a_record_without_a_hash() -> None:
    decided = plan(sight(synced(md5=None), base(), found("f1 A"), file=None), POLICY)
    assert isinstance(decided, Plan)
    assert decided.actions == ()


PENDING = UploadIntent(
    since=START,
    attachment_id="att",
    name=DIGESTER.of(trace("Klage.pdf")),
    content=DIGESTER.of(M1),
    recorded=DIGESTER.of(M1),
    size=2,
)
UNSURE = base(file_id=None, content=None, ours=False, pending=PENDING)


def test_a_pending_upload_is_looked_for_before_anything_else() -> None:
    assert plan(sight(entry(), UNSURE, Found()), POLICY) == AskUploads(PENDING, frozenset())
    assert plan(sight(None, UNSURE, Found()), POLICY) == AskUploads(PENDING, frozenset())


def test_a_pending_upload_that_is_not_found_is_waited_for_until_it_has_settled() -> None:
    early = replace(sight(entry(), UNSURE, Found(), uploads=()), now=START + timedelta(seconds=10))
    decided = plan(early, POLICY)
    assert isinstance(decided, Plan)
    assert decided.actions == ()
    assert decided.ending == Wait("an upload's fate is unknown", timedelta(seconds=170))
    late = plan(replace(early, now=START + SETTLE), POLICY)
    assert isinstance(late, Plan)
    assert isinstance(late.actions[0], Upload)


def test_a_found_upload_is_the_document_s_file() -> None:
    decided = plan(sight(entry(), UNSURE, Found(), uploads=("f9",)), POLICY)
    assert isinstance(decided, Plan)
    assert outside(decided) == [Attach("f9", "A")]
    assert decided.after is not None
    assert (decided.after.file_id, decided.after.ours) == ("f9", True)


def test_a_found_upload_of_a_deleted_record_is_deleted() -> None:
    decided = plan(sight(None, UNSURE, Found(), uploads=("f9",)), POLICY)
    assert isinstance(decided, Plan)
    assert decided.actions == (DeleteFile("f9"),)


def test_what_is_not_known_is_asked_for() -> None:
    nothing: dict[str, Any] = {"file": None, "sharers": None, "existing": None}
    assert plan(sight(entry(), None, Found(), **nothing), POLICY) == AskCollections(("A",))
    nothing["existing"] = frozenset("A")
    assert plan(sight(entry(), None, Found(), **nothing), POLICY) == AskFile("att", hashed=False)
    unhashed = sight(entry(md5=None), None, Found(), **{**nothing, "file": KNOWN})
    assert plan(unhashed, POLICY) == AskFile("att", hashed=True)
    moved = sight(synced(wanted=frozenset("B")), base(), found("f1 A", "f1 B"), sharers=None)
    assert plan(moved, POLICY) == AskSharers(("f1",))


def test_a_file_that_is_not_there_is_no_upload() -> None:
    decided = plan(sight(entry(fresh=True), None, Found(), file=Absent("att")), POLICY)
    assert isinstance(decided, Plan)
    assert decided.rule == "row 2: no file"
    assert noted(decided)[Noted.STATUS] is Word.FAILED


def test_a_document_wanted_only_where_nothing_is_ends_rejected() -> None:
    decided = plan(sight(entry(wanted=frozenset("X")), None, Found()), POLICY)
    assert isinstance(decided, Plan)
    assert isinstance(decided.ending, Rejected)
    assert "X" in decided.ending.reason


def test_another_digest_key_is_no_base_for_the_content_but_keeps_the_file() -> None:
    old = base(key_id="old", content="x", recorded="x")
    decided = plan(sight(synced(), old, found("f1 A")), POLICY)
    assert isinstance(decided, Plan)
    assert decided.actions == ()
    assert decided.after is not None
    assert (decided.after.key_id, decided.after.ours) == (DIGESTER.key_id, True)
    assert decided.after.content == DIGESTER.of(M1)


def test_a_collection_on_hold_gains_and_loses_nothing() -> None:
    told = synced(wanted=frozenset("A"), on_hold=frozenset("BC"), collections=frozenset("AB"))
    decided = plan(sight(told, base(collections=("A", "B")), found("f1 A", "f1 B")), POLICY)
    assert isinstance(decided, Plan)
    assert decided.actions == ()


def test_with_the_policy_delete_an_unlinked_file_of_ours_goes() -> None:
    policy = Policy(DIGESTER, SETTLE, delete_files=True)
    told = sight(synced(wanted=frozenset()), base(), found("f1 A"))
    decided = plan(told, policy)
    assert isinstance(decided, Plan)
    assert outside(decided) == [Detach("f1", "A"), DeleteFile("f1")]
    assert noted(decided) == {Noted.FILE: None, Noted.HASH: None, Noted.COLLECTIONS: ()}
    shared = plan(replace(told, sharers=(Sharer("d2", "f1", frozenset("A")),)), policy)
    assert isinstance(shared, Plan)
    assert outside(shared) == []


letters = st.frozensets(st.sampled_from("ABC"))
entries = st.builds(
    Entry,
    id=st.just("d1"),
    attachment_id=st.sampled_from((None, "att", "other")),
    md5=st.sampled_from((None, M1, M2)),
    fresh=st.booleans(),
    says=st.sampled_from((None, *Word)),
    words=st.just(frozenset()),
    xai_id=st.sampled_from((None, "f1", "f2")),
    collections=letters,
    synced_hash=st.sampled_from((None, M1, M2)),
    wanted=letters,
)
bases = st.none() | st.builds(
    base,
    file_id=st.sampled_from((None, "f1", "f2")),
    ours=st.booleans(),
    content=st.sampled_from((None, DIGESTER.of(M1), DIGESTER.of(M2))),
    collections=letters.map(lambda names: tuple(sorted(names))),
    retired=st.sampled_from(((), (Retired(file_id="f0", ours=True),))),
)
worlds = st.builds(
    Found,
    files=st.frozensets(st.sampled_from(("f0", "f1", "f2"))),
    attached=st.frozensets(st.tuples(st.sampled_from(("f0", "f1", "f2")), st.sampled_from("ABC"))),
)


def _consistent(told: Entry | None, known: DocumentBase | None, seen: Found) -> Found:
    """Show only what would have been looked at: the files and places both sides know."""
    files = {told.xai_id} if told is not None else set()
    places = set(told.wanted | told.collections) if told is not None else set()
    if known is not None:
        files |= {known.file_id, *(retired.file_id for retired in known.retired)}
        places |= set(known.collections)
    return Found(
        frozenset(file for file in seen.files if file in files),
        frozenset((f, p) for f, p in seen.attached if f in files & seen.files and p in places),
    )


@settings(max_examples=4 * settings().max_examples)
@given(told=st.none() | entries, known=bases, seen=worlds, size=st.sampled_from((0, 2)))
def test_whatever_is_seen_new_is_attached_before_old_is_detached_and_notes_come_before_deletes(
    told: Entry | None, known: DocumentBase | None, seen: Found, size: int
) -> None:
    seen = _consistent(told, known, seen)
    facts = replace(KNOWN, attachment_id=(told and told.attachment_id) or "att", size=size, md5=M1)
    decided = whole(sight(told, known, seen, file=facts))
    order = {Upload: 0, Attach: 1, Detach: 2, WriteBack: 3, DeleteFile: 4}
    kinds = [order[type(action)] for action in decided.actions]
    assert kinds == sorted(kinds)
    attached = set(seen.attached)
    for action in decided.actions:
        match action:
            case Attach(file_id, collection):
                assert told is not None
                assert collection in told.wanted
                assert file_id in seen.files
                attached.add((file_id, collection))
            case Detach(file_id, collection):
                assert (file_id, collection) in attached
                attached.discard((file_id, collection))
                others = [pair for pair in attached if pair[1] == collection]
                wanted = told.wanted if told is not None and told.attachment_id else frozenset()
                assert others or collection not in wanted
            case DeleteFile(file_id):
                assert all(file != file_id for file, _ in attached)
            case Upload():
                assert len(decided.actions) == 1
            case WriteBack(values):
                assert values


def test_a_file_is_recognised_by_letters_digits_and_size() -> None:
    from bitbylaw_document_sync.domain.model import Uploaded

    assert resembles(Uploaded("f", "Klage.pdf", 2), PENDING, DIGESTER)
    assert resembles(Uploaded("f", '"KLAGE" .pdf', 2), PENDING, DIGESTER)
    assert not resembles(Uploaded("f", "Klage.pdf", 3), PENDING, DIGESTER)
    assert not resembles(Uploaded("f", "Antrag.pdf", 2), PENDING, DIGESTER)
    assert not resembles(Uploaded("f", "Klage.pdf", 2), PENDING, Digester(b"x" * 16))


def test_a_document_wanted_again_says_so_with_the_next_thing_written_and_not_alone() -> None:
    unwanted = synced(says=Word.UNWANTED, words=frozenset({Word.UNWANTED}))
    again = whole(sight(replace(unwanted, collections=frozenset()), base(), found()))
    assert noted(again)[Noted.STATUS] is Word.SYNCED

    in_line = plan(sight(unwanted, base(), found("f1 A")), POLICY)
    assert isinstance(in_line, Plan)
    assert in_line.actions == ()
