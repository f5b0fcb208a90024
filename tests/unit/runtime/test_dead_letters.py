"""Dead letters: they come back as they were, and say nothing they should not."""

import base64
from datetime import UTC, datetime

import pytest

from bitbylaw_common.errors import DecodeError
from bitbylaw_common.runtime.dead_letters import DeadLetter
from bitbylaw_common.runtime.schedule import Carried

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def letter(**how: object) -> DeadLetter:
    fields: dict[str, object] = {
        "service": "toy",
        "origin": "toy.thing.changed:3:17",
        "reason": "it rains",
        "error": "Transient",
        "attempts": 6,
        "first_seen": NOW,
        "died": NOW,
        **how,
    }
    return DeadLetter.model_validate(fields)


def test_a_letter_comes_back_from_its_bytes_as_it_was() -> None:
    carried = Carried(topic="t", value='{"thing":"a"}', headers={"ce_id": "e"}, origin="t:3:17")
    written = letter(step="Toy Sync", entity="thing", entity_id="a", carried=carried)
    assert DeadLetter.from_bytes(written.to_bytes()) == written
    assert written.raw_bytes is None


@pytest.mark.parametrize("raw", [b"", b"\x00\xff", bytes(range(256)) * 3])
def test_undecodable_bytes_come_back_byte_for_byte(raw: bytes) -> None:
    written = letter(error="Undecodable", raw=base64.b64encode(raw).decode())
    assert DeadLetter.from_bytes(written.to_bytes()).raw_bytes == raw


def test_a_field_of_a_newer_version_survives_the_way_through_this_one() -> None:
    newer = letter().to_bytes().replace(b"{", b'{"rank":7,', 1)
    assert b'"rank":7' in DeadLetter.from_bytes(newer).to_bytes()


@pytest.mark.parametrize("value", [b"", b"[]", b"\xff", b'{"service":"Geheim"}'])
def test_bytes_that_are_no_letter_are_refused_without_their_content(value: bytes) -> None:
    with pytest.raises(DecodeError, match="fields of a dead letter do not fit") as refused:
        DeadLetter.from_bytes(value)
    assert "Geheim" not in str(refused.value)
