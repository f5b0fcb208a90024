"""The work both sides get: events that say how long their handler shall sleep, drawn by a seed."""

import itertools
import random
from collections.abc import Iterator
from typing import Any, ClassVar

from bitbylaw_common.events import Event
from bitbylaw_common.kafka.codec import partition_of
from bitbylaw_common.topics import Topic


class ThingChanged(Event):
    """A thing changed; handling it takes `sleep_ms` milliseconds."""

    type: ClassVar[str] = "bench.thing.changed"
    thing: str
    number: int
    sleep_ms: int = 0

    @property
    def key(self) -> str:
        """The thing's name."""
        return self.thing

    @property
    def entity(self) -> str:
        """Everything here is a thing."""
        return "thing"


def topic(name: str) -> Topic[Any]:
    """Return a topic of things."""
    return Topic(name, ThingChanged, "bench", "things to handle")


def names(count: int, *, partition: int | None = None) -> list[str]:
    """Return the first `count` names of things, only of one partition when it is given."""
    all_names: Iterator[str] = (f"thing-{number}" for number in itertools.count())
    fitting = (
        name for name in all_names if partition is None or partition_of(name.encode()) == partition
    )
    return list(itertools.islice(fitting, count))


def even(
    records: int, *, keys: int, most_ms: int, partition: int | None = 0, seed: int = 7
) -> list[ThingChanged]:
    """Return events, each of a random key of the partition, with 0 to `most_ms` whole milliseconds."""
    chance = random.Random(seed)
    things = names(keys, partition=partition)
    return [
        ThingChanged(
            thing=chance.choice(things), number=number, sleep_ms=chance.randint(0, most_ms)
        )
        for number in range(records)
    ]


def skewed(
    records: int, *, keys: int, exponent: float, sleep_ms: int, seed: int = 7
) -> list[ThingChanged]:
    """Return events over all partitions whose keys are as unequal as Zipf's law says."""
    chance = random.Random(seed)
    things = names(keys)
    weights = [1 / rank**exponent for rank in range(1, keys + 1)]
    drawn = chance.choices(things, weights, k=records)
    return [
        ThingChanged(thing=thing, number=number, sleep_ms=sleep_ms)
        for number, thing in enumerate(drawn)
    ]
