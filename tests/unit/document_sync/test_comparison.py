"""What a comparison of both sides finds: how each record stands, and what belongs to nobody."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bitbylaw_document_sync.domain.comparison import (
    Finding,
    Held,
    Lacking,
    Listed,
    Orphan,
    Shelf,
    Standing,
    Survey,
    judged,
    orphans,
    sharers,
    suspects,
)
from bitbylaw_document_sync.domain.model import (
    Absent,
    DocumentBase,
    Entry,
    FileFacts,
    Found,
    Indexing,
    Member,
    Plan,
    Retired,
    Sharer,
    Sight,
    UploadIntent,
)
from bitbylaw_document_sync.domain.naming import trace
from bitbylaw_document_sync.domain.planner import Policy, plan
from unit.document_sync.fakes import DIGESTER, SETTLE, md5_of

NOW = datetime(2026, 3, 12, 9, 0, tzinfo=UTC)
POLICY = Policy(DIGESTER, SETTLE)
M1 = md5_of(b"v1")


def base(**more: Any) -> DocumentBase:
    given = {"file_id": "f1", "collections": ("c1",)} | more
    return DocumentBase(key_id=DIGESTER.key_id, written_at=NOW, **given)


def survey(one: DocumentBase | None, **more: Any) -> Survey:
    given: dict[str, Any] = {
        "wanted": {"d1": {"c1"}},
        "members": {"c1": {"f1": Held("f1")}, "c2": {}},
    }
    return Survey(NOW, {} if one is None else {"d1": one}, **(given | more))


INTENT = UploadIntent(since=NOW, attachment_id="a1", name="n", content="c", size=1)


@pytest.mark.parametrize(
    ("one", "more", "wanted"),
    [
        (base(), {}, False),
        (None, {}, True),
        (None, {"wanted": {}}, False),
        (base(pending=INTENT), {}, True),
        (base(retired=(Retired(file_id="f0", ours=True),)), {}, True),
        (base(file_id=None), {}, True),
        (base(file_id=None), {"wanted": {}}, False),
        (base(), {"wanted": {}}, True),
        (base(), {"wanted": {"d1": {"c1", "c2"}}}, True),
        (base(), {"wanted": {}, "on_hold": {"d1": {"c1"}}}, False),
        (base(), {"on_hold": {"d1": {"c2"}}}, False),
        (base(), {"members": {"c1": {}, "c2": {}}}, True),
        (base(), {"members": {"c1": {}, "c2": {}}, "blind": {"c1": "unreadable"}}, False),
        (base(), {"members": {"c1": {}, "c2": {}}, "blind": {"c2": "unreadable"}}, True),
        (base(), {"wanted": {}, "blind": {"c1": "unreadable"}}, False),
        (base(), {"members": {"c1": {"f1": Held("f1", indexing=Indexing.RUNNING)}}}, True),
    ],
)
def test_the_lists_alone_show_who_must_be_judged(
    one: DocumentBase | None, more: dict[str, Any], *, wanted: bool
) -> None:
    assert list(suspects(survey(one, **more))) == (["d1"] if wanted else [])


def test_a_list_that_could_not_be_read_hides_nobody_but_who_may_be_on_it() -> None:
    hidden = {f"d{number}": {"c2"} for number in range(10)}
    shown = {f"d{number}": {"c1"} for number in range(10, 20)}
    seen = survey(None, wanted=hidden | shown, blind={"c2": "unreadable"})
    assert set(suspects(seen)) == shown.keys()


def test_nothing_is_said_of_a_document_whose_links_could_not_be_read() -> None:
    entry = Entry("d1", "a1", xai_id="f1", collections=frozenset(["c1"]))
    seen = survey(base(), wanted={}, blind={"c1": "unreadable"})
    assert judged(seen, "d1", Listed(entry, NOW), POLICY) is None


def test_a_shelf_that_is_off_wants_nothing_and_one_on_hold_neither_takes_nor_gives() -> None:
    seen = Survey(NOW)
    for state in ("active", "on hold", "off"):
        seen.put(Shelf("k", "CAIKnowledge", "dokumentes", f"c-{state}", state), ["d1"])
    entry = seen.linked(Entry("d1", None))
    assert (entry.wanted, entry.on_hold) == (frozenset(["c-active"]), frozenset(["c-on hold"]))


# -- how a record stands ----------------------------------------------------------------------------

FACTS = FileFacts("a1", "Klage.pdf", "application/pdf", 2)
CHANGED = NOW - timedelta(hours=3)


def record(**more: Any) -> Entry:
    """Return a record that is in line, but for its links, which a list does not show."""
    given: dict[str, Any] = {
        "md5": M1,
        "xai_id": "f1",
        "collections": frozenset({"c1"}),
        "synced_hash": M1,
    }
    return replace(Entry("d1", "a1", "Klage"), **(given | more))


def left(entry: Entry, known: DocumentBase, *others: Sharer) -> DocumentBase:
    """Return the base that a run leaves where the file lies in c1."""
    seen = Found(frozenset({"f1"}), frozenset({("f1", "c1")}))
    made = plan(Sight("d1", entry, known, seen, NOW, sharers=others), POLICY)
    assert isinstance(made, Plan)
    assert made.after is not None
    return made.after


def agreed(**more: Any) -> DocumentBase:
    """Return the base that a run leaves where both sides agree."""
    content = DIGESTER.of(M1)
    known = base(ours=True, attachment_id="a1", content=content, recorded=content)
    return left(record(wanted=frozenset({"c1"})), known).model_copy(update=more)


def stands(seen: Survey, entry: Entry | None = None) -> Finding:
    found = judged(seen, "d1", Listed(entry or record(), CHANGED), POLICY)
    assert isinstance(found, Finding)
    return found


def test_a_record_whose_file_lies_where_it_is_wanted_is_in_line() -> None:
    found = stands(survey(agreed()))
    assert replace(found, seen="") == Finding(
        "d1", Standing.IN_SYNC, "row 5: in line", "already in line", "", CHANGED
    )
    assert len(found.seen) == 16
    assert stands(survey(agreed())).seen == found.seen
    assert stands(survey(agreed()), record(fresh=True)).seen != found.seen


@pytest.mark.parametrize(
    ("known", "more", "changes", "standing", "rule"),
    [
        (agreed(), {"facts": {"a1": FACTS}}, {"md5": "bb"}, Standing.PENDING, "row 7: other bytes"),
        (agreed(), {}, {"collections": frozenset()}, Standing.PENDING, "row 5: in line"),
        (agreed(recorded=None), {}, {}, Standing.PENDING, "row 5: in line"),
        (None, {}, {}, Standing.PENDING, "row 5: adopted"),
        (
            agreed(),
            {"wanted": {"d1": {"c1", "c2"}}},
            {},
            Standing.PENDING,
            "row 8: collections added",
        ),
        (
            agreed(indexing=NOW),
            {"members": {"c1": {"f1": Held("f1", indexing=Indexing.RUNNING)}}},
            {},
            Standing.PENDING,
            "indexing",
        ),
        (
            None,
            {"wanted": {}},
            {"xai_id": None, "collections": frozenset(), "synced_hash": None},
            Standing.EXCLUDED,
            "row 3: not wanted",
        ),
        (
            agreed(),
            {"wanted": {}, "on_hold": {"d1": {"c1"}}},
            {},
            Standing.EXCLUDED,
            "row 10: unlinked",
        ),
        (
            None,
            {"facts": {"a1": Absent("a1")}},
            {"xai_id": None, "collections": frozenset(), "synced_hash": None},
            Standing.EXCLUDED,
            "row 2: no file",
        ),
    ],
)
def test_a_record_stands_as_a_run_would_find_it(
    known: DocumentBase | None,
    more: dict[str, Any],
    changes: dict[str, Any],
    standing: Standing,
    rule: str,
) -> None:
    found = stands(survey(known, **more), record(**changes))
    assert (found.standing, found.rule) == (standing, rule)


def test_what_only_a_person_can_put_right_is_a_conflict() -> None:
    entry = record(words=frozenset(), writable=frozenset())
    seen = survey(
        agreed(), wanted={"d1": {"c1", "c9"}}, members={"c1": {"f1": Held("f1")}, "c9": None}
    )
    first = stands(seen, entry)
    assert (first.standing, first.rule) == (Standing.CONFLICT, "row 18: collection gone")


def test_a_record_that_is_gone_is_taken_care_of_and_of_one_that_never_was_nothing_is_left() -> None:
    seen = survey(agreed(), wanted={}, all_noted=True, blind={"c1": "unreadable"})
    nowhere = survey(agreed(), members={"c1": {}})
    for one, standing in (
        (seen, Standing.PENDING),
        (nowhere, Standing.PENDING),
        (survey(None), Standing.EXCLUDED),
    ):
        found = judged(one, "d1", None, POLICY)
        assert isinstance(found, Finding)
        assert (found.standing, found.rule) == (standing, "row 1: record gone")
        assert found.modified_at is None


@pytest.mark.parametrize(
    ("known", "more", "changes", "lacking"),
    [
        (agreed(), {"members": {"c2": {}}}, {}, Lacking(collections=frozenset({"c1"}))),
        (
            agreed(),
            {"wanted": {"d1": {"c1", "c3"}}, "on_hold": {"d1": {"c4"}}},
            {"collections": frozenset({"c5"})},
            Lacking(collections=frozenset({"c3", "c4", "c5"})),
        ),
        (agreed(collections=("c1", "c6")), {}, {}, Lacking(collections=frozenset({"c6"}))),
        (None, {}, {"xai_id": None, "synced_hash": None}, Lacking(attachment="a1")),
        (agreed(), {"wanted": {"d1": set()}}, {}, Lacking(files=("f1",))),
    ],
)
def test_what_no_list_has_shown_yet_is_to_be_read_first(
    known: DocumentBase | None, more: dict[str, Any], changes: dict[str, Any], lacking: Lacking
) -> None:
    assert judged(survey(known, **more), "d1", Listed(record(**changes), None), POLICY) == lacking


@pytest.mark.parametrize(
    ("known", "changes", "why"),
    [
        (None, {"md5": None}, "its bytes were never compared"),
        (agreed(pending=INTENT), {}, "an upload began and has no end"),
    ],
)
def test_what_lists_cannot_tell_needs_a_look_at_the_record(
    known: DocumentBase | None, changes: dict[str, Any], why: str
) -> None:
    found = stands(survey(known), record(**changes))
    assert (found.standing, found.rule) == (Standing.PENDING, why)
    assert found.reason == "only a look at the record itself can tell"


def test_a_file_that_another_record_needs_is_not_waited_for_to_leave() -> None:
    unlinked = survey(agreed(), wanted={})
    asked = judged(unlinked, "d1", Listed(record(), None), POLICY)
    assert asked == Lacking(files=("f1",))
    other = Sharer("d2", "f1", frozenset({"c1"}))
    for others in ([], [other]):
        assert stands(unlinked.knowing(others)).standing is Standing.PENDING
    told = record(collections=frozenset())
    settled = left(told, agreed(), other)
    lent = survey(settled, wanted={}).knowing([other])
    assert stands(lent, told).standing is Standing.EXCLUDED
    for nobody in ([], [Sharer("d1", "f1", frozenset({"c1"}))]):
        assert stands(lent.knowing(nobody), told).standing is Standing.PENDING


@pytest.mark.parametrize(
    ("entry", "known", "blind", "told"),
    [
        (record(), agreed(), "c1", False),
        (record(), agreed(), "c2", True),
        (record(collections=frozenset({"c1", "c2"})), agreed(), "c2", False),
        (record(), agreed(collections=("c1", "c2")), "c2", False),
    ],
)
def test_nothing_is_said_where_a_list_that_may_name_it_could_not_be_read(
    entry: Entry, known: DocumentBase, blind: str, *, told: bool
) -> None:
    seen = survey(known, blind={blind: "unreadable"}).knowing([])
    assert (judged(seen, "d1", Listed(entry, None), POLICY) is not None) is told


# -- what a run would look into ---------------------------------------------------------------------


def test_a_run_looks_into_every_place_that_either_side_names() -> None:
    entry = record(
        wanted=frozenset({"c3"}), on_hold=frozenset({"c4"}), collections=frozenset({"c5"})
    )
    known = base(collections=("c1", "c2"))
    seen = Survey(NOW)
    assert seen.places(entry, known) == {"c1", "c2", "c3", "c4", "c5"}
    assert seen.places(None, known) == {"c1", "c2"}
    assert seen.places(entry, None) == {"c3", "c4", "c5"}
    assert seen.places(None, None) == frozenset()


def test_a_run_finds_the_files_that_either_side_names_as_xai_lists_them() -> None:
    failed = Held("f1", indexing=Indexing.FAILED, hash="aa", error="cannot parse")
    members = {
        "c1": {"f1": failed, "f0": Held("f0"), "f8": Held("f8")},
        "c2": {"f2": Held("f2")},
        "c3": {"f1": Held("f1")},
        "c4": None,
    }
    known = base(collections=("c1", "c4"), retired=(Retired(file_id="f0", ours=True),))
    entry = record(xai_id="f2", collections=frozenset({"c2"}))
    seen = Survey(NOW, members=members)
    found = seen.found(entry, known)
    assert found.files == {"f0", "f1", "f2"}
    assert found.attached == {("f0", "c1"), ("f1", "c1"), ("f2", "c2")}
    assert Member("f1", "c1", Indexing.FAILED, "aa", "cannot parse") in found.members
    assert seen.found(entry, None) == Found(frozenset({"f2"})).with_members([Member("f2", "c2")])
    assert seen.found(None, None) == Found()
    unnoted = replace(entry, xai_id=None)
    assert seen.found(unnoted, None) == Found()

    # a file that the list of all files does not have is gone, wherever it is still listed
    listed = replace(seen, files={"f0": Held("f0"), "f8": Held("f8")})
    assert listed.found(entry, known).files == {"f0"}
    assert listed.found(entry, known).attached == found.attached


def test_the_other_records_of_a_file_are_those_that_note_it() -> None:
    seen = Survey(NOW)
    for document, file in (("d1", "f1"), ("d2", "f1"), ("d3", "f2"), ("d4", None)):
        seen.note(record(id=document, xai_id=file))
    places = frozenset({"c1"})
    assert sharers(seen, ("f1", "f9"), besides="d1") == (Sharer("d2", "f1", places),)
    assert sharers(seen, ("f1", "f2"), besides="d2") == (
        Sharer("d1", "f1", places),
        Sharer("d3", "f2", places),
    )
    assert list(seen.noted) == ["f1", "f2"]
    asked = seen.knowing([Sharer("d7", "f1", places), Sharer("d8", "f1", places)])
    assert asked.all_noted
    assert [one.document_id for one in sharers(asked, ("f1", "f2"), besides="d7")] == ["d8"]
    assert (asked.now, seen.all_noted) == (NOW, False)


def test_records_in_line_whose_file_another_notes_are_duplicates() -> None:
    seen = Survey(NOW)
    in_line = ("d1", "d2", "d3", "d4", "d6")
    for document, file in (("d1", "f1"), ("d3", "f1"), ("d2", "f1"), ("d4", "f4"), ("d5", "f1")):
        seen.note(record(id=document, xai_id=file))
    for document in in_line:
        seen.add(Finding(document, Standing.IN_SYNC, "row 5: in line", "already in line"))
    seen.shared(in_line)
    assert seen.counts == {
        Standing.IN_SYNC: 2,
        Standing.PENDING: 0,
        Standing.CONFLICT: 0,
        Standing.DUPLICATE: 3,
        Standing.EXCLUDED: 0,
    }
    assert seen.findings["d2"] == Finding(
        "d2",
        Standing.DUPLICATE,
        "shared file",
        "its file f1 is noted by d1, d3, d5 as well",
    )
    assert seen.findings.keys() == {"d1", "d2", "d3"}


def test_two_records_are_enough_for_a_duplicate() -> None:
    seen = Survey(NOW)
    for document in ("d1", "d2"):
        seen.note(record(id=document))
    seen.shared(["d1"])
    assert seen.findings.keys() == {"d1"}


def test_only_what_is_not_in_line_is_kept_one_by_one() -> None:
    seen = Survey(NOW)
    for number, standing in enumerate(Standing):
        seen.add(Finding(f"d{number}", standing, "rule", "reason"))
    assert [finding.standing for finding in seen.findings.values()] == [
        Standing.PENDING,
        Standing.CONFLICT,
        Standing.DUPLICATE,
    ]
    assert set(seen.counts.values()) == {1}


# -- what belongs to nobody -------------------------------------------------------------------------


def complete(**more: Any) -> Survey:
    old = NOW - timedelta(days=1)
    held = {
        "f1": Held("f1", "Klage.pdf", 2, old),
        "f2": Held("f2", "Klage.pdf", 2, old),
        "f3": Held("f3", "Neu.pdf", 3, NOW - timedelta(minutes=59)),
        "f4": Held("f4", "Alter unbekannt.pdf", 4, None),
    }
    given = {"files": held, "all_noted": True, "members": {"c1": {"f1": held["f1"]}}} | more
    return survey(base(), **given)


def found(seen: Survey) -> list[str]:
    return [one.key for one in orphans(seen, POLICY, settle=timedelta(hours=1))]


def test_a_file_that_nobody_names_is_an_orphan_once_its_age_is_known_and_enough() -> None:
    assert found(complete()) == ["/f2"]
    (twin,) = orphans(complete(), POLICY, settle=timedelta(hours=1))
    assert twin.twin_of == "d1"


def test_what_an_upload_under_way_may_have_become_is_no_orphan() -> None:
    looks_like = DIGESTER.of(trace("Klage.pdf"))
    intent = INTENT.model_copy(update={"name": looks_like, "size": 2})
    under_way = complete()
    under_way.bases = {**under_way.bases, "d2": base(file_id=None, pending=intent)}
    assert found(under_way) == []


def test_an_earlier_file_that_waits_to_be_cleared_away_is_no_orphan() -> None:
    cleared = complete()
    cleared.bases = {"d1": base(retired=(Retired(file_id="f2", ours=True),))}
    assert found(cleared) == []


def test_a_member_whose_document_is_linked_elsewhere_is_an_orphan_there_only() -> None:
    held = Held("f1", "Klage.pdf", 2, NOW - timedelta(days=1))
    strayed = complete(files={"f1": held}, members={"c1": {"f1": held}, "c2": {"f1": held}})
    assert found(strayed) == ["c2/f1"]
    blind = complete(
        files={"f1": held},
        members={"c1": {"f1": held}, "c2": {"f1": held}},
        blind={"c2": "unreadable"},
    )
    assert found(blind) == []


def test_orphans_are_told_from_complete_lists_only() -> None:
    for lacking in ({"files": None}, {"all_noted": False}):
        with pytest.raises(AssertionError, match=r"^orphans are told from complete lists only$"):
            orphans(complete(**lacking), POLICY, settle=timedelta(hours=1))


OLD = NOW - timedelta(hours=1)


def test_a_file_exactly_as_old_as_an_upload_may_last_is_an_orphan() -> None:
    assert found(complete(files={"f2": Held("f2", "Klage.pdf", 2, OLD)})) == ["/f2"]


def test_a_file_of_unknown_size_may_be_any_upload_under_way() -> None:
    unsized = complete(files={"f2": Held("f2", "Klage.pdf", None, OLD)})
    assert found(unsized) == ["/f2"]
    unsized.bases = {**unsized.bases, "d2": base(file_id=None, pending=INTENT)}
    assert found(unsized) == []


def test_a_file_that_lies_where_nobody_has_it_is_told_once_by_its_place() -> None:
    strange = Held("f7", "Fremd.pdf", 7, OLD)
    files = {"f1": Held("f1", "Klage.pdf", 2, OLD), "f7": strange}
    told = complete(files=files, members={"c2": {"f7": strange, "f1": files["f1"]}, "c1": {}})
    assert orphans(told, POLICY, settle=timedelta(hours=1)) == (
        Orphan("f1", "c2", owned=True, created_at=OLD),
        Orphan("f7", "c2", created_at=OLD),
    )


def test_orphans_come_in_the_order_of_their_places() -> None:
    files = {name: Held(name, "Fremd.pdf", 7, OLD) for name in ("f9", "f8", "f7")}
    told = complete(files=files, members={"c2": {"f9": files["f9"]}, "c1": {"f8": files["f8"]}})
    assert found(told) == ["/f7", "c1/f8", "c2/f9"]


def test_the_list_of_all_files_knows_more_of_an_orphan_than_a_collection() -> None:
    """A collection's list may not tell of a file's size and age; and lists what was deleted."""
    members = {"c2": {"f2": Held("f2"), "f6": Held("f6", "Alt.pdf", 6, OLD), "f5": Held("f5")}}
    told = complete(files={"f2": Held("f2", "Klage.pdf", 2, OLD)}, members=members)
    assert found(told) == ["c2/f2", "c2/f6"]


def test_a_file_may_lie_wherever_a_record_that_notes_it_has_it_or_wants_it() -> None:
    held = Held("f5", "Kopie.pdf", 5, OLD)
    places = {place: {"f5": held} for place in ("c3", "c4", "c5", "c6", "c7")}
    told = complete(
        files={"f5": held},
        members=places,
        wanted={"d2": {"c4"}, "d3": {"c6"}},
        on_hold={"d2": {"c5"}},
        noted={"f5": [Sharer("d2", "f5", frozenset({"c3"})), Sharer("d3", "f5", frozenset())]},
    )
    assert found(told) == ["c7/f5"]
    unlinked = replace(told, wanted={}, on_hold={})
    assert found(unlinked) == ["c4/f5", "c5/f5", "c6/f5", "c7/f5"]


def test_a_file_of_two_bases_may_lie_where_either_has_it_or_wants_it() -> None:
    held = Held("f1", "Klage.pdf", 2, OLD)
    places = {place: {"f1": held} for place in ("c1", "c2", "c3", "c4", "c5")}
    told = complete(
        files={"f1": held},
        members=places,
        wanted={"d1": {"c3"}},
        on_hold={"d2": {"c4"}},
    )
    told.bases = {"d1": base(), "d2": base(collections=("c2",))}
    assert found(told) == ["c5/f1"]


def test_an_orphan_that_looks_like_a_noted_file_is_its_twin() -> None:
    files = {
        "f5": Held("f5", "Kopie.pdf", 5, OLD),
        "f6": Held("f6", "KOPIE .pdf", 5, OLD),
        "f7": Held("f7", "Kopie.pdf", 6, OLD),
    }
    noted = {"f5": [Sharer("d2", "f5", frozenset({"c1"}))]}
    told = complete(files=files, members={}, noted=noted)
    twins = {one.file_id: one.twin_of for one in orphans(told, POLICY, settle=timedelta(hours=1))}
    assert twins == {"f6": "d2", "f7": None}
