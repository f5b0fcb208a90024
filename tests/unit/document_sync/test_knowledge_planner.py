"""What is decided about a knowledge base; and that every small world comes to rest."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import get_args

import pytest

from bitbylaw_common.outcomes import Wait
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
    collection_name,
    due,
    mark_of,
    plan,
)
from bitbylaw_document_sync.domain.model import Entry, Word

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
POLICY = KnowledgePolicy("key", timedelta(seconds=180), "office")
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass
class World:
    """One knowledge base, the collections at xAI, and what the base says; carries plans out."""

    knowledge: Knowledge
    collections: dict[str, str] = field(default_factory=dict)
    state: KnowledgeState | None = None
    shared: frozenset[str] = frozenset()
    documents: tuple[Entry, ...] = ()
    rows: dict[str, LinkRow] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    now: datetime = NOW
    made: int = 0
    checked: list[tuple[str, ...]] = field(default_factory=list)
    writes: int = 0

    def decided(self) -> KnowledgePlan:
        sight = KnowledgeSight(self.knowledge.id, self.knowledge, self.state, self.now)
        for _ in range(8):
            match plan(sight, POLICY):
                case AskExists(collection):
                    known = {**(sight.existing or {}), collection: collection in self.collections}
                    sight = replace(sight, existing=known)
                case AskMarked(mark):
                    marked = tuple(one for one, said in self.collections.items() if said == mark)
                    sight = replace(sight, marked=marked)
                case AskSharers(collections):
                    sight = replace(sight, shared=self.shared & set(collections))
                case AskContent():
                    linked = Linked(self.documents, self.rows)
                    sight = replace(sight, linked=linked, members=self.members)
                case KnowledgePlan() as found:
                    return found
        raise AssertionError("it asks without end")

    def carry_out(self, found: KnowledgePlan) -> None:
        if found.actions and found.before is not None:
            self.state = found.before
        for action in found.actions:
            self.writes += 1
            match action:
                case CreateCollection(_, description):
                    self.made += 1
                    made = f"made-{self.made}"
                    self.collections[made] = description
                    assert self.state is not None
                    self.state = self.state.model_copy(update={"collection": made, "pending": None})
                    return
                case DeleteCollection(collection):
                    self.collections.pop(collection, None)
                case NoteKnowledge(values):
                    self._note(dict(values))
                case NoteLink(row, link_values):
                    self._note_link(row, dict(link_values))
                case CheckDocuments(ids):
                    self.writes -= 1
                    self.checked.append(ids)
                case _:
                    self.writes -= 1
        self.state = found.after

    def _note(self, values: dict[Column, str | None]) -> None:
        stage = values.get(Column.STAGE, self.knowledge.stage)
        self.knowledge = replace(
            self.knowledge,
            collection=values.get(Column.COLLECTION, self.knowledge.collection),
            stage=next(one for one in STAGES if one == stage),
            status=values.get(Column.STATUS, self.knowledge.status) or "",
        )

    def _note_link(self, row: LinkRow, values: dict[LinkColumn, str | None]) -> None:
        self.rows[row.document_id] = replace(
            row,
            file_id=values.get(LinkColumn.FILE, row.file_id),
            state=values.get(LinkColumn.STATE, row.state) or "",
            hash=values.get(LinkColumn.HASH, row.hash),
        )

    def come_to_rest(self) -> None:
        for _ in range(12):
            found = self.decided()
            before = self.writes
            self.carry_out(found)
            if isinstance(found.ending, Wait):
                self.now += max(found.ending.after, timedelta(seconds=1))
            elif self.writes == before:
                return
        raise AssertionError("it does not come to rest")


def knowledge(stage: Stage | None, **more: str | None) -> Knowledge:
    return replace(Knowledge("k1", "Akte 1", stage), **more)  # type: ignore[arg-type]  # a test's own


def document(name: str = "d1", **more: object) -> Entry:
    entry = Entry(
        name,
        "att-1",
        md5="aa",
        xai_id=f"file-{name}",
        synced_hash="aa",
        collections=frozenset({"c1"}),
    )
    return replace(entry, **more)  # type: ignore[arg-type]  # a test's own


def active(*documents: Entry, **more: object) -> World:
    members = {
        one.xai_id: Member(one.xai_id, "processed") for one in documents if one.xai_id is not None
    }
    rows = {one.id: LinkRow(f"row-{one.id}", one.id, state="new") for one in documents}
    world = World(
        knowledge("active", collection="c1", status="unclean"),
        {"c1": "by hand"},
        documents=documents,
        members=members,
        rows=rows,
    )
    return replace(world, **more)  # type: ignore[arg-type]  # a test's own


# -- every small world ----------------------------------------------------------------------------


def _worlds() -> Iterator[World]:
    states = (
        None,
        KnowledgeState(key_id="key", written_at=NOW),
        KnowledgeState(key_id="key", written_at=NOW, collection="c1"),
        KnowledgeState(key_id="old key", written_at=NOW, pending=CreateIntent(since=NOW)),
    )
    collections: tuple[dict[str, str], ...] = (
        {},
        {"c1": "by hand"},
        {"c2": mark_of("k1")},
        {"c1": "by hand", "c2": mark_of("k1"), "c3": mark_of("k1")},
    )
    for stage, noted, status, there, state, shared in product(
        (*STAGES, None),
        (None, "c1"),
        ("", "unclean", "synced", "failed"),
        collections,
        states,
        (frozenset[str](), frozenset({"c1"})),
    ):
        world = World(knowledge(stage, collection=noted, status=status), dict(there), state)
        world.shared = shared
        yield world


def test_every_small_world_comes_to_rest_and_has_at_most_one_new_collection() -> None:
    seen = 0
    for world in _worlds():
        before = dict(world.collections)
        stage = world.knowledge.stage
        at_rest = not due(world.knowledge, everything=True) and world.state is None
        world.come_to_rest()
        seen += 1
        assert world.made <= 1
        after = world.knowledge
        match stage:
            case "paused" | None:
                assert world.writes == 0
            case "new":
                assert after.stage == "active"
                assert after.collection in world.collections
            case "deactivated":
                assert after.collection is None
                assert at_rest or mark_of("k1") not in world.collections.values()
                if "c1" in world.shared and "c1" in before:
                    assert "c1" in world.collections
            case "active":
                assert after.collection is not None
                assert (after.status == "failed") == (after.collection not in world.collections)
    assert seen == 5 * 2 * 4 * 4 * 4 * 2


# -- new ------------------------------------------------------------------------------------------


def test_a_collection_of_unknown_fate_is_waited_for_and_then_made() -> None:
    pending = KnowledgeState(key_id="key", written_at=NOW, pending=CreateIntent(since=NOW))
    world = World(knowledge("new"), state=pending, now=NOW + timedelta(seconds=60))
    assert world.decided().ending == Wait("a collection's fate is unknown", timedelta(seconds=120))
    world.now = NOW + timedelta(seconds=180)
    (create,) = world.decided().actions
    assert isinstance(create, CreateCollection)


def test_the_name_is_one_line_that_people_recognise() -> None:
    long = Knowledge("k1", "Müller ./. Weiß\n" + "x" * 300)
    assert collection_name(long).startswith("Müller ./. Weiß xxx")
    assert len(collection_name(long)) == 100
    assert collection_name(Knowledge("k1", "  ")) == "k1"


# -- active ---------------------------------------------------------------------------------------


def test_all_documents_in_line_make_it_synced_and_their_rows_too() -> None:
    world = active(document("d1"), document("d2"))
    world.come_to_rest()
    assert world.knowledge.status == "synced"
    assert {row.state for row in world.rows.values()} == {"synced"}
    assert world.rows["d1"].file_id == "file-d1"
    assert world.checked == []


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({"fresh": True}, "unclean"),
        ({"md5": "bb"}, "unclean"),
        ({"collections": frozenset()}, "unclean"),
        ({"xai_id": None}, "unclean"),
        ({"md5": "bb", "says": Word.FAILED}, "failed"),
        ({"md5": "bb", "says": Word.UNSUPPORTED}, "unsupported"),
        ({"says": Word.FAILED}, "synced"),  # another collection failed, not this one
        ({"md5": None}, "synced"),
    ],
)
def test_a_document_is_as_far_as_both_sides_show(more: dict[str, object], state: str) -> None:
    world = active(document("d1", **more), document("d2"))
    world.come_to_rest()
    assert world.rows["d1"].state in (state, "new" if state == "unclean" else state)
    settled = state in ("synced", "unsupported")
    assert world.knowledge.status == ("synced" if settled else "unclean")
    assert world.checked == ([("d1",)] if state == "unclean" else [])


@pytest.mark.parametrize("status", ["processing", "failed"])
def test_what_xai_still_reads_or_could_not_read_keeps_it_unclean(status: str) -> None:
    world = active(document("d1"))
    world.members["file-d1"] = Member("file-d1", status)  # type: ignore[arg-type]  # both are states
    world.come_to_rest()
    assert world.knowledge.status == "unclean"
    assert world.checked == []
    assert world.rows["d1"].state == ("failed" if status == "failed" else "new")


def test_documents_that_stay_out_of_line_are_asked_for_once_an_hour() -> None:
    world = active(document("d1", fresh=True))
    for _ in range(3):
        world.come_to_rest()
    assert world.checked == [("d1",)]
    world.now += ASK_AGAIN
    world.come_to_rest()
    assert world.checked == [("d1",)] * 2


def test_others_that_fall_out_of_line_are_asked_for_at_once() -> None:
    world = active(document("d1", fresh=True), document("d2"))
    world.come_to_rest()
    world.documents = (document("d1", fresh=True), document("d2", fresh=True))
    world.come_to_rest()
    assert world.checked == [("d1",), ("d1", "d2")]


# -- which are looked at --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "collection", "status", "marked", "nightly"),
    [
        ("new", None, "", True, True),
        ("active", "c1", "synced", False, True),
        ("active", "c1", "unclean", True, True),
        ("active", "c1", "failed", True, True),
        ("paused", "c1", "unclean", False, False),
        ("deactivated", "c1", "synced", True, True),
        ("deactivated", None, "unclean", True, True),
        ("deactivated", None, "synced", False, False),
        (None, "c1", "unclean", False, False),
    ],
)
def test_the_marks_say_which_are_to_be_looked_at(
    stage: Stage | None, collection: str | None, status: str, marked: bool, nightly: bool
) -> None:
    one = knowledge(stage, collection=collection, status=status)
    assert due(one, everything=False) == marked
    assert due(one, everything=True) == nightly
