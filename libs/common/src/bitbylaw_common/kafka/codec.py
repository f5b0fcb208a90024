"""Events to records and back (pure): CloudEvents 1.0 in binary mode, JSON values."""

import struct
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from bitbylaw_common.errors import DecodeError
from bitbylaw_common.events import Event
from bitbylaw_common.runtime.ports import Outgoing, Record
from bitbylaw_common.topics import PARTITIONS, Topic

E = TypeVar("E", bound=Event)

ORIGIN = "bbl-origin"
REASON = "bbl-reason"
REPLAY = "bbl-replay"
_VERSION = {"v"}
DUPLICATE = "bbl-dup"


class Envelope(NamedTuple):
    """What the headers say about an event.

    Attributes:
        event_id: the `ce_id`; for a foreign record without one, its place in the log.
        source: which service published it.
        time: when it was published, RFC 3339 as received.
        traceparent: the W3C trace it belongs to; empty when none.
        duplicate: digest that equal webhook items share; empty when it came otherwise.
    """

    event_id: str
    type: str = ""
    source: str = ""
    time: str = ""
    traceparent: str = ""
    duplicate: str = ""


def encode(
    topic: Topic[E],
    event: E,
    *,
    event_id: str,
    source: str,
    now: datetime,
    traceparent: str = "",
    headers: Mapping[str, str] | None = None,
) -> Outgoing:
    """Return the record of `event` on `topic`.

    Args:
        source: the publishing service's name.
        headers: added to the CloudEvents headers, which they cannot replace.
    """
    written = {
        **(headers or {}),
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_type": event.type,
        "ce_source": f"/bitbylaw/{source}",
        "ce_subject": event.key,
        "ce_time": now.isoformat(),
        "content-type": "application/json",
    }
    if traceparent:
        written["traceparent"] = traceparent
    # Written by pydantic in one go: a quarantined body of 16 MiB would block the loop for tenths of
    # a second on its way through a dict.
    # An event that was read carries its record's "v" among the fields kept; ours takes its place.
    body = event.__pydantic_serializer__.to_json(event, exclude_none=True, exclude=_VERSION)
    return Outgoing(
        topic.name,
        event.key.encode(),
        b'{"v":%d' % event.version + (b"," if body != b"{}" else b"") + body[1:],
        written,
    )


def decode(topic: Topic[E], record: Record) -> tuple[E, Envelope]:
    """Return the event and what its headers say.

    Raises:
        DecodeError: no value, no JSON, not the topic's model, or a key that does not name the
            event's entity (it would then be worked on in the wrong partition).
    """
    if record.value is None:
        raise DecodeError(
            f"{topic.name}: the record has no value, and this topic has no tombstones"
        )
    event = decode_value(topic, record.value)
    if record.key is None or record.key != event.key.encode():
        raise DecodeError(f"{topic.name}: the record's key does not name its {event.entity}")
    return event, envelope(record)


def decode_value(topic: Topic[E], value: bytes) -> E:
    """Return the event in `value`.

    Raises:
        DecodeError: it is no JSON, or not the topic's model. The text carries no content.
    """
    try:
        return topic.event.model_validate_json(value)
    except ValidationError as unfit:
        first = unfit.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "value"
        raise DecodeError(
            f"{topic.name}: {place}: {first['type']}, expected {topic.event.__name__}"
        ) from None


def envelope(record: Record) -> Envelope:
    """Return what the headers say; a record without an id is known by its place."""
    headers = record.headers
    return Envelope(
        event_id=headers.get("ce_id") or f"{record.topic}:{record.partition}:{record.offset}",
        type=headers.get("ce_type", ""),
        source=headers.get("ce_source", "").removeprefix("/bitbylaw/"),
        time=headers.get("ce_time", ""),
        traceparent=headers.get("traceparent", ""),
        duplicate=headers.get(DUPLICATE, ""),
    )


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int = PARTITIONS) -> int:
    """Return the partition of `key`, as Kafka's own default partitioner does (murmur2)."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 of `data`, as an unsigned number."""
    length = len(data)
    mix, mask = 0x5BD1E995, 0xFFFFFFFF
    value = (0x9747B28C ^ length) & mask
    whole = length - length % 4
    # Every new key of a service comes by here, so the loop does no more than it must.
    for word in struct.unpack(f"<{whole // 4}I", data[:whole]):
        part = word * mix & mask
        value = (value * mix ^ (part ^ part >> 24) * mix) & mask
    tail = data[whole:]
    if tail:
        value = (value ^ int.from_bytes(tail, "little")) * mix & mask
    value = (value ^ (value >> 13)) * mix & mask
    return value ^ (value >> 15)
