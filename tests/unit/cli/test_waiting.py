"""What waits: the schedule folded, worded and as JSON."""

from datetime import timedelta

import pytest

from bitbylaw_cli.output import Exit
from bitbylaw_cli.waits import WaitingList
from bitbylaw_common.runtime.ports import Outgoing
from unit.cli.shelf import NOW, SERVICE, Bbl, Shelf, entry, open_instead


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    shelf = Shelf()
    open_instead(monkeypatch, shelf.log)
    return Bbl(shelf)


def _listed(bbl: Bbl, *words: str) -> WaitingList:
    answer = bbl("waiting", *words, "--json")
    assert answer.exit_code == Exit.OK, answer.stderr
    return WaitingList.model_validate_json(answer.stdout, strict=True)


def test_the_last_entry_of_a_key_counts_and_a_tombstone_ends_it(bbl: Bbl) -> None:
    bbl.shelf.schedule("d1", entry("d1", attempt=1))
    bbl.shelf.schedule("d2", entry("d2"))
    bbl.shelf.schedule("d1", entry("d1", attempt=2))
    bbl.shelf.schedule("d2", None)
    (only,) = _listed(bbl).entries
    assert (only.entity_id, only.attempt, only.service) == ("d1", 2, SERVICE)


def test_the_next_due_comes_first(bbl: Bbl) -> None:
    bbl.shelf.schedule("late", entry("late", due=timedelta(hours=4)))
    bbl.shelf.schedule("soon", entry("soon", due=timedelta(minutes=1), kind="wait", attempt=0))
    found = _listed(bbl, SERVICE)
    assert [one.entity_id for one in found.entries] == ["soon", "late"]
    assert found.entries[0].due == NOW + timedelta(minutes=1)
    assert found.services == (SERVICE,)


def test_people_read_due_kind_attempt_and_reason(bbl: Bbl) -> None:
    bbl.shelf.schedule("d1", entry("d1"))
    words = bbl("waiting").stdout
    for part in ("2026-03-02 09:05:00Z", "retry", "document d1", "2", "xai answered 503"):
        assert part in words


def test_nothing_waiting_is_said_in_words(bbl: Bbl) -> None:
    assert bbl("waiting").stdout == f"Nothing waits in {SERVICE}.\n"


def test_an_entry_of_another_version_is_counted_and_hides_no_other(bbl: Bbl) -> None:
    bbl.shelf.append(Outgoing(f"{SERVICE}.schedule", b"a|b|c", b'{"v":99}'))
    bbl.shelf.schedule("d1", entry("d1"))
    found = _listed(bbl)
    assert (found.unreadable, len(found.entries)) == (1, 1)


def test_an_unknown_service_is_answered_with_the_nearest(bbl: Bbl) -> None:
    answer = bbl("waiting", "dokument-sync")
    assert answer.exit_code == Exit.USAGE
    assert "the nearest is 'document-sync'" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_help_says_what_it_lists(bbl: Bbl) -> None:
    assert "retries after a failure" in bbl("waiting", "--help").stdout
