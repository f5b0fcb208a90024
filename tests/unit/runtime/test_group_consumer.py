"""What a member makes of aiokafka's callbacks, without a broker."""

from collections.abc import Mapping

from aiokafka import TopicPartition

from bitbylaw_common.kafka.consumer import _Listener
from bitbylaw_common.runtime.offsets import Commit


class Host:
    """Notes what it is told; raises where a test wants it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[tuple[str, frozenset[int]]] = []
        self.broken: list[Exception] = []
        self._error = error

    async def assigned(
        self, numbers: frozenset[int], commits: Mapping[tuple[str, int], Commit]
    ) -> None:
        assert not commits
        if self._error is not None:
            raise self._error
        self.told.append(("assigned", numbers))

    async def revoked(self, numbers: frozenset[int]) -> None:
        if self._error is not None:
            raise self._error
        self.told.append(("revoked", numbers))

    def listener(self) -> _Listener:
        return _Listener(("a", "b"), self.assigned, self.revoked, self.broken.append)


def places(*pairs: tuple[str, int]) -> set[TopicPartition]:
    return {TopicPartition(topic, number) for topic, number in pairs}


async def test_a_number_counts_only_where_it_is_owned_in_every_topic() -> None:
    host = Host()
    listener = host.listener()
    await listener.on_partitions_assigned(places(("a", 1), ("a", 2), ("b", 2)))
    await listener.on_partitions_revoked(places(("a", 1), ("a", 2), ("b", 2)))
    assert host.told == [("assigned", frozenset({2})), ("revoked", frozenset({2}))]


async def test_a_member_without_partitions_is_told_so_and_is_ready() -> None:
    host = Host()
    await host.listener().on_partitions_assigned(set())
    assert host.told == [("assigned", frozenset())]


async def test_what_a_callback_raises_is_told_and_not_swallowed() -> None:
    error = RuntimeError("the state could not be loaded")
    host = Host(error)
    listener = host.listener()
    await listener.on_partitions_assigned(places(("a", 1), ("b", 1)))
    await listener.on_partitions_revoked(places(("a", 1), ("b", 1)))
    assert host.broken == [error, error]


async def test_each_rebalance_is_a_generation_of_its_own() -> None:
    host = Host()
    listener = host.listener()
    before = listener.generation
    await listener.on_partitions_revoked(set())
    await listener.on_partitions_assigned(set())
    assert listener.generation == before + 1
