"""What a look at a knowledge base decides, plan by plan: why, what is done, and what is remembered."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bitbylaw_common.outcomes import Wait
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.knowledge import (
    ASK_AGAIN,
    AskContent,
    AskExists,
    AskMarked,
    AskSharers,
    CheckDocuments,
    Column,
    CreateCollection,
    CreateIntent,
    DeleteCollection,
    Knowledge,
    KnowledgePlan,
    KnowledgePolicy,
    KnowledgeSight,
    KnowledgeState,
    LinkColumn,
    Linked,
    LinkRow,
    Member,
    NoteKnowledge,
    NoteLink,
    Stage,
    mark_of,
    plan,
    stamp,
)
from bitbylaw_document_sync.domain.model import Entry
from bitbylaw_document_sync.domain.notices import CloseTask, Kind, Notify, Told, Trouble

NOW = datetime(2026, 3, 2, 9, 5, 7, 999, tzinfo=UTC)
STAMP = "2026-03-02 09:05:07"
POLICY = KnowledgePolicy("key", timedelta(seconds=180), "office")
MARK = "EspoCRM CAIKnowledge k1"
NOTHING = Linked((), {})


def knowledge(stage: Stage | None, collection: str | None = "c1", **more: Any) -> Knowledge:
    return Knowledge("k1", "Akte  1", stage, collection, **more)


def state(**more: Any) -> KnowledgeState:
    return KnowledgeState(**{"key_id": "key", "written_at": NOW, **more})


def sight(one: Knowledge | None, base: KnowledgeState | None = None, **more: Any) -> KnowledgeSight:
    return KnowledgeSight("k1", one, base, NOW, "run-1", **more)


def decided(seen: KnowledgeSight) -> KnowledgePlan:
    found = plan(seen, POLICY)
    assert isinstance(found, KnowledgePlan)
    return found


# -- nothing to do ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "rule", "reason"),
    [
        (
            None,
            "gone",
            "the record is gone; its collection stays, because a deletion may be taken back",
        ),
        (knowledge("paused"), "paused", "it is paused"),
        (knowledge(None), "unknown", "its activation says something that nobody knows"),
    ],
)
@pytest.mark.parametrize("base", [None, state(collection="c1"), state(key_id="old key")])
def test_what_is_left_alone_leaves_its_base_alone(
    one: Knowledge | None, rule: str, reason: str, base: KnowledgeState | None
) -> None:
    assert decided(sight(one, base)) == KnowledgePlan(rule, reason, base, (), base)


def test_a_deactivated_one_of_which_nothing_is_left_needs_no_look_at_xai() -> None:
    one = knowledge("deactivated", None, status="synced")
    nothing = KnowledgePlan("deactivated", "its collection is gone", None, (), None)
    assert decided(sight(one)) == nothing
    for more in (knowledge("deactivated", None), replace(one, collection="c1")):
        assert plan(sight(more), POLICY) == AskMarked(MARK)
    assert plan(sight(one, state()), POLICY) == AskMarked(MARK)


# -- new --------------------------------------------------------------------------------------------


def test_a_new_one_is_looked_for_before_a_collection_is_made_for_it() -> None:
    noted, unnoted = knowledge("new"), knowledge("new", None)
    assert plan(sight(noted), POLICY) == AskSharers(("c1",))
    assert plan(sight(noted, state(collection="c1")), POLICY) == AskExists("c1")
    assert plan(sight(unnoted, state(collection="c2")), POLICY) == AskExists("c2")
    apart = sight(noted, shared=frozenset())
    assert plan(apart, POLICY) == AskExists("c1")
    assert plan(replace(apart, existing={"c9": True}), POLICY) == AskExists("c1")
    assert plan(replace(apart, existing={"c1": False}), POLICY) == AskMarked(MARK)
    assert plan(sight(noted, shared=frozenset({"c1"})), POLICY) == AskMarked(MARK)
    assert plan(sight(unnoted), POLICY) == AskMarked(MARK)
    both = sight(noted, state(collection="c2"), shared=frozenset({"c1"}))
    assert plan(both, POLICY) == AskExists("c2")


def test_a_collection_is_made_after_the_base_says_so() -> None:
    made = decided(sight(knowledge("new", None), state(key_id="old key"), marked=()))
    before = state(pending=CreateIntent(since=NOW, run_id="run-1"))
    assert made == KnowledgePlan(
        "new: make",
        "it has no collection yet",
        before,
        (CreateCollection("Akte 1", MARK),),
        before,
    )
    lost = decided(
        sight(knowledge("new", None), state(collection="c2"), existing={"c2": False}, marked=())
    )
    assert lost == made


def test_a_collection_that_was_asked_for_lately_is_waited_for() -> None:
    pending = state(pending=CreateIntent(since=NOW - timedelta(seconds=60)))
    for one in (
        sight(knowledge("new", None), pending, marked=()),
        sight(knowledge("deactivated", None), pending, marked=()),
    ):
        assert decided(one) == KnowledgePlan(
            "collection's fate unknown",
            "a collection was asked for and no answer came; another one could be a twin",
            pending,
            (),
            pending,
            Wait("a collection's fate is unknown", timedelta(seconds=120)),
        )


@pytest.mark.parametrize(
    ("one", "more", "collection", "noted"),
    [
        (
            knowledge("new", None),
            {"marked": ("c2", "c3")},
            "c2",
            ((Column.COLLECTION, "c2"), (Column.STAGE, "active"), (Column.STATUS, "unclean")),
        ),
        (
            knowledge("new", status="unclean"),
            {"shared": frozenset(), "existing": {"c1": True}},
            "c1",
            ((Column.STAGE, "active"),),
        ),
        (
            knowledge("active", None, status="unclean"),
            {"marked": ("c2",)},
            "c2",
            ((Column.COLLECTION, "c2"), (Column.STAGE, "active")),
        ),
    ],
)
def test_a_collection_that_is_there_makes_it_active_and_is_looked_at_again(
    one: Knowledge, more: dict[str, Any], collection: str, noted: Any
) -> None:
    pending = CreateIntent(since=NOW - timedelta(hours=1))
    made = decided(sight(one, state(pending=pending, key_id="old key"), **more))
    after = state(collection=collection)
    assert made == KnowledgePlan(
        "new: active",
        "its collection is there",
        after,
        (NoteKnowledge(noted),),
        after,
        again=True,
    )


# -- active -----------------------------------------------------------------------------------------


def document(name: str, **more: Any) -> Entry:
    entry = Entry(
        name,
        "att-1",
        md5="aa",
        xai_id=f"file-{name}",
        synced_hash="aa",
        collections=frozenset({"c1"}),
    )
    return replace(entry, **more)


def row(name: str, state: str, file_id: str | None = None, hash: str | None = None) -> LinkRow:  # noqa: A002 - its field
    return LinkRow(f"row-{name}", name, file_id, state, hash)


def content(*documents: tuple[Entry, LinkRow | None, str | None]) -> dict[str, Any]:
    """Return what is linked, with each document's row, and how far xAI is with its file."""
    return {
        "existing": {"c1": True},
        "linked": Linked(
            tuple(one for one, _, _ in documents),
            {one.id: row for one, row, _ in documents if row is not None},
        ),
        "members": {
            one.xai_id: Member(one.xai_id, status)  # type: ignore[arg-type]  # one of its words
            for one, _, status in documents
            if one.xai_id is not None and status is not None
        },
    }


def test_an_active_one_is_compared_with_what_lies_in_its_collection() -> None:
    one = knowledge("active")
    assert plan(sight(one), POLICY) == AskExists("c1")
    assert plan(sight(one, existing={"c2": True}), POLICY) == AskExists("c1")
    there = sight(one, existing={"c1": True})
    assert plan(there, POLICY) == AskContent("c1")
    assert plan(replace(there, linked=NOTHING), POLICY) == AskContent("c1")
    assert plan(replace(there, members={}), POLICY) == AskContent("c1")


def test_an_active_one_in_line_is_left_as_it_is() -> None:
    one = knowledge("active", status="synced", assigned_to="anna")
    known = state(collection="c1", pending=CreateIntent(since=NOW), asked="x", asked_at=NOW)
    in_line = (document("d1"), row("d1", "synced", "file-d1", "aa"), "processed")
    made = decided(sight(one, known, **content(in_line)))
    before = state(collection="c1", asked="x", asked_at=NOW)
    after = state(collection="c1")
    assert made == KnowledgePlan(
        "active: synced", "1 of 1 documents are in line", before, (), after
    )


def test_once_all_are_in_line_the_rows_and_the_knowledge_base_say_so() -> None:
    one = knowledge("active", "c1", status="unclean")
    first = (document("d1"), row("d1", "unclean", "file-d1", "bb"), "processed")
    other = (document("d2", says="unsupported"), row("d2", "new"), None)
    third = (document("d3"), None, "processed")
    made = decided(sight(one, **content(first, other, third)))
    after = state(collection="c1")
    assert made == KnowledgePlan(
        "active: synced",
        "3 of 3 documents are in line",
        after,
        (
            NoteLink(
                first[1],
                (
                    (LinkColumn.STATE, "synced"),
                    (LinkColumn.HASH, "aa"),
                    (LinkColumn.LAST_SYNC, STAMP),
                ),
            ),
            NoteLink(other[1], ((LinkColumn.STATE, "unsupported"),)),
            NoteKnowledge(((Column.STATUS, "synced"), (Column.LAST_SYNC, STAMP))),
        ),
        after,
        again=True,
    )


@pytest.mark.parametrize(
    ("status", "noting"),
    [
        ("synced", (NoteKnowledge(((Column.STATUS, "unclean"),)),)),
        ("unclean", ()),
        ("pending_sync", ()),
    ],
)
def test_what_is_not_in_line_is_asked_for_and_makes_it_unclean(status: str, noting: Any) -> None:
    changed = (document("d2", fresh=True), row("d2", "synced"), "processed")
    waits = (document("d1", fresh=True), row("d1", "unclean"), "processed")
    new = (document("d4", fresh=True), row("d4", "new"), None)
    running = (document("d3"), row("d3", "synced"), "processing")
    made = decided(
        sight(knowledge("active", status=status), **content(changed, waits, running, new))
    )
    unclean = ((LinkColumn.STATE, "unclean"),)
    assert (made.rule, made.reason) == ("active: unclean", "0 of 4 documents are in line")
    assert made.actions == (
        NoteLink(changed[1], unclean),
        NoteLink(running[1], unclean),
        CheckDocuments(("d1", "d2", "d4")),
        *noting,
    )
    assert made.before == state(collection="c1")
    assert made.after is not None
    assert made.after.asked_at == NOW
    assert not made.again


def test_all_in_line_is_what_takes_pending_sync_away() -> None:
    one = knowledge("active", status="pending_sync")
    made = decided(sight(one, **content((document("d1"), None, "processed"))))
    noting = NoteKnowledge(((Column.STATUS, "synced"), (Column.LAST_SYNC, STAMP)))
    assert made.actions == (noting,)


def test_documents_are_asked_for_once_in_a_while_and_anew_once_they_were_in_line() -> None:
    one = knowledge("active", status="unclean")
    off = content((document("d1", fresh=True), None, "processed"))
    first = decided(sight(one, **off))
    assert first.after is not None
    assert len(first.after.asked or "") == 32
    again = sight(one, first.after, **off)
    assert decided(again).actions == ()
    assert decided(replace(again, now=NOW + ASK_AGAIN - timedelta(seconds=1))).actions == ()
    assert decided(replace(again, now=NOW + ASK_AGAIN)).actions == (CheckDocuments(("d1",)),)
    in_line = decided(sight(one, first.after, **content((document("d1"), None, "processed"))))
    assert in_line.after == state(collection="c1")


TROUBLE = Trouble(Kind.COLLECTION_MISSING, texts.own_collection_missing("c1"))
TOLD = Told(kind=Kind.COLLECTION_MISSING, means="task", since=NOW)


@pytest.mark.parametrize(("assigned", "whom"), [("anna", "anna"), (None, "office")])
def test_a_collection_that_is_gone_is_a_task_for_a_person(assigned: str | None, whom: str) -> None:
    one = knowledge("active", status="synced", assigned_to=assigned)
    made = decided(sight(one, state(collection="c2"), existing={"c1": False}))
    known = state(collection="c1")
    assert made == KnowledgePlan(
        "active: collection gone",
        "xAI has no such collection; a person decides whether it is to be made anew",
        known,
        (Notify(TROUBLE, whom), NoteKnowledge(((Column.STATUS, "failed"),))),
        known.model_copy(update={"told": (TOLD,)}),
    )


def test_a_person_is_told_once_and_the_task_is_over_with_the_trouble() -> None:
    one = knowledge("active", status="failed")
    known = state(collection="c1", told=(TOLD,))
    still = decided(sight(one, known, existing={"c1": False}))
    assert (still.before, still.actions, still.after) == (known, (), known)
    back = decided(sight(one, known, **content((document("d1"), None, "processed"))))
    assert back.before == known
    assert back.actions == (
        NoteKnowledge(((Column.STATUS, "synced"), (Column.LAST_SYNC, STAMP))),
        CloseTask(Kind.COLLECTION_MISSING),
    )
    assert back.after == state(collection="c1")
    off = decided(
        sight(
            replace(one, stage="deactivated"), known, marked=(), shared=frozenset(), linked=NOTHING
        )
    )
    assert off.actions[-1] == CloseTask(Kind.COLLECTION_MISSING)


# -- deactivated ------------------------------------------------------------------------------------


def test_before_a_collection_is_deleted_it_is_known_who_else_uses_it_and_what_is_linked() -> None:
    one = knowledge("deactivated")
    assert plan(sight(one), POLICY) == AskMarked(MARK)
    seen = sight(one, state(collection="c3"), marked=("c2",))
    assert plan(seen, POLICY) == AskSharers(("c1", "c2", "c3"))
    seen = replace(seen, shared=frozenset())
    assert plan(seen, POLICY) == AskContent(None)
    none = sight(knowledge("deactivated", None), marked=())
    assert plan(none, POLICY) == AskContent(None)


def test_its_collections_go_and_the_crm_forgets_them() -> None:
    one = knowledge("deactivated", status="unclean")
    seen = sight(
        one,
        state(collection="c3", pending=CreateIntent(since=NOW)),
        marked=("c2",),
        shared=frozenset(),
        linked=Linked(
            (document("d2"), document("d1")),
            {
                "d3": row("d3", "new"),
                "d2": row("d2", "new", None, "aa"),
                "d1": row("d1", "synced", "file-d1"),
            },
        ),
    )
    known = state(collection="c3", pending=CreateIntent(since=NOW))
    assert decided(seen) == KnowledgePlan(
        "deactivated",
        "its collection goes",
        known,
        (
            DeleteCollection("c1"),
            DeleteCollection("c2"),
            DeleteCollection("c3"),
            NoteLink(
                row("d1", "synced", "file-d1"),
                ((LinkColumn.STATE, "new"), (LinkColumn.FILE, None)),
            ),
            NoteLink(row("d2", "new", None, "aa"), ((LinkColumn.HASH, None),)),
            CheckDocuments(("d1", "d2")),
            NoteKnowledge(
                (
                    (Column.STATUS, "synced"),
                    (Column.LAST_SYNC, STAMP),
                    (Column.COLLECTION, None),
                )
            ),
        ),
        None,
    )


def test_a_collection_that_another_one_uses_stays() -> None:
    one = knowledge("deactivated", status="synced")
    made = decided(sight(one, marked=("c2",), shared=frozenset({"c1"}), linked=NOTHING))
    assert made == KnowledgePlan(
        "deactivated",
        "another knowledge base uses its collection",
        state(),
        (DeleteCollection("c2"), NoteKnowledge(((Column.COLLECTION, None),))),
        None,
    )


def test_where_nothing_is_left_only_the_status_is_noted() -> None:
    one = knowledge("deactivated", None)
    made = decided(sight(one, marked=(), linked=NOTHING))
    noting = NoteKnowledge(((Column.STATUS, "synced"), (Column.LAST_SYNC, STAMP)))
    assert made.actions == (noting,)
    rest = decided(sight(replace(one, status="synced"), state(), marked=(), linked=NOTHING))
    assert rest.actions == ()


# -- words ------------------------------------------------------------------------------------------


def test_a_collection_is_marked_with_the_knowledge_base_it_stands_for() -> None:
    assert mark_of("k1") == MARK


def test_the_crm_s_times_are_utc_in_whole_seconds() -> None:
    assert stamp(NOW) == STAMP
