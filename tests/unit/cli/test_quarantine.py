"""The quarantine: what is open, its bytes, released by reading again or by ids, dropped."""

import base64
import stat
from pathlib import Path

import pytest

from bitbylaw_cli.held import Held, HeldList, Release
from bitbylaw_cli.output import Exit
from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged, Quarantined, QuarantineResolved
from bitbylaw_common.kafka import codec
from unit.cli.shelf import NOW, Bbl, Shelf, open_instead

READABLE = b'[{"id":"d1","name":"x"},{"id":"d2"}]'
BROKEN = b'[{"id":"d1"},{"name":"Meier"}'


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    shelf = Shelf()
    open_instead(monkeypatch, shelf.log)
    return Bbl(shelf)


def _hold(bbl: Bbl, name: str, raw: bytes, *, item: int | None = None) -> None:
    bbl.shelf.put(
        topics.QUARANTINE,
        Quarantined(
            quarantine_id=name,
            route="/vmh/webhook/document/update",
            webhook_id="w",
            reason="the body is not JSON",
            raw=base64.b64encode(raw).decode(),
            item=item,
        ),
    )


def _listed(bbl: Bbl, *words: str) -> HeldList:
    answer = bbl("quarantine", "list", *words, "--json")
    assert answer.exit_code == Exit.OK, answer.stderr
    return HeldList.model_validate_json(answer.stdout)


def _released(bbl: Bbl, *words: str) -> Release:
    answer = bbl("quarantine", *words, "--json")
    assert answer.exit_code == Exit.OK, answer.stderr
    return Release.model_validate_json(answer.stdout, strict=True)


def _events(bbl: Bbl) -> list[EntityChanged]:
    records = bbl.shelf.records(topics.DOCUMENT_UPDATE.name)
    return sorted(
        (codec.decode(topics.DOCUMENT_UPDATE, record)[0] for record in records),
        key=lambda event: event.entity_id,
    )


def test_the_list_shows_what_waits_and_never_what_it_holds(bbl: Bbl) -> None:
    _hold(bbl, "q1", BROKEN)
    _hold(bbl, "q2", b'{"name":"Meier"}', item=3)
    found = _listed(bbl)
    assert [(one.quarantine_id, one.item, one.raw_bytes) for one in found.entries] == [
        ("q1", None, len(BROKEN)),
        ("q2", 3, 16),
    ]
    assert found.entries[0].first == NOW
    for words in (bbl("quarantine", "list").stdout, bbl("quarantine", "list", "--json").stdout):
        assert "Meier" not in words
        assert base64.b64encode(BROKEN).decode() not in words
    assert "2 open, 0 decided" in bbl("quarantine", "list").stdout


def test_a_released_entry_becomes_events_and_is_closed_by_a_record_in_its_partition(
    bbl: Bbl,
) -> None:
    _hold(bbl, "q1", READABLE)
    done = _released(bbl, "release", "q1", "--yes")
    assert (done.written, done.resolves, done.how) == (True, True, "reread")
    assert [(event.entity_id, event.source, event.changed) for event in _events(bbl)] == [
        ("d1", "operator", ("name",)),
        ("d2", "operator", ()),
    ]
    entry, decision = bbl.shelf.records(topics.QUARANTINE.name)
    assert (decision.partition, decision.key) == (entry.partition, b"q1")
    assert QuarantineResolved.model_validate_json(decision.value or b"").events == 2
    assert _listed(bbl).entries == ()
    (decided,) = _listed(bbl, "--all").entries
    assert (decided.open, decided.how, decided.events) == (False, "reread", 2)


def test_the_plan_says_what_would_be_published_and_writes_nothing(bbl: Bbl) -> None:
    _hold(bbl, "q1", READABLE)
    plan = _released(bbl, "release", "q1", "--plan")
    assert not plan.written
    assert [(one.topic, one.entity_id) for one in plan.publishes] == [
        ("vmh.document.update", "d1"),
        ("vmh.document.update", "d2"),
    ]
    assert _events(bbl) == []
    assert len(bbl.shelf.records(topics.QUARANTINE.name)) == 1
    assert "--yes publishes 2 events" in bbl("quarantine", "release", "q1", "--plan").stdout


def test_what_still_cannot_be_read_is_refused_and_stays_open(bbl: Bbl) -> None:
    _hold(bbl, "q1", BROKEN)
    answer = bbl("quarantine", "release", "q1", "--yes")
    assert answer.exit_code == Exit.REFUSED
    assert "--ids" in answer.stderr
    assert "Meier" not in answer.stderr
    assert _listed(bbl).open == 1


def test_a_body_of_which_one_item_is_unreadable_is_published_in_part_and_stays_open(
    bbl: Bbl,
) -> None:
    _hold(bbl, "q1", b'[{"id":"d1"},{"name":"Meier"}]')
    done = _released(bbl, "release", "q1", "--yes")
    assert (done.resolves, done.still) == (False, ("the item has no id",))
    assert [event.entity_id for event in _events(bbl)] == ["d1"]
    assert _listed(bbl).open == 1


def test_an_operator_may_name_the_records(bbl: Bbl) -> None:
    _hold(bbl, "q1", BROKEN)
    done = _released(bbl, "release", "q1", "--ids", "d1, d7,d1", "--yes")
    assert (done.how, len(done.publishes)) == ("ids", 2)
    assert [event.entity_id for event in _events(bbl)] == ["d1", "d7"]
    assert _listed(bbl).open == 0


@pytest.mark.parametrize(("ids", "code"), [("d1,../etc", Exit.REFUSED), (" , ", Exit.USAGE)])
def test_ids_that_cannot_be_ids_release_nothing(bbl: Bbl, ids: str, code: Exit) -> None:
    _hold(bbl, "q1", BROKEN)
    assert bbl("quarantine", "release", "q1", "--ids", ids, "--yes").exit_code == code
    assert _events(bbl) == []
    assert _listed(bbl).open == 1


def test_a_dropped_entry_publishes_nothing_and_cannot_be_decided_again(bbl: Bbl) -> None:
    _hold(bbl, "q1", READABLE)
    assert not _released(bbl, "drop", "q1", "--plan").written
    assert _listed(bbl).open == 1
    assert _released(bbl, "drop", "q1", "--yes").how == "dropped"
    assert (_events(bbl), _listed(bbl).open) == ([], 0)
    for verb in ("drop", "release"):
        answer = bbl("quarantine", verb, "q1", "--yes")
        assert answer.exit_code == Exit.REFUSED
        assert "was dropped already" in answer.stderr


def test_the_same_bytes_posted_after_a_decision_are_open_again(bbl: Bbl) -> None:
    _hold(bbl, "q1", READABLE)
    _released(bbl, "drop", "q1", "--yes")
    _hold(bbl, "q1", READABLE)
    (only,) = _listed(bbl).entries
    assert (only.open, only.times, only.how) == (True, 2, "dropped")
    assert "open again" in bbl("quarantine", "list").stdout
    assert _released(bbl, "release", "q1", "--yes").resolves


def test_the_exact_bytes_go_to_a_new_file_of_one_s_own(bbl: Bbl, tmp_path: Path) -> None:
    raw = bytes(range(256))
    _hold(bbl, "q1", raw)
    target = tmp_path / "body"
    answer = bbl("quarantine", "show", "q1", "--raw", str(target), "--json")
    assert Held.model_validate_json(answer.stdout).raw_bytes == len(raw)
    assert target.read_bytes() == raw
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert bbl("quarantine", "show", "q1", "--raw", str(target)).exit_code == Exit.REFUSED
    assert "the body is not JSON" in bbl("quarantine", "show", "q1").stdout


def test_an_entry_that_is_not_there_is_named(bbl: Bbl) -> None:
    answer = bbl("quarantine", "show", "q9")
    assert answer.exit_code == Exit.USAGE
    assert "no entry 'q9'" in answer.stderr
    assert bbl("quarantine", "release", "q9", "--yes").exit_code == Exit.USAGE


def test_a_write_wants_plan_or_yes(bbl: Bbl) -> None:
    _hold(bbl, "q1", READABLE)
    for verb in ("release", "drop"):
        assert bbl("quarantine", verb, "q1").exit_code == Exit.USAGE
        assert bbl("quarantine", verb, "q1", "--plan", "--yes").exit_code == Exit.USAGE
    assert _listed(bbl).open == 1


def test_help_lists_the_verbs_and_an_empty_quarantine_is_said(bbl: Bbl) -> None:
    words = bbl("quarantine", "--help").stdout
    assert all(verb in words for verb in ("list", "show", "release", "drop"))
    assert "Nothing waits in the quarantine" in bbl("quarantine", "list").stdout
