"""Records of a topic: the last, the first, of one key; personal ones only when asked."""

import base64

import pytest

from bitbylaw_cli.output import Exit
from bitbylaw_cli.records import home_of, subject_of
from bitbylaw_cli.tailing import TailedList
from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged, Quarantined
from bitbylaw_common.runtime.ports import Outgoing
from unit.cli.shelf import SERVICE, Bbl, Shelf, entry, open_instead

UPDATE = topics.DOCUMENT_UPDATE.name


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    shelf = Shelf()
    open_instead(monkeypatch, shelf.log)
    return Bbl(shelf)


def _change(bbl: Bbl, *ids: str) -> None:
    for entity_id in ids:
        bbl.shelf.put(
            topics.DOCUMENT_UPDATE,
            EntityChanged(entity_type="CDokumente", entity_id=entity_id, action="update"),
        )


def _keys(bbl: Bbl, *words: str) -> list[str | None]:
    answer = bbl("tail", *words, "--json")
    assert answer.exit_code == Exit.OK, answer.stderr
    return [one.key for one in TailedList.model_validate_json(answer.stdout).records]


def test_the_last_records_of_all_partitions_are_shown_in_the_order_of_time(bbl: Bbl) -> None:
    ids = [f"d{number}" for number in range(30)]
    _change(bbl, *ids)
    assert _keys(bbl, UPDATE) == ids[-10:]
    assert _keys(bbl, UPDATE, "--count", "3") == ids[-3:]
    assert _keys(bbl, UPDATE, "--from", "end", "-n", "2") == ids[-2:]
    assert _keys(bbl, UPDATE, "--from", "beginning", "-n", "4") == ids[:4]


def test_one_key_and_an_offset_within_its_partition(bbl: Bbl) -> None:
    _change(bbl, "d1", "d2", "d1", "d3", "d1")
    assert _keys(bbl, UPDATE, "--key", "d1") == ["d1"] * 3
    place = str(home_of("d1"))
    answer = bbl("tail", UPDATE, "--key", "d1", "--from", "1", "--json")
    found = TailedList.model_validate_json(answer.stdout).records
    assert [(one.key, one.partition) for one in found][-1] == ("d1", int(place))
    assert all(one.offset >= 1 for one in found)
    assert len(_keys(bbl, UPDATE, "--partition", place, "--from", "0")) >= 3


def test_an_id_finds_records_whose_key_names_it_otherwise(bbl: Bbl) -> None:
    bbl.shelf.schedule("d1", entry("d1"))
    bbl.shelf.schedule("d2", entry("d2"))
    for key in ("d1", "Document Sync|document|d1"):
        assert _keys(bbl, f"{SERVICE}.schedule", "--key", key) == ["Document Sync|document|d1"]


@pytest.mark.parametrize(
    ("key", "subject"),
    [
        ("d1", "d1"),
        ("document:d1", "d1"),
        ("Document Sync|document|d1", "d1"),
        ("steps::Toy Cron::trigger::0", "steps::Toy Cron::trigger::0"),
        ("cron:steps::Toy Cron::trigger::0", "steps::Toy Cron::trigger::0"),
        ("Toy Cron|cron|steps::Toy Cron::trigger::0", "steps::Toy Cron::trigger::0"),
    ],
)
def test_a_key_tells_the_id_that_chose_its_partition(key: str, subject: str) -> None:
    assert subject_of(key) == subject
    assert home_of(key) == home_of(subject)


def test_headers_and_value_are_shown(bbl: Bbl) -> None:
    _change(bbl, "d1")
    words = bbl("tail", UPDATE).stdout
    for part in ("ce_type: bitbylaw.entity.changed", '"entity_id": "d1"', f"{UPDATE}:"):
        assert part in words


def test_a_tombstone_is_named_and_what_is_no_json_is_not_shown(bbl: Bbl) -> None:
    bbl.shelf.schedule("d1", None)
    assert "(tombstone)" in bbl("tail", f"{SERVICE}.schedule").stdout
    bbl.shelf.append(Outgoing(UPDATE, b"d1", b"Mandant Meier"))
    words = bbl("tail", UPDATE).stdout
    assert "(no JSON, 13 bytes, not shown)" in words
    assert "Meier" not in words + bbl("tail", UPDATE, "--json").stdout


def test_a_personal_topic_is_refused_until_asked_for(bbl: Bbl) -> None:
    raw = base64.b64encode(b"Meier").decode()
    bbl.shelf.put(
        topics.QUARANTINE,
        Quarantined(quarantine_id="q1", route="/r", webhook_id="w", reason="r", raw=raw),
    )
    refused = bbl("tail", "ingest.quarantine")
    assert refused.exit_code == Exit.REFUSED
    assert "--personal" in refused.stderr
    assert raw not in refused.stdout + refused.stderr
    assert raw in bbl("tail", "ingest.quarantine", "--personal").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("vmh.dokument.update",), "the nearest is 'vmh.document.update'"),
        ((UPDATE, "--from", "5"), "--partition"),
        ((UPDATE, "--from", "yesterday"), "neither beginning nor end"),
        ((UPDATE, "--count", "0"), "--count"),
    ],
)
def test_wrong_usage_says_what_to_do(bbl: Bbl, words: tuple[str, ...], says: str) -> None:
    answer = bbl("tail", *words)
    assert answer.exit_code == Exit.USAGE
    assert says in answer.stderr


def test_an_empty_topic_is_said_in_words(bbl: Bbl) -> None:
    assert bbl("tail", UPDATE).stdout == f"{UPDATE} holds no such record.\n"


def test_help_says_that_no_offset_moves(bbl: Bbl) -> None:
    assert "no offset moves" in bbl("tail", "--help").stdout
