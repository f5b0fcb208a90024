"""Appending to Kafka: many records at once, in their order, each where it is said to be."""

import asyncio

import pytest

from bitbylaw_common.errors import RecordRefused
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.ports import Outgoing, Position
from bitbylaw_common.topics import Topic

pytestmark = pytest.mark.kafka

NARROW = Topic(
    "test.append.narrow",
    EntityChanged,
    "test",
    "takes less than a batch may hold",
    max_message_bytes=100_000,
)
MANY = Topic("test.append.many", EntityChanged, "test", "takes what is appended")


def record(topic: Topic[EntityChanged], number: int, size: int, partition: int) -> Outgoing:
    value = f"{number}:".encode().ljust(size, b".")
    return Outgoing(topic.name, f"k{number}".encode(), value, {"n": str(number)}, partition)


async def test_many_records_lie_where_the_append_says_in_their_order(kafka_bootstrap: str) -> None:
    connect = {"bootstrap_servers": kafka_bootstrap}
    async with admin(connect) as kafka:
        await kafka.apply([MANY])
    # given records that fill several batches of some partitions, and one alone in its own
    sizes = (40, 900, 20_000, 300)
    given = [record(MANY, n, sizes[n % 4], n % 3) for n in range(400)]
    given.append(record(MANY, 400, 50, 7))

    async with KafkaLog(connect, service="test") as log:
        positions = await log.append(given)
        stored = {
            Position(found.topic, found.partition, found.offset): found
            async for found in log.read({(MANY.name, number): 0 for number in range(12)})
        }

    assert log.bytes_waiting == 0
    for sent, position in zip(given, positions, strict=True):
        found = stored[position]
        assert (found.key, found.value, found.headers) == (sent.key, sent.value, sent.headers)
    for number in (0, 1, 2):
        offsets = [p.offset for p in positions if p.partition == number]
        assert offsets == sorted(offsets)


async def test_a_record_that_the_broker_refuses_holds_up_nothing_that_is_appended_later(
    kafka_bootstrap: str,
) -> None:
    connect = {"bootstrap_servers": kafka_bootstrap}
    async with admin(connect) as kafka:
        await kafka.apply([NARROW])
    async with KafkaLog(connect, service="test") as log:
        # given a partition whose log goes on without what the broker found too large
        await log.append([record(NARROW, 0, 60, 4)])
        with pytest.raises(RecordRefused, match="by the broker's own limit"):
            await log.append([record(NARROW, n, 200_000 if n == 2 else 60, 4) for n in (1, 2)])

        # when more is appended, also many at once
        await log.append([record(NARROW, 3, 60, 4)])
        await asyncio.gather(*(log.append([record(NARROW, n, 60, 4)]) for n in range(4, 24)))

        stored = [found.key async for found in log.read({(NARROW.name, 4): 0})]
    assert {*stored} == {f"k{n}".encode() for n in range(24) if n != 2}
    assert len(stored) == 23
    assert log.bytes_waiting == 0
