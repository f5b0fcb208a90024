"""Digests and the base: compare with what was without keeping what it was."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbylaw_common.errors import DecodeError
from bitbylaw_common.sync.base import BaseState
from bitbylaw_common.sync.digests import NORMALISER, Digester, normalised

DIGESTER = Digester(b"a key of the tests only")
WRITTEN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TEXTS = st.text(max_size=20)


class PartyBase(BaseState):
    """A base with fields of its service."""

    name: str
    rank: int | None = None


def test_equal_texts_have_equal_digests_and_others_do_not() -> None:
    assert DIGESTER.of("Müller") == DIGESTER.of("Müller")
    assert DIGESTER.of("Müller") != DIGESTER.of("Mueller")
    assert DIGESTER.of("") != DIGESTER.of()
    assert DIGESTER.of("a", "b") != DIGESTER.of("b", "a")


@pytest.mark.parametrize("spelling", ["Mu\u0308ller", "  Müller\t", "Müller\n"])
def test_another_spelling_of_the_same_text_is_the_same(spelling: str) -> None:
    assert normalised(spelling) == "Müller"
    assert DIGESTER.of(spelling) == DIGESTER.of("Müller")


@given(st.lists(TEXTS, max_size=4), st.lists(TEXTS, max_size=4))
def test_where_one_value_ends_and_the_next_begins_counts(one: list[str], other: list[str]) -> None:
    same = [normalised(text) for text in one] == [normalised(text) for text in other]
    assert (DIGESTER.of(*one) == DIGESTER.of(*other)) == same


def test_a_digest_is_32_hex_digits_and_says_nothing_without_the_key() -> None:
    digest = DIGESTER.of("Müller")
    assert len(digest) == 32
    assert set(digest) <= set("0123456789abcdef")
    assert digest != Digester(b"another key of the tests").of("Müller")


def test_a_key_is_named_without_being_shown() -> None:
    other = Digester(b"another key of the tests")
    assert DIGESTER.key_id == Digester(b"a key of the tests only").key_id
    assert DIGESTER.key_id != other.key_id
    assert len(DIGESTER.key_id) == 8


def base(**how: object) -> PartyBase:
    return PartyBase.model_validate(
        {"key_id": DIGESTER.key_id, "written_at": WRITTEN, "name": "d1", **how}
    )


def test_a_base_comes_back_from_its_bytes_as_it_was() -> None:
    written = base(written_by="run-1")
    assert PartyBase.from_bytes(written.to_bytes()) == written


def test_a_field_without_a_value_takes_no_room_in_the_bytes() -> None:
    assert b"rank" not in base().to_bytes()
    assert b"rank" in base(rank=7).to_bytes()


def test_when_and_by_which_run_a_base_was_written_is_not_what_it_says() -> None:
    later = base(written_at=WRITTEN + timedelta(days=1), written_by="run-2")
    assert base(written_by="run-1").says_the_same_as(later)
    assert not base().says_the_same_as(base(name="d2"))
    assert not base().says_the_same_as(None)


def test_digests_of_another_key_or_normaliser_are_not_compared() -> None:
    assert base().comparable(DIGESTER.key_id)
    assert not base().comparable("00000000")
    assert not base(normaliser=NORMALISER + 1).comparable(DIGESTER.key_id)


def test_a_field_that_nobody_knows_is_passed_over() -> None:
    newer = base().to_bytes().replace(b"{", b'{"weight":7,', 1)
    assert PartyBase.from_bytes(newer) == base()


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"\xff", b'{"key_id":"k","name":"Geheim"}', b'{"written_at":"Geheim"}']
)
def test_bytes_that_are_no_base_are_refused_without_their_content(value: bytes) -> None:
    with pytest.raises(DecodeError, match="fields of the base do not fit PartyBase") as refused:
        PartyBase.from_bytes(value)
    assert "Geheim" not in str(refused.value)


def test_the_bytes_of_one_service_are_no_base_of_another() -> None:
    only_common = BaseState(key_id="k", written_at=WRITTEN).to_bytes()
    with pytest.raises(DecodeError):
        PartyBase.from_bytes(only_common)
