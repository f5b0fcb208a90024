"""Dead letters: grouped by cause, one by one, their bytes, and asked for again."""

import base64
import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from bitbylaw_cli.letters import Letter, LetterList, Redrive, grouped
from bitbylaw_cli.output import Exit
from bitbylaw_common import topics
from bitbylaw_common.events import RunRequested
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.ports import Outgoing
from unit.cli.shelf import NOW, SERVICE, STEP, Bbl, Shelf, letter, open_instead

GIFT = b"\x00Mandant Meier, geheim"


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    shelf = Shelf()
    open_instead(monkeypatch, shelf.log)
    return Bbl(shelf)


def _bury_unreadable(bbl: Bbl) -> None:
    raw = base64.b64encode(GIFT).decode()
    bbl.shelf.bury(
        letter(
            "", step="", entity="", error="Undecodable", reason="no JSON", raw=raw, carried=None,
            origin="vmh.document.update:4:1", run_id="r", event_id="e",
        )
    )  # fmt: skip


def _ran(bbl: Bbl, entity_id: str, outcome: str, *, after: timedelta) -> None:
    run = JournalEntry(
        phase="end", service=SERVICE, step=STEP, entity="document", entity_id=entity_id,
        run_id="later", event_id="e", began=NOW + after, ended=NOW + after, outcome=outcome,
    )  # fmt: skip
    number = codec.partition_of(entity_id.encode())
    bbl.shelf.append(
        Outgoing(topics.JOURNAL.name, run.key, run.model_dump_json().encode(), {}, number)
    )


def test_letters_of_one_cause_are_one_group_whatever_their_instants() -> None:
    letters = [
        letter("d1", reason=f"waited until {NOW.isoformat()}: indexing", error="WaitedTooLong"),
        letter("d2", reason="waited until 2026-03-05T10:00:00+00:00: indexing",
               error="WaitedTooLong", died=NOW + timedelta(days=3)),
        letter("d3"),
    ]  # fmt: skip
    groups = grouped(letters)
    assert [(group.count, group.error) for group in groups] == [
        (2, "WaitedTooLong"),
        (1, "Invalid"),
    ]
    assert groups[0].reason == "waited until (a time): indexing"
    assert groups[0].examples == ("d2", "d1")
    assert (groups[0].first, groups[0].last) == (NOW, NOW + timedelta(days=3))


def test_the_list_says_how_many_of_what_and_which(bbl: Bbl) -> None:
    for entity_id in ("d1", "d2"):
        bbl.shelf.bury(letter(entity_id))
    _bury_unreadable(bbl)
    answer = bbl("dlq", "list", SERVICE, "--json")
    found = LetterList.model_validate_json(answer.stdout, strict=True)
    assert answer.exit_code == Exit.OK
    assert [(group.count, group.error) for group in found.groups] == [
        (2, "Invalid"),
        (1, "Undecodable"),
    ]
    words = bbl("dlq", "list", SERVICE).stdout
    assert "xai answered 400 to upload_file" in words
    assert "3 dead letters" in words


def test_a_later_good_run_resolves_a_letter_and_a_later_failure_does_not(bbl: Bbl) -> None:
    for entity_id in ("mended", "broken", "earlier"):
        bbl.shelf.bury(letter(entity_id))
    _ran(bbl, "mended", "skipped", after=timedelta(minutes=1))
    _ran(bbl, "broken", "retry", after=timedelta(minutes=1))
    _ran(bbl, "earlier", "done", after=timedelta(minutes=-1))
    answer = bbl("dlq", "list", SERVICE, "--open", "--json")
    found = LetterList.model_validate_json(answer.stdout, strict=True)
    assert (found.count, found.resolved) == (2, 1)
    assert {*found.groups[0].examples} == {"broken", "earlier"}


@pytest.mark.parametrize("which", ["d1", "vmh.document.update:3:7", "event-d1", "run-d1"])
def test_one_letter_is_found_by_record_origin_event_and_run(bbl: Bbl, which: str) -> None:
    bbl.shelf.bury(letter("d1"))
    found = Letter.model_validate_json(bbl("dlq", "show", SERVICE, which, "--json").stdout)
    assert found.origin == "vmh.document.update:3:7"
    assert found.event == {"entity_type": "CDokumente", "entity_id": "d1", "action": "update"}
    assert found.attempts == 1
    assert bbl("dlq", "show", SERVICE, found.place).exit_code == Exit.OK


def test_of_several_letters_of_a_record_the_last_is_shown(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1", attempts=1))
    bbl.shelf.bury(letter("d1", attempts=6, died=NOW + timedelta(hours=5)))
    words = bbl("dlq", "show", SERVICE, "d1", "--json").stdout
    assert json.loads(words)["attempts"] == 6


def test_the_bytes_of_an_unreadable_record_are_never_printed(bbl: Bbl) -> None:
    _bury_unreadable(bbl)
    for words in (
        bbl("dlq", "show", SERVICE, "r").stdout,
        bbl("dlq", "show", SERVICE, "r", "--json").stdout,
        bbl("dlq", "list", SERVICE, "--json").stdout,
    ):
        assert "Meier" not in words
        assert base64.b64encode(GIFT).decode() not in words
    assert str(len(GIFT)) in bbl("dlq", "show", SERVICE, "r").stdout


def test_the_bytes_go_to_a_file_of_one_s_own_only_with_personal(bbl: Bbl, tmp_path: Path) -> None:
    _bury_unreadable(bbl)
    target = tmp_path / "raw"
    refused = bbl("dlq", "show", SERVICE, "r", "--raw", str(target))
    assert refused.exit_code == Exit.REFUSED
    assert not target.exists()
    assert bbl("dlq", "show", SERVICE, "r", "--raw", str(target), "--personal").exit_code == Exit.OK
    assert target.read_bytes() == GIFT
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    again = bbl("dlq", "show", SERVICE, "r", "--raw", str(target), "--personal")
    assert again.exit_code == Exit.REFUSED
    assert "is there already" in again.stderr


def test_a_redrive_asks_the_letter_s_service_for_its_event(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    plan = Redrive.model_validate_json(
        bbl("dlq", "redrive", SERVICE, "d1", "--plan", "--json").stdout
    )
    assert not plan.written
    assert bbl.shelf.records(f"{SERVICE}.requests") == []
    done = bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    assert done.exit_code == Exit.OK
    assert "Next: bbl why document d1" in done.stdout
    (record,) = bbl.shelf.records(f"{SERVICE}.requests")
    asked, _ = codec.decode(topics.requests(SERVICE), record)
    assert isinstance(asked, RunRequested)
    assert (asked.function_id, asked.subject) == (f"steps::{STEP}::trigger::0", "d1")
    assert asked.requested == {"entity_type": "CDokumente", "entity_id": "d1", "action": "update"}


def test_an_unreadable_letter_cannot_be_redriven(bbl: Bbl) -> None:
    _bury_unreadable(bbl)
    answer = bbl("dlq", "redrive", SERVICE, "r", "--yes")
    assert answer.exit_code == Exit.REFUSED
    assert "was unreadable" in answer.stderr


def test_a_write_wants_plan_or_yes_and_a_letter_that_is_there(bbl: Bbl) -> None:
    assert bbl("dlq", "redrive", SERVICE, "d1").exit_code == Exit.USAGE
    missing = bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    assert missing.exit_code == Exit.USAGE
    assert "`bbl dlq list document-sync` shows what is there" in missing.stderr
    assert bbl("dlq", "list", "ingest").exit_code == Exit.USAGE


def test_an_empty_queue_is_said_in_words(bbl: Bbl) -> None:
    assert bbl("dlq", "list", SERVICE).stdout == f"{SERVICE} has no dead letters.\n"


def test_help_lists_the_verbs(bbl: Bbl) -> None:
    words = bbl("dlq", "--help").stdout
    assert all(verb in words for verb in ("list", "show", "redrive"))
