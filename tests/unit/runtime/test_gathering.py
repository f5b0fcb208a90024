"""Appends of many that go to Kafka as one: who gets what, and what befalls one befalls no other."""

import asyncio
from collections.abc import Sequence

import pytest

from bitbylaw_common.errors import LogUnavailableError, RecordRefused
from bitbylaw_common.runtime.gathering import Gathering
from bitbylaw_common.runtime.ports import Outgoing, Position
from bitbylaw_common.topics import JOURNAL, longest_value


class Shelf:
    """Takes appends, and can be away."""

    def __init__(self) -> None:
        self.taken: list[list[bytes]] = []
        self.away = False

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        if self.away:
            raise LogUnavailableError("the broker is away")
        self.taken.append([record.key for record in records])
        return [Position(record.topic, 0, int(record.key)) for record in records]


def record(number: int, size: int = 1) -> Outgoing:
    return Outgoing(JOURNAL.name, b"%d" % number, b"v" * size, {}, 0)


async def test_appends_within_a_moment_are_one_and_each_learns_its_own_positions() -> None:
    shelf = Shelf()
    gathering = Gathering(shelf, 0.01)
    found = await asyncio.gather(
        gathering.append([record(1), record(2)]),
        gathering.append([]),
        gathering.append([record(3)]),
    )
    assert [[place.offset for place in places] for places in found] == [[1, 2], [], [3]]
    assert shelf.taken == [[b"1", b"2", b"3"]]
    await gathering.append([record(4)])
    assert shelf.taken[1:] == [[b"4"]]


async def test_what_kafka_does_not_take_is_told_to_everybody_and_the_next_goes_on() -> None:
    shelf = Shelf()
    gathering = Gathering(shelf, 0.01)
    shelf.away = True
    told = await asyncio.gather(
        *(gathering.append([record(n)]) for n in range(3)), return_exceptions=True
    )
    assert [type(one) for one in told] == [LogUnavailableError] * 3
    shelf.away = False
    assert len(await gathering.append([record(4)])) == 1


async def test_a_record_that_is_too_large_is_its_own_sender_s_trouble() -> None:
    shelf = Shelf()
    gathering = Gathering(shelf, 0.01)
    large, small = await asyncio.gather(
        gathering.append([record(1, longest_value(JOURNAL.name) + 1)]),
        gathering.append([record(2)]),
        return_exceptions=True,
    )
    assert isinstance(large, RecordRefused)
    assert isinstance(small, list)
    assert shelf.taken == [[b"2"]]


async def test_who_is_cancelled_while_it_waits_takes_nobody_along() -> None:
    shelf = Shelf()
    gathering = Gathering(shelf, 0.01)
    given_up = asyncio.create_task(gathering.append([record(1)]))
    other = asyncio.create_task(gathering.append([record(2)]))
    await asyncio.sleep(0)
    given_up.cancel()
    (place,) = await asyncio.wait_for(other, 5)
    assert place.offset == 2
    assert given_up.cancelled()
    assert shelf.taken == [[b"1", b"2"]]


@pytest.mark.parametrize("count", [1, 7])
async def test_one_moment_gathers_however_many_there_are(count: int) -> None:
    shelf = Shelf()
    gathering = Gathering(shelf, 0.01)
    await asyncio.gather(*(gathering.append([record(n)]) for n in range(count)))
    assert [len(taken) for taken in shelf.taken] == [count]
