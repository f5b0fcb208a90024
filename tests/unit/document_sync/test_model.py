"""What is known about a document: what both sides are seen to say, and how its base goes on."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bitbylaw_document_sync.domain.model import (
    DocumentBase,
    Entry,
    Found,
    Indexing,
    Member,
    Noted,
    Obstacle,
    Retired,
    Sight,
    UploadIntent,
    Word,
)
from unit.document_sync.fakes import DIGESTER, START

ENTRY = Entry(
    "d1",
    "att",
    "Klage",
    md5="aa",
    sha256="bb",
    says=Word.SYNCED,
    words=frozenset({Word.SYNCED, Word.INDEXING}),
    xai_id="f1",
    collections=frozenset({"B", "A"}),
    synced_hash="aa",
    message="leer",
    wanted=frozenset({"C", "A"}),
    on_hold=frozenset({"D"}),
    status_said="Synchron",
)
RUNNING, READY, FAILED = Indexing.RUNNING, Indexing.READY, Indexing.FAILED


# -- the record -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "full", "empty"),
    [
        (Noted.FILE, "f1", ""),
        (Noted.COLLECTIONS, "A,B", ""),
        (Noted.HASH, "aa", ""),
        (Noted.MESSAGE, "leer", ""),
        (Noted.STATUS, "synced", ""),
    ],
)
def test_each_of_our_fields_shows_a_text(what: Noted, full: str, empty: str) -> None:
    assert ENTRY.value_of(what) == full
    assert Entry("d1", None).value_of(what) == empty


def test_a_status_is_fresh_or_a_word_of_ours_or_what_it_says() -> None:
    assert replace(ENTRY, fresh=True).value_of(Noted.STATUS) == "fresh"
    assert replace(ENTRY, says=None).value_of(Noted.STATUS) == "Synchron"


def test_a_record_notes_bytes_by_either_hash_and_no_hash_is_none() -> None:
    assert ENTRY.synced_as("aa")
    assert replace(ENTRY, synced_hash="bb").synced_as(None)
    assert not replace(ENTRY, synced_hash="cc").synced_as("aa")
    assert not replace(ENTRY, synced_hash=None, sha256=None).synced_as(None)


# -- xAI --------------------------------------------------------------------------------------------

SEEN = Found(
    frozenset({"f1", "f2"}),
    frozenset({("f1", "A"), ("f1", "B"), ("f2", "A")}),
    (
        Member("f2", "A", FAILED, "22", "torn"),
        Member("f1", "A", FAILED, "", ""),
        Member("f1", "B", FAILED, "11", "no text"),
    ),
)


def test_a_file_is_as_far_in_each_collection_as_xai_says() -> None:
    assert SEEN.indexing("f1", FAILED) == {"A", "B"}
    assert SEEN.indexing("f1", RUNNING) == frozenset()
    assert SEEN.indexing("f2", FAILED) == {"A"}
    assert SEEN.collections_of("f1") == {"A", "B"}


def test_an_error_and_a_hash_are_the_file_s_own_from_wherever_xai_tells_them() -> None:
    assert (SEEN.error_of("f1"), SEEN.hash_of("f1")) == ("no text", "11")
    assert (SEEN.error_of("f2"), SEEN.hash_of("f2")) == ("torn", "22")
    assert (SEEN.error_of("f9"), SEEN.hash_of("f9")) == ("", "")


def test_a_later_look_replaces_what_was_known_of_the_same_pair() -> None:
    later = SEEN.with_members([Member("f1", "A", READY, "11"), Member("f2", "C", RUNNING)])
    assert later == Found(
        frozenset({"f1", "f2"}),
        frozenset({("f1", "A"), ("f1", "B"), ("f2", "A"), ("f2", "C")}),
        (
            Member("f2", "A", FAILED, "22", "torn"),
            Member("f1", "B", FAILED, "11", "no text"),
            Member("f1", "A", READY, "11"),
            Member("f2", "C", RUNNING),
        ),
    )


# -- the base ---------------------------------------------------------------------------------------

INTENT = UploadIntent(
    since=START + timedelta(minutes=1),
    attachment_id="att2",
    name="n",
    content="c2",
    recorded="r2",
    size=3,
)


def base(**more: Any) -> DocumentBase:
    given: dict[str, Any] = {
        "key_id": DIGESTER.key_id,
        "written_at": START,
        "file_id": "f1",
        "ours": True,
        "attachment_id": "att",
        "content": "c1",
        "recorded": "r1",
        "size": 2,
        "collections": ("A",),
        "retired": (Retired(file_id="f0", ours=False),),
        "pending": INTENT,
        "hashes": ("h1",),
        "indexing": START,
    }
    return DocumentBase(**(given | more))


def test_a_file_that_was_uploaded_takes_the_place_of_the_one_before() -> None:
    assert base().with_file("f2", INTENT, ("h2",)) == DocumentBase(
        key_id=DIGESTER.key_id,
        written_at=START,
        file_id="f2",
        ours=True,
        attachment_id="att2",
        content="c2",
        recorded="r2",
        size=3,
        collections=("A",),
        retired=(Retired(file_id="f0", ours=False), Retired(file_id="f1", ours=True)),
        hashes=("h2",),
        indexing=INTENT.since,
    )
    assert base().with_file("f2", INTENT).hashes == ()


@pytest.mark.parametrize(
    ("kind", "kept"), [("hash", True), ("refused", False), ("indexing", False)]
)
def test_only_a_hash_that_differs_is_still_in_the_way_of_the_file_sent_again(
    kind: Any, kept: bool
) -> None:
    obstacle = Obstacle(kind=kind, content="c1", since=START)
    assert base(obstacle=obstacle).with_file("f2", INTENT).obstacle == (obstacle if kept else None)


def test_a_file_that_retires_leaves_nothing_known_of_its_bytes() -> None:
    obstacle = Obstacle(kind="refused", content="c1", since=START)
    assert base(obstacle=obstacle).retiring("f2") == DocumentBase(
        key_id=DIGESTER.key_id,
        written_at=START,
        file_id="f2",
        ours=False,
        collections=("A",),
        retired=(Retired(file_id="f0", ours=False), Retired(file_id="f1", ours=True)),
        pending=INTENT,
        obstacle=obstacle,
    )


def test_where_there_was_no_file_none_retires() -> None:
    assert base(file_id=None).retiring(None).retired == (Retired(file_id="f0", ours=False),)


# -- the sight --------------------------------------------------------------------------------------


def test_what_both_sides_say_is_told_in_a_fixed_order() -> None:
    failed = base(obstacle=Obstacle(kind="indexing", content="c1", since=START, tries=2))
    found = Found(frozenset({"f2", "f1"}), frozenset({("f2", "A"), ("f1", "B")})).with_members(
        [Member("f1", "B", RUNNING), Member("f2", "A", READY)]
    )
    assert Sight("d1", ENTRY, failed, found, START).told() == (
        "there",
        "att",
        "Klage",
        "aa",
        "aa",
        "f1",
        "False",
        "word indexing",
        "word synced",
        "noted A",
        "noted B",
        "wanted A",
        "wanted C",
        "held D",
        "indexing 2",
        "file f1",
        "file f2",
        "attached f1 B",
        "attached f2 A",
        "indexing f1 B running",
    )


def test_of_a_record_that_is_gone_or_empty_as_much_is_told_as_there_is() -> None:
    found = Found(frozenset({"f1"}), frozenset({("f1", "A")}))
    assert Sight("d1", None, base(), found, START).told() == ("gone", "file f1", "attached f1 A")
    nothing = Sight("d1", Entry("d1", None), None, Found(), START)
    assert nothing.told() == ("there", "", "", "", "", "", "False")
