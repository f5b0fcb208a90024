"""What leaves the quarantine, and as what."""

import base64

import pytest

from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged, Quarantined
from bitbylaw_ingest.domain.skimming import Fault
from bitbylaw_ingest.released import emits_of_entry, emits_of_ids, reread


def entry(raw: bytes, *, item: int | None = None, route: str = "document/update") -> Quarantined:
    return Quarantined(
        quarantine_id="q",
        route=f"/vmh/webhook/{route}",
        webhook_id="w",
        reason="by the rules of that day",
        raw=base64.b64encode(raw).decode(),
        item=item,
    )


def test_an_entry_that_can_be_read_today_becomes_the_events_it_should_have_been() -> None:
    kept = entry(b'[{"id":"1","name":"x"},{"id":"2"}]')
    emits = emits_of_entry(kept, reread(kept))
    assert [emit.topic for emit in emits] == [topics.DOCUMENT_UPDATE] * 2
    assert emits[0].event == EntityChanged(
        entity_type="CDokumente",
        entity_id="1",
        action="update",
        changed=("name",),
        source="operator",
    )
    assert set(emits[0].headers) == {"bbl-dup"}


def test_an_item_s_entry_is_read_as_an_item_and_not_as_a_batch() -> None:
    assert [item.id for item in reread(entry(b'{"id":"1"}', item=3)).items] == ["1"]
    again = reread(entry(b'[{"id":"1"}]', item=3))
    assert again.items == ()
    assert [part.fault for part in again.unreadable] == [Fault.NOT_AN_OBJECT]


def test_what_is_still_unreadable_becomes_no_event() -> None:
    kept = entry(b'[{"id":"1"},{"name":"x"}]')
    found = reread(kept)
    assert [part.fault for part in found.unreadable] == [Fault.NO_ID]
    assert [emit.event.key for emit in emits_of_entry(kept, found)] == ["1"]


def test_an_entry_whose_base64_is_broken_is_unreadable_and_no_exception() -> None:
    kept = entry(b"").model_copy(update={"raw": "%%%"})
    assert [part.fault for part in reread(kept).unreadable] == [Fault.NOT_JSON]


def test_ids_that_an_operator_names_become_events_of_the_entry_s_webhook() -> None:
    emits = emits_of_ids(entry(b"{", route="beteiligte/delete"), ["1", "2"])
    assert [emit.topic for emit in emits] == [topics.BETEILIGTE_DELETE] * 2
    assert [(emit.event.key, emit.event.entity) for emit in emits] == [
        ("1", "beteiligte"),
        ("2", "beteiligte"),
    ]


def test_an_id_that_cannot_be_one_is_refused_by_its_place() -> None:
    with pytest.raises(ValueError, match="id number 2") as refused:
        emits_of_ids(entry(b"{"), ["1", "not an id"])
    assert "not an id" not in str(refused.value)


def test_a_route_that_nobody_serves_any_more_is_named() -> None:
    kept = entry(b'[{"id":"1"}]', route="akte/create")
    with pytest.raises(KeyError, match="/vmh/webhook/akte/create"):
        emits_of_entry(kept, reread(kept))
