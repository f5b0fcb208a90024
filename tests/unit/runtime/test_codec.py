"""The codec: events to records and back, and the partition of a key as Kafka decides it."""

import base64
import json
import random
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from bitbylaw_common import topics
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.events import EntityChanged, Event, Quarantined, RunRequested
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.ports import Outgoing, Record

NOW = datetime(2026, 3, 8, 12, 30, 15, tzinfo=UTC)
CHANGED = EntityChanged(
    entity_type="CDokumente", entity_id="65f0c1d2", action="update", changed=("name",)
)
JAVA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""What Kafka's own Java test holds its murmur2 to, as signed numbers."""


def encoded(event: EntityChanged = CHANGED, *, traceparent: str = "") -> Outgoing:
    return codec.encode(
        topics.DOCUMENT_UPDATE,
        event,
        event_id="event-1",
        source="ingest",
        now=NOW,
        traceparent=traceparent,
    )


def stored(out: Outgoing, *, key: bytes | None = None, value: bytes | None = None) -> Record:
    return Record(out.topic, 3, 17, key or out.key, value or out.value, out.headers, NOW)


@pytest.mark.parametrize(("key", "signed"), JAVA_VECTORS.items(), ids=lambda value: str(value)[:12])
def test_murmur2_is_that_of_the_java_client(key: bytes, signed: int) -> None:
    assert codec._murmur2(key) == signed % 2**32


@given(st.binary(max_size=64), st.integers(1, 50))
def test_a_key_has_the_partition_that_every_kafka_client_gives_it(key: bytes, count: int) -> None:
    numbers = list(range(count))
    assert codec.partition_of(key, count) == DefaultPartitioner()(key, numbers, numbers)


def test_keys_spread_over_all_partitions() -> None:
    chance = random.Random(7)
    found = [codec.partition_of(chance.randbytes(12)) for _ in range(12_000)]
    counts = [found.count(number) for number in range(topics.PARTITIONS)]
    assert min(counts) > 800


def test_a_record_says_in_its_headers_what_cloudevents_asks_for() -> None:
    out = encoded(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    assert (out.topic, out.key, out.partition) == ("vmh.document.update", b"65f0c1d2", None)
    assert out.headers == {
        "ce_specversion": "1.0",
        "ce_id": "event-1",
        "ce_type": "bitbylaw.entity.changed",
        "ce_source": "/bitbylaw/ingest",
        "ce_subject": "65f0c1d2",
        "ce_time": "2026-03-08T12:30:15+00:00",
        "content-type": "application/json",
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    }
    assert out.value is not None
    assert json.loads(out.value) == {
        "v": 1,
        "entity_type": "CDokumente",
        "entity_id": "65f0c1d2",
        "action": "update",
        "changed": ["name"],
        "source": "webhook",
    }
    assert "traceparent" not in encoded().headers


def test_further_headers_are_added_and_replace_none_of_ours() -> None:
    out = codec.encode(
        topics.DOCUMENT_UPDATE,
        CHANGED,
        event_id="event-1",
        source="ingest",
        now=NOW,
        headers={codec.DUPLICATE: "digest", "ce_id": "another"},
    )
    assert (out.headers[codec.DUPLICATE], out.headers["ce_id"]) == ("digest", "event-1")


def test_an_event_comes_back_as_it_was_with_what_its_headers_say() -> None:
    event, envelope = codec.decode(topics.DOCUMENT_UPDATE, stored(encoded()))
    assert event.model_dump(exclude={"v"}) == CHANGED.model_dump()
    assert envelope == codec.Envelope(
        "event-1", "bitbylaw.entity.changed", "ingest", "2026-03-08T12:30:15+00:00"
    )


def test_fields_of_a_newer_version_are_kept_and_the_version_stands_once() -> None:
    newer = b'{"v":9,"entity_type":"CDokumente","entity_id":"65f0c1d2","action":"update","rank":7}'
    event, _ = codec.decode(topics.DOCUMENT_UPDATE, stored(encoded(), value=newer))
    again = encoded(event).value
    assert again is not None
    assert json.loads(again)["rank"] == 7

    names = [name for name, _ in json.loads(again, object_pairs_hook=list)]
    assert len(names) == len(set(names))
    assert json.loads(again)["v"] == EntityChanged.version


class Nothing(Event):
    """An event that has nothing to say but that it happened."""

    type: ClassVar[str] = "toy.nothing"

    @property
    def key(self) -> str:
        return "nothing"


def test_an_event_without_fields_is_json_all_the_same() -> None:
    topic = topics.Topic("toy.nothing", Nothing, "toy", "it happened")
    out = codec.encode(topic, Nothing(), event_id="event-1", source="toy", now=NOW)
    assert out.value == b'{"v":1}'
    assert codec.decode_value(topic, out.value).key == "nothing"


def test_a_foreign_record_without_an_id_is_known_by_its_place() -> None:
    bare = Record("vmh.document.update", 3, 17, b"65f0c1d2", encoded().value)
    assert codec.decode(topics.DOCUMENT_UPDATE, bare)[1].event_id == "vmh.document.update:3:17"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "json_invalid"),
        (b"Geheim", "json_invalid"),
        (b'{"name":"Geheim"', "json_invalid"),
        (b"\xff\xfe", "json_invalid"),
        (b'["Geheim"]', "model_type"),
        (b'{"entity_type":"CDokumente","action":"update"}', "entity_id: missing"),
        (
            b'{"entity_type":"CDokumente","entity_id":"65f0c1d2","action":"Geheim"}',
            "action: literal_error",
        ),
        (b'{"entity_type":"CDokumente","entity_id":7,"action":"update"}', "entity_id: string_type"),
    ],
)
def test_what_fits_no_model_is_refused_by_field_and_kind_without_content(
    value: bytes, said: str
) -> None:
    with pytest.raises(DecodeError) as refused:
        codec.decode_value(topics.DOCUMENT_UPDATE, value)
    assert said in str(refused.value)
    assert "Geheim" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_tombstone_is_refused() -> None:
    with pytest.raises(DecodeError, match="no tombstones"):
        codec.decode(topics.DOCUMENT_UPDATE, Record("vmh.document.update", 0, 0, b"a", None))


@pytest.mark.parametrize("key", [None, b"", b"other", b"65f0c1d2 "])
def test_a_key_that_does_not_name_the_record_is_refused(key: bytes | None) -> None:
    bare = Record("vmh.document.update", 0, 0, key, encoded().value)
    with pytest.raises(DecodeError, match="the record's key does not name its document"):
        codec.decode(topics.DOCUMENT_UPDATE, bare)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_codec_do_anything_but_decode_or_refuse(value: bytes) -> None:
    known: tuple[topics.Topic[Any], ...] = (
        topics.DOCUMENT_UPDATE,
        topics.requests("document-sync"),
        topics.QUARANTINE,
    )
    for topic in known:
        try:
            event = codec.decode_value(topic, value)
        except DecodeError:
            continue
        assert isinstance(event, EntityChanged | RunRequested | Quarantined)


@given(st.text(min_size=1, max_size=64).filter(lambda text: text.isprintable()))
def test_any_id_survives_the_way(entity_id: str) -> None:
    event = CHANGED.model_copy(update={"entity_id": entity_id})
    found, _ = codec.decode(topics.DOCUMENT_UPDATE, stored(encoded(event)))
    assert found.entity_id == entity_id


def test_a_body_of_16_mib_is_stored_within_the_limit_of_its_topic() -> None:
    raw = base64.b64encode(bytes(16 * topics.MIB)).decode()
    entry = Quarantined(quarantine_id="q", route="/r", webhook_id="w", reason="no JSON", raw=raw)
    out = codec.encode(topics.QUARANTINE, entry, event_id="e", source="ingest", now=NOW)
    assert out.value is not None
    assert len(out.value) < topics.QUARANTINE.max_message_bytes


def test_ids_are_fresh() -> None:
    assert len({new_event_id() for _ in range(1_000)}) == 1_000
